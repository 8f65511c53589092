//! Platforms: the machines an image was made for, and which of several images suits this host.

use banger_proto::name::PlatformName;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Operating system, processor and, for some processors, its variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    /// Operating system: `linux`.
    pub os: String,
    /// Processor, by Go's name: `amd64`, `arm64`.
    pub architecture: String,
    /// Variant: `v7`, `v8`.
    pub variant: Option<String>,
}

/// Error: the text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: write one such as linux/amd64 or linux/arm/v7")]
pub struct InvalidPlatform(String);

/// Longest part, in characters.
const MAX_PART: usize = 32;

impl Platform {
    /// Returns the platform of this host.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Returns the platform a registry or an image declares, truncated, and with only characters that can be parsed
    /// again.
    pub(super) fn declared(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let letter = |c: char| if is_letter(c.to_ascii_lowercase()) { c.to_ascii_lowercase() } else { '_' };
        let part = |text: &str| text.chars().take(MAX_PART).map(letter).collect::<String>();
        let variant = variant.filter(|variant| !variant.is_empty()).map(part);
        Self::by_gos_names(part(os), &part(architecture), variant)
    }

    /// Returns the platform with its processor by Go's name, where it is called as `uname -m` or Debian calls it: what
    /// containerd, and so Docker, reads these names as.
    fn by_gos_names(os: String, architecture: &str, variant: Option<String>) -> Self {
        let (name, implied) = match architecture {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "i386" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            other => (other, None),
        };
        Self { os, architecture: name.to_owned(), variant: variant.or_else(|| implied.map(str::to_owned)) }
    }

    /// Whether the image or index declares no operating system or no processor.
    pub(super) fn is_undeclared(&self) -> bool {
        self.os.is_empty() || self.architecture.is_empty()
    }

    /// Returns the processor as `uname -m` names it.
    pub fn machine(&self) -> &str {
        match self.architecture.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            "386" => "i686",
            other => other,
        }
    }

    /// Returns how well this platform serves the one asked for: 0 not at all, more is better.
    pub(crate) fn serves(&self, asked: &Self) -> u8 {
        if self.os != asked.os || self.architecture != asked.architecture {
            return 0;
        }
        // The only variant of arm64 has a name that many omit.
        let kind = |platform: &Self| match (platform.architecture.as_str(), platform.variant.as_deref()) {
            ("arm64", Some("v8")) | ("amd64", Some("v1")) => None,
            (_, variant) => variant.map(str::to_owned),
        };
        match (kind(self), kind(asked)) {
            (None, None) => 3,
            (Some(ours), Some(theirs)) if ours == theirs => 3,
            (None, Some(_)) => 2,
            // Made for better processors than the baseline.
            (Some(_), None) => 1,
            (Some(_), Some(_)) => 0,
        }
    }
}

/// Whether a part may contain the character.
fn is_letter(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(text.chars().take(80).collect());
        text.parse::<PlatformName>().map_err(|_| invalid())?;
        let (os, rest) = text.split_once('/').ok_or_else(invalid)?;
        let (architecture, variant) = match rest.split_once('/') {
            Some((architecture, variant)) => (architecture, Some(variant)),
            None => (rest, None),
        };
        Ok(Self::by_gos_names(os.into(), architecture, variant.map(Into::into)))
    }
}

impl TryFrom<String> for Platform {
    type Error = InvalidPlatform;

    fn try_from(text: String) -> Result<Self, InvalidPlatform> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

/// Formats platforms for an error.
pub(super) fn listed(platforms: &[Platform]) -> String {
    const MAX: usize = 12;
    if platforms.is_empty() {
        return "none".to_owned();
    }
    let more = if platforms.len() > MAX { ", …" } else { "" };
    platforms.iter().take(MAX).map(ToString::to_string).collect::<Vec<_>>().join(", ") + more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn the_best_that_runs() {
        for (offered, asked, serves) in [
            ("linux/amd64", "linux/amd64", 3),
            ("linux/x86_64", "linux/amd64", 3),
            ("linux/arm64", "linux/aarch64", 3),
            ("linux/armhf", "linux/arm/v7", 3),
            ("linux/armel", "linux/arm/v7", 0),
            ("linux/amd64/v3", "linux/amd64", 1),
            ("linux/arm64/v8", "linux/arm64", 3),
            ("linux/arm/v6", "linux/arm/v7", 0),
            ("linux/arm", "linux/arm/v7", 2),
            ("windows/amd64", "linux/amd64", 0),
            ("linux/s390x", "linux/amd64", 0),
        ] {
            assert_eq!(platform(offered).serves(&platform(asked)), serves, "{offered} for {asked}");
        }
    }

    #[test]
    fn what_is_none() {
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "Linux/amd64", "linux/amd 64", "a/b/"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_an_image_says_can_be_read_again() {
        for (os, architecture, variant, is) in [
            ("linux", "amd64", Some("v8.2-A"), "linux/amd64/v8_2_a"),
            ("Linux", "AMD64", Some(""), "linux/amd64"),
            ("li\u{1b}nux", "a/b", Some("\u{e9}\n"), "li_nux/a_b/__"),
            ("linux", &"x".repeat(99), None, &format!("linux/{}", "x".repeat(32))),
        ] {
            let declared = Platform::declared(os, architecture, variant);
            assert_eq!(declared.to_string(), is);
            assert_eq!(is.parse(), Ok(declared));
        }
    }
}
