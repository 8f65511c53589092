//! Entries in the JSON of a catalog, and their validation.

use super::{
    super::bundle::{Bundle, MAX_BUNDLE},
    CatalogEntry, EntryError, Source, SourceError,
};
use banger_proto::name::KernelName;
use serde::Deserialize;

/// Most sources of one entry.
const MAX_SOURCES: usize = 16;

#[derive(Deserialize)]
pub(super) struct RawEntry {
    name: String,
    distro: String,
    arch: String,
    kernel_version: String,
    #[serde(default)]
    description: String,
    sources: Vec<RawSource>,
}

#[derive(Deserialize)]
struct RawSource {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    package: String,
    #[serde(default)]
    kernel: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    sha256: String,
    #[serde(default)]
    size: u64,
}

impl RawEntry {
    /// Validates the entry.
    pub(super) fn checked(self) -> Result<CatalogEntry, EntryError> {
        let name: KernelName = self.name.parse()?;
        let bad = |field, value: &str| EntryError::Value {
            name: name.clone(),
            field,
            value: value.chars().take(80).collect(),
        };
        // `<family>-<major.minor>`: a name that promises no version could mean any kernel tomorrow.
        if !name.as_str().rsplit_once('-').is_some_and(|(_, version)| is_major_minor(version)) {
            return Err(bad("name", name.as_str()));
        }
        let word = |text: &str| {
            (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+~-".contains(&b))
        };
        for (field, value) in [("distro", &self.distro), ("arch", &self.arch), ("kernel_version", &self.kernel_version)]
        {
            if !word(value) {
                return Err(bad(field, value));
            }
        }
        if self.description.len() > 500 || self.description.contains(char::is_control) {
            return Err(bad("description", &self.description));
        }
        if self.sources.is_empty() || self.sources.len() > MAX_SOURCES {
            return Err(bad("sources", &format!("{} of them", self.sources.len())));
        }
        let sources = self.sources.into_iter().map(|source| match source.kind.as_str() {
            "bundle" if !is_sha256(&source.sha256) => Err(bad("sha256", &source.sha256)),
            "bundle" if !(1..=MAX_BUNDLE).contains(&source.size) => Err(bad("size", &source.size.to_string())),
            "bundle" => match source.url.parse() {
                Ok(address) => Ok(Source::Bundle(Bundle { address, sha256: source.sha256, size: source.size })),
                Err(reason) => Err(EntryError::Url {
                    name: name.clone(),
                    url: source.url.chars().take(200).collect(),
                    source: reason,
                }),
            },
            "apt" if !is_package(&source.package) => Err(bad("package", &source.package)),
            "apt" if !is_major_minor(&source.kernel) => Err(bad("kernel", &source.kernel)),
            "apt" => Ok(Source::Apt { package: source.package, kernel: source.kernel }),
            other => Ok(Source::Unusable(SourceError { kind: other.chars().take(80).collect() })),
        });
        let sources = sources.collect::<Result<_, _>>()?;
        Ok(CatalogEntry {
            sources,
            name,
            distro: self.distro,
            arch: self.arch,
            kernel_version: self.kernel_version,
            description: self.description,
        })
    }
}

/// 64 small hexadecimal digits.
fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `6.1`: two plain numbers.
fn is_major_minor(text: &str) -> bool {
    let number = |part: &str| (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    text.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor))
}

/// A Debian package name (Debian policy 5.6.7), and so never an option of a program it is given to.
pub(in crate::kernel) fn is_package(text: &str) -> bool {
    (2..=200).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b))
}
