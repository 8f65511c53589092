//! Names and ids: those a user types and those banger generates.
//!
//! A name is checked once, where it enters (clap, serde): a [`VmName`] is always valid text. Nothing is ever
//! normalised, so a name is stored as it was typed.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Error of parsing a name or id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {text:?}: {rule}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// Longest part of a refused name repeated in the error, in characters.
const SHOWN: usize = 80;

macro_rules! checked_text {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName { what: $what, text: text.chars().take(SHOWN).collect(), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

checked_text!(
    /// A VM's name, also its host name and the first label of `<name>.vm` (RFC 1123 label, lower case only).
    VmName,
    "VM name",
    "1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'",
    |s| {
        (1..=63).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.starts_with('-')
            && !s.ends_with('-')
    }
);

checked_text!(
    /// A network's name: VMs on the same one reach each other.
    NetworkName,
    "network name",
    "1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'",
    |s| s.parse::<VmName>().is_ok()
);

checked_text!(
    /// A kernel's name, also the name of its directory: `<family>-<major.minor>`, such as `debian-6.1`.
    KernelName,
    "kernel name",
    "1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', beginning with a letter or digit, without '..'",
    |s| is_file_name(s, 64)
);

checked_text!(
    /// An image's name: a catalog name (`debian-bookworm`) or a familiar OCI reference (`alpine:3.20`,
    /// `registry.local:5000/team/app:v1`). It is never used as a path.
    ImageName,
    "image name",
    "1 to 255 of a-z, A-Z, 0-9 and './_:@-', beginning with a letter or digit",
    |s| {
        (1..=255).contains(&s.len())
            && s.as_bytes()[0].is_ascii_alphanumeric()
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"./_:@-".contains(&b))
    }
);

checked_text!(
    /// Platform an image is for: operating system, architecture in Go's naming, optional variant.
    PlatformName,
    "platform",
    "write one such as linux/amd64 or linux/arm/v7",
    |s| {
        let good = |part: &str| {
            (1..=32).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        (2..=3).contains(&s.split('/').count()) && s.split('/').all(good)
    }
);

checked_text!(
    /// Release of Debian, as its archive calls it.
    DebianSuite,
    "suite",
    "2 to 32 of a-z, such as bookworm",
    |s| (2..=32).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_lowercase())
);

checked_text!(
    /// A VM's id: 12 lower-case hexadecimal digits, unique in one state directory, never reused.
    VmId,
    "VM id",
    "12 lower-case hexadecimal digits",
    |s| is_hex(s, 12)
);

checked_text!(
    /// An image's id: the first 16 hexadecimal digits of its digest (BLAKE3; SHA-256 of an older or a registered one).
    ImageId,
    "image id",
    "16 lower-case hexadecimal digits",
    |s| is_hex(s, 16)
);

checked_text!(
    /// Id of one daemon operation; it is in the error and in every log line about it.
    OperationId,
    "operation id",
    "8 lower-case hexadecimal digits",
    |s| is_hex(s, 8)
);

/// One component that is safe as a file name: no separator, no leading dot, no `..`, nothing a shell or a path
/// could read as more than text.
fn is_file_name(s: &str, max: usize) -> bool {
    (1..=max).contains(&s.len())
        && s.as_bytes()[0].is_ascii_alphanumeric()
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !s.contains("..")
}

fn is_hex(s: &str, len: usize) -> bool {
    s.len() == len && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names() {
        for good in ["a", "0", "demo", "a-b", &"x".repeat(63)] {
            assert!(good.parse::<VmName>().is_ok(), "{good}");
        }
        for bad in ["", "-x", "x-", "..", "A", "a.b", "a/b", "é", "a b", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kernel_names_are_safe_file_names() {
        for good in ["debian-6.1", "generic-6.12", "x"] {
            assert!(good.parse::<KernelName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".x", "a/b", "a..b", "-x", "a\0b"] {
            assert!(bad.parse::<KernelName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn platforms_and_suites() {
        for good in ["linux/amd64", "linux/arm/v7", "a/b", "linux/x86_64"] {
            assert!(good.parse::<PlatformName>().is_ok(), "{good}");
        }
        let long = format!("linux/{}", "x".repeat(33));
        let bad = ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "Linux/amd64", "linux/amd 64", "a/b/", &long];
        for bad in bad {
            assert!(bad.parse::<PlatformName>().is_err(), "{bad:?}");
        }
        assert!("bookworm".parse::<DebianSuite>().is_ok());
        for bad in ["", "x", "-rf", "book worm", "bookworm/main", "BOOKWORM", &"x".repeat(33)] {
            assert!(bad.parse::<DebianSuite>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refused_name_is_quoted_and_cut() {
        let error = "x".repeat(5000).parse::<VmName>().unwrap_err().to_string();
        assert!(error.len() < 300, "{}", error.len());
        assert!("\u{1b}[31m".parse::<VmName>().unwrap_err().to_string().contains("\\u{1b}"));
    }

    #[test]
    fn serde_checks_too() {
        assert!(serde_json::from_str::<VmName>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<VmName>("\"Not Ok\"").is_err());
    }
}
