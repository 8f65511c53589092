//! Parses apt's package records and tells which packages are kernels.

use super::{
    super::{catalog::is_package, deb::field},
    AptError,
};

/// A package in the host's signed lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kernel) struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file, hexadecimal.
    pub sha256: String,
    /// Length of its file in bytes.
    pub size: u64,
}

/// Extracts the kernel packages of a `Depends` field, each with its exact version if one is required.
pub(super) fn kernels_in(depends: &str) -> Vec<(String, Option<String>)> {
    let mut kernels: Vec<(String, Option<String>)> = Vec::new();
    for dependency in depends.split([',', '|']) {
        let (name, constraint) = match dependency.split_once('(') {
            Some((name, constraint)) => (name, constraint.trim().trim_end_matches(')')),
            None => (dependency, ""),
        };
        let name = name.trim().split(':').next().unwrap_or_default();
        let version = constraint.strip_prefix('=').map(str::trim).filter(|version| is_version(version));
        if is_kernel(name) && is_package(name) && !kernels.iter().any(|(known, _)| known == name) {
            kernels.push((name.to_owned(), version.map(str::to_owned)));
        }
    }
    kernels
}

/// Whether the name is that of a kernel package: `linux-image-6.1.0-56-cloud-amd64`, `linux-image-unsigned-6.8.0-31-x`.
pub(super) fn is_kernel(package: &str) -> bool {
    package
        .strip_prefix("linux-image-")
        .map(|rest| rest.strip_prefix("unsigned-").unwrap_or(rest))
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.ends_with("-dbg"))
}

/// Whether `text` is a Debian version (Debian policy 5.6.12).
fn is_version(text: &str) -> bool {
    (1..=200).contains(&text.len())
        && text.as_bytes()[0].is_ascii_digit()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-:~".contains(&b))
}

/// Whether a Debian version (`[epoch:]upstream[-revision]`) is of the kernel `wanted` (`major.minor`).
pub(super) fn has_major_minor(version: &str, wanted: &str) -> bool {
    let upstream = version.split_once(':').map_or(version, |(_, upstream)| upstream);
    upstream.strip_prefix(wanted).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Parses the fields of `record` into a [`Package`].
pub(super) fn described(package: &str, record: &str) -> Result<Package, AptError> {
    let missing = |field| AptError::Answer { package: package.to_owned(), field };
    let get = |name: &'static str| field(record, name).ok_or_else(|| missing(name));
    let version = get("Version")?;
    let sha256 = get("SHA256")?;
    if get("Package")? != package || !is_version(version) {
        return Err(missing("Version"));
    }
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(missing("SHA256"));
    }
    Ok(Package {
        name: package.to_owned(),
        version: version.to_owned(),
        sha256: sha256.to_ascii_lowercase(),
        size: get("Size")?.parse().map_err(|_| missing("Size"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_leads_to_the_kernels_it_names() {
        let found = |depends| kernels_in(depends).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            kernels_in("linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)"),
            [("linux-image-6.1.0-56-cloud-amd64".to_owned(), Some("6.1.192-2".to_owned()))]
        );
        assert_eq!(
            found("kmod, linux-image-6.8.0-31-generic | linux-image-unsigned-6.8.0-31-generic, linux-modules-6.8.0"),
            ["linux-image-6.8.0-31-generic", "linux-image-unsigned-6.8.0-31-generic"]
        );
        assert_eq!(found("linux-image-amd64, linux-image-6.1.0-56-amd64-dbg, linux-image--o, x"), [""; 0]);
        assert_eq!(found("linux-image-6.1:any (>= 1), linux-image-6.1"), ["linux-image-6.1"]);
    }

    #[test]
    fn only_the_wanted_kernel_is_taken() {
        for (version, fits) in [
            ("6.1.192-2", true),
            ("1:6.1-1", true),
            ("6.1~rc1-1", true),
            ("6.12.1-1", false),
            ("6.10-1", false),
            ("5.10.0-6.1", false),
            ("6", false),
        ] {
            assert_eq!(has_major_minor(version, "6.1"), fits, "{version}");
        }
    }

    #[test]
    fn apts_record_is_checked() {
        let record = format!("Package: linux-image-6.1\nVersion: 6.1.5-1\nSize: 1000\nSHA256: {}\n", "A".repeat(64));
        let package = described("linux-image-6.1", &record).unwrap();
        assert_eq!((package.size, package.sha256), (1000, "a".repeat(64)));
        for (from, to) in [("Package: linux", "Package: x"), ("6.1.5-1", "-o x"), ("1000", "-1"), ("AAAA", "")] {
            assert!(described("linux-image-6.1", &record.replace(from, to)).is_err(), "{to}");
        }
    }
}
