//! Files in `certs.d/HOST[:PORT]/`: Docker's and Podman's certificates for one registry.
//!
//! `*.crt` are authorities to trust, and `NAME.cert` with `NAME.key` are a certificate to show. Whatever else is meant
//! by a file, and whatever cannot be read, does not stand in the way of registries that do without it.

use crate::fetch::{PassedOver, Trust};
use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

/// Upper bound of the files in one directory that are looked at.
const MAX_FILES: usize = 256;

/// Files for one registry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    /// Authorities to trust.
    authorities: Vec<PathBuf>,
    /// Certificates to show, with their keys.
    clients: Vec<(PathBuf, PathBuf)>,
    passed_over: Vec<PassedOver>,
}

impl Certificates {
    /// Finds the files for `registry` in directories with one directory per registry.
    pub(super) fn of(directories: &[PathBuf], registry: &str) -> Self {
        let mut found = Self::default();
        // A token service has whatever name a registry gives it.
        if matches!(registry, "" | "." | "..") || registry.contains('/') {
            return found;
        }
        for directory in directories {
            found.add(&directory.join(registry));
        }
        found
    }

    /// Whether there is anything that only TLS has a use for.
    pub(super) fn want_tls(&self) -> bool {
        !self.authorities.is_empty() || !self.clients.is_empty()
    }

    /// Reads the files.
    pub(super) fn read(self) -> Trust {
        let trust = Trust::of_host(&self.authorities);
        let trust = self.clients.iter().fold(trust, |trust, (certificate, key)| trust.client(certificate, key));
        self.passed_over.into_iter().fold(trust, Trust::without)
    }

    fn add(&mut self, directory: &Path) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return,
            Err(error) => {
                return self.passed_over.push(PassedOver::new(directory, format!("it cannot be read: {error}")));
            }
        };
        let mut paths: Vec<PathBuf> = entries.take(MAX_FILES).filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in &paths {
            let beside = |extension: &str| Some(path.with_extension(extension)).filter(|other| paths.contains(other));
            let unfit = match path.extension().and_then(OsStr::to_str) {
                Some("crt") => {
                    self.authorities.push(path.clone());
                    continue;
                }
                Some("cert") => {
                    if let Some(key) = beside("key") {
                        self.clients.push((path.clone(), key));
                        continue;
                    }
                    "there is no .key for it (an authority's certificate has a name that ends in .crt)"
                }
                Some("key") if beside("cert").is_none() => "there is no .cert for it",
                _ => continue,
            };
            self.passed_over.push(PassedOver::new(path, unfit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let put = |directory: &Path, names: &[&str]| {
            let directory = directory.join("reg.local:5000");
            fs::create_dir_all(&directory).unwrap();
            for name in names {
                fs::write(directory.join(name), "").unwrap();
            }
            directory
        };
        let first = put(&one, &["b.crt", "a.crt", "me.cert", "me.key", "ca.key", "README", "lone.cert"]);
        let second = put(&two, &["lone.key", "c.crt"]);
        let found = Certificates::of(&[one, dir.path().join("none"), two], "reg.local:5000");
        assert!(found.want_tls());
        assert_eq!(found.authorities, [first.join("a.crt"), first.join("b.crt"), second.join("c.crt")]);
        assert_eq!(found.clients, [(first.join("me.cert"), first.join("me.key"))]);
        let passed_over: Vec<_> = found.passed_over.iter().map(|one| one.path.clone()).collect();
        assert_eq!(passed_over, [first.join("ca.key"), first.join("lone.cert"), second.join("lone.key")]);
    }

    #[test]
    fn a_key_by_itself_is_no_reason_for_tls() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("127.0.0.1:5000")).unwrap();
        fs::write(dir.path().join("127.0.0.1:5000/ca.key"), "").unwrap();
        let found = Certificates::of(&[dir.path().to_owned()], "127.0.0.1:5000");
        assert!(!found.want_tls() && found.passed_over.len() == 1);
        fs::write(dir.path().join("other.crt"), "").unwrap();
        for none in ["127.0.0.1:5001", ".", "..", "", "127.0.0.1:5000/..", "/"] {
            let found = Certificates::of(&[dir.path().join("127.0.0.1:5000"), dir.path().to_owned()], none);
            assert_eq!(found, Certificates::default(), "{none:?}");
        }
    }
}
