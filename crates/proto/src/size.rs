//! Sizes as people write them: `4G`, `4GiB`, `512MiB`, `512M`, `4KiB`; a bare number is MiB.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A number of bytes. On the wire it is a plain number of bytes; on a command line it has a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = u64))]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Error of parsing a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid size {text:?}: write a whole number with K, M, G or T (a bare number is MiB), such as 512M or 4GiB")]
pub struct InvalidSize {
    text: String,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

impl ByteSize {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n * MIB)
    }

    /// `n` gibibytes.
    pub const fn gib(n: u64) -> Self {
        Self(n * GIB)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whole mebibytes, rounded down.
    pub const fn as_mib(self) -> u64 {
        self.0 / MIB
    }
}

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let error = || InvalidSize { text: text.chars().take(40).collect() };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.to_ascii_lowercase().as_str() {
            "b" => 1,
            "k" | "kib" => KIB,
            "" | "m" | "mib" => MIB,
            "g" | "gib" => GIB,
            "t" | "tib" => TIB,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit in which the number is whole or has at most one decimal: `8 GiB`, `1.5 GiB`, `700 B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            n if n >= TIB => (TIB, "TiB"),
            n if n >= GIB => (GIB, "GiB"),
            n if n >= MIB => (MIB, "MiB"),
            n if n >= KIB => (KIB, "KiB"),
            n => return f.pad(&format!("{n} B")),
        };
        let tenths = u128::from(self.0) * 10 / u128::from(unit);
        let text = match tenths % 10 {
            0 => format!("{} {name}", tenths / 10),
            rest => format!("{}.{rest} {name}", tenths / 10),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("4G", 4 * GIB),
            ("4GiB", 4 * GIB),
            ("512MiB", 512 * MIB),
            ("512M", 512 * MIB),
            ("4KiB", 4 * KIB),
            ("256", 256 * MIB),
            ("1t", TIB),
            ("7b", 7),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "G", "-1", "+1", "1.5G", "1GB", "99999999999999999999", "18446744073709551615G", "1 G", "0x1"]
        {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn shows_the_largest_unit() {
        for (bytes, text) in
            [(0, "0 B"), (8 * GIB, "8 GiB"), (GIB + GIB / 2, "1.5 GiB"), (1023, "1023 B"), (u64::MAX, "16777215.9 TiB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
