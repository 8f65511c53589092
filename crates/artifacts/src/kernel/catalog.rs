//! Catalogs of kernels.
//!
//! A source this banger cannot use does not invalidate its entry: it is kept with the reason, so that a pull that finds
//! no other source can report it.

mod entry;

use super::bundle::Bundle;
use crate::{catalog, fetch::AddressError};
use banger_proto::name::{InvalidName, KernelName};
use entry::RawEntry;

pub(super) use entry::is_package;

/// Kernels by name.
pub type Catalog = catalog::Catalog<CatalogEntry>;
/// Why a catalog of kernels is refused.
pub type CatalogError = catalog::CatalogError<EntryError>;

/// One kernel that can be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// `<family>-<major.minor>`.
    pub name: KernelName,
    /// Distribution that makes it.
    pub distro: String,
    /// Architecture, as printed by `uname -m`.
    pub arch: String,
    /// The version, as far as the name fixes it.
    pub kernel_version: String,
    /// Description for a person.
    pub description: String,
    /// Sources, best first.
    pub sources: Vec<Source>,
}

/// Source of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A distribution's package, downloaded by the host's apt.
    Apt {
        /// Package that contains the kernel or depends on it.
        package: String,
        /// Required `major.minor`.
        kernel: String,
    },
    /// A bundle on a web server.
    Bundle(Bundle),
    /// A source this banger cannot use.
    Unusable(SourceError),
}

/// Why a source cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this version of banger has no use for a source of type {kind:?}")]
pub struct SourceError {
    /// The source's type, cut.
    pub kind: String,
}

/// Error of an entry that is refused, and its catalog with it.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// A name is invalid.
    #[error("the catalog has a bad entry")]
    Name(#[from] InvalidName),
    /// A field is invalid.
    #[error("entry {name} of the catalog has a bad {field}: {value:?}")]
    Value {
        /// The entry.
        name: KernelName,
        /// The field.
        field: &'static str,
        /// The value, cut.
        value: String,
    },
    /// An address is not allowed.
    #[error("entry {name} of the catalog has an unusable url {url:?}")]
    Url {
        /// The entry.
        name: KernelName,
        /// The address, cut.
        url: String,
        /// Cause.
        source: AddressError,
    },
}

impl Catalog {
    /// The catalog this banger was built with.
    pub fn builtin() -> Self {
        Self::parse(include_bytes!("../../catalogs/kernels.json")).expect("a test reads the built-in catalog")
    }
}

impl catalog::Entry for CatalogEntry {
    const OF: &'static str = "kernel";
    type Name = KernelName;
    type Refusal = EntryError;

    fn all(json: &[u8]) -> Result<Vec<Self>, CatalogError> {
        catalog::raw::<RawEntry>(json)?.into_iter().map(|raw| raw.checked().map_err(CatalogError::Entry)).collect()
    }

    fn name(&self) -> &KernelName {
        &self.name
    }

    fn arch(&self) -> &str {
        &self.arch
    }
}

impl CatalogEntry {
    /// Returns the first bundle among the sources, if there is one.
    pub fn bundle(&self) -> Option<&Bundle> {
        self.sources.iter().find_map(|source| match source {
            Source::Bundle(bundle) => Some(bundle),
            Source::Apt { .. } | Source::Unusable(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn entry() -> Value {
        json!({"name": "debian-6.1", "distro": "debian", "arch": "x86_64", "kernel_version": "6.1", "description": "x",
               "sources": [{"type": "apt", "package": "linux-image-cloud-amd64", "kernel": "6.1"}]})
    }

    fn parse(entries: &[Value]) -> Result<Catalog, CatalogError> {
        Catalog::parse(&serde_json::to_vec(&json!({"version": 1, "entries": entries})).unwrap())
    }

    #[test]
    fn the_built_in_catalog_is_sound() {
        let catalog = Catalog::builtin();
        let debian = catalog.find(&"debian-6.1".parse().unwrap(), "x86_64").unwrap();
        assert_eq!(debian.sources, [Source::Apt { package: "linux-image-cloud-amd64".into(), kernel: "6.1".into() }]);
        assert!(catalog.find(&"debian-6.1".parse().unwrap(), "riscv64").is_none());
        assert!(catalog.find(&"debian-6.2".parse().unwrap(), "x86_64").is_none());
    }

    #[test]
    fn an_unknown_source_is_kept_with_its_reason() {
        let mut with_unknown = entry();
        with_unknown["sources"] = json!([{"type": "carrier-pigeon", "ring": 7}, {"type": "apt", "package": "linux-image-x", "kernel": "6.1"}]);
        with_unknown["logo"] = json!("penguin");
        let catalog = parse(&[with_unknown]).unwrap();
        let [Source::Unusable(reason), Source::Apt { .. }] = &catalog.entries()[0].sources[..] else {
            panic!("{catalog:?}")
        };
        assert!(reason.to_string().contains("\"carrier-pigeon\""));
    }

    #[test]
    fn bad_entries_are_refused_with_their_field() {
        for (pointer, value) in [
            ("/name", json!("../etc")),
            ("/name", json!("debian")),
            ("/name", json!("debian-6")),
            ("/name", json!("debian-6.x")),
            ("/distro", json!("")),
            ("/arch", json!("x 86")),
            ("/kernel_version", json!("6.1\n")),
            ("/description", json!("\u{1b}[31m")),
            ("/sources", json!([])),
            ("/sources/0/package", json!("-o")),
            ("/sources/0/package", json!("a b")),
            ("/sources/0/package", json!("")),
            ("/sources/0/kernel", json!("6")),
            ("/sources/0/kernel", json!("6.1.5")),
        ] {
            let mut bad = entry();
            *bad.pointer_mut(pointer).unwrap() = value;
            assert!(parse(&[bad.clone()]).is_err(), "{bad}");
        }
        assert!(matches!(parse(&[entry(), entry()]), Err(CatalogError::Duplicate(_))));
        let mut other = entry();
        other["arch"] = json!("aarch64");
        assert!(parse(&[entry(), other]).is_ok());
    }
}
