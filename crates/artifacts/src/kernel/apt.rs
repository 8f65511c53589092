//! Downloads a distribution's kernel with the host's own apt, as the user who runs banger.
//!
//! apt keeps what makes it worth using: the host's sources, its keyrings, its proxies, and the verified chain from a
//! signed Release file to the package's SHA-256. Everything it writes goes below one private directory, and hooks the
//! host has configured do not run: they are meant for the real package cache. Nothing is installed and no package
//! script runs; the content of the package is handled elsewhere.

mod config;
mod package;

use super::{
    deb::field,
    tree::{regular, sha256},
};
use crate::{
    job::{Cancelled, Job},
    program::{Program, ProgramError},
    publish::{PublishError, Shelf},
};
use config::configuration;
use package::{Package, described, has_major_minor, is_kernel, kernels_in};
use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// Upper bound of a package download in bytes: the limit on kernels.
const MAX_PACKAGE: u64 = 1 << 30;
/// Upper bound of the output read from a query.
const MAX_ANSWER: u64 = 4 << 20;

/// Error of a kernel download by apt.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// None of the host's sources has the package.
    #[error("none of this host's apt sources has the package {package}")]
    NoPackage {
        /// Name of the package.
        package: String,
        /// What went wrong when the lists were fetched, if something did: the likely reason.
        source: Option<ProgramError>,
    },
    /// The package neither is a kernel nor leads to exactly one.
    #[error("{package} leads to {} kernel packages ({}), not to one", found.len(), found.join(", "))]
    NotOneKernel {
        /// Name of the package.
        package: String,
        /// Kernel packages it depends on.
        found: Vec<String>,
    },
    /// The host's distribution has another kernel under that name.
    #[error("{package} is version {version}, and not {wanted}")]
    OtherKernel {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// The `major.minor` wanted.
        wanted: String,
    },
    /// apt printed something unexpected.
    #[error("apt does not say the {field} of {package}")]
    Answer {
        /// The package.
        package: String,
        /// What is missing or malformed.
        field: &'static str,
    },
    /// The package is larger than any kernel.
    #[error("{package} has {size} bytes, more than {MAX_PACKAGE}")]
    TooLarge {
        /// The package.
        package: String,
        /// Its size.
        size: u64,
    },
    /// The downloaded file does not match the signed package lists.
    #[error("the downloaded {package} has SHA-256 {found}, and the signed list says {expected}")]
    Hash {
        /// The package.
        package: String,
        /// Hash in the signed package lists.
        expected: String,
        /// Hash of the downloaded file.
        found: String,
    },
    /// A private file could not be written or read.
    #[error("cannot use {}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A program failed, or is missing.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The private directory could not be used.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<Cancelled> for AptError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Program(cancelled.into())
    }
}

/// apt with a private home directory.
#[derive(Debug)]
pub(super) struct Apt {
    home: Shelf,
}

impl Apt {
    /// Keeps apt's lists and caches in `home`, which is created when absent.
    pub(super) fn new(home: &Path) -> Result<Self, AptError> {
        Ok(Self { home: Shelf::open(home)? })
    }

    /// Downloads the one kernel package that `package` is or depends on into `into`, an empty directory. `kernel` is
    /// the required `major.minor`. The file's hash is checked once more.
    pub(super) fn fetch(
        &self,
        package: &str,
        kernel: &str,
        into: &Path,
        job: &Job<'_>,
    ) -> Result<(Package, PathBuf), AptError> {
        // Two runs of apt on the same lists would fail each other.
        let _lock = self.home.lock("apt", job.cancel)?;
        let config = self.prepare()?;
        job.progress.phase("reading the host's package lists");
        let update = match self.program("apt-get", &config).args(["-qq", "update"]).capture(MAX_ANSWER, job.cancel) {
            // The old lists may suffice, and a broken third-party source must not matter; if the package is not found,
            // this is the likely cause.
            Err(error @ ProgramError::Failed { .. }) => Some(error),
            other => other.map(|_| None)?,
        };
        let found = self.resolve(package, &config, job);
        let found = match (found, update) {
            (Err(AptError::NoPackage { package, .. }), source) => Err(AptError::NoPackage { package, source }),
            (found, _) => found,
        }?;
        if !has_major_minor(&found.version, kernel) {
            let (package, version, wanted) = (found.name, found.version, kernel.to_owned());
            return Err(AptError::OtherKernel { package, version, wanted });
        }
        let path = self.download(&found, into, &config, job)?;
        Ok((found, path))
    }

    /// Creates the private directories and apt's configuration, and returns the path of the latter.
    fn prepare(&self) -> Result<PathBuf, AptError> {
        let home = self.home.directory();
        for directory in ["lists/partial", "archives/partial", "log"] {
            let path = home.join(directory);
            fs::create_dir_all(&path).map_err(|source| AptError::Io { path, source })?;
        }
        let path = home.join("apt.conf");
        let mut file = self.home.stage_file()?;
        io::Write::write_all(file.file_mut(), configuration(home, rustix::process::geteuid().is_root()).as_bytes())
            .map_err(|source| AptError::Io { path: path.clone(), source })?;
        self.home.publish_file(file, "apt.conf")?;
        Ok(path)
    }

    fn program(&self, name: &str, config: &Path) -> Program {
        Program::new(name, "apt").env("APT_CONFIG", config).env("HOME", self.home.directory()).with_proxy_settings()
    }

    fn resolve(&self, package: &str, config: &Path, job: &Job<'_>) -> Result<Package, AptError> {
        let record = self.record(package, config, job)?;
        if is_kernel(package) {
            return described(package, &record);
        }
        let kernels = kernels_in(field(&record, "Depends").unwrap_or_default());
        let [(name, version)] = &kernels[..] else {
            let found = kernels.into_iter().map(|(name, _)| name).collect();
            return Err(AptError::NotOneKernel { package: package.to_owned(), found });
        };
        let exact = match version {
            Some(version) => format!("{name}={version}"),
            None => name.clone(),
        };
        described(name, &self.record(&exact, config, job)?)
    }

    /// The control fields of a package (or `package=version`), of the version apt would install.
    fn record(&self, package: &str, config: &Path, job: &Job<'_>) -> Result<String, AptError> {
        let query = self.program("apt-cache", config).args(["show", "--no-all-versions", "--", package]);
        match query.capture(MAX_ANSWER, job.cancel) {
            Ok(text) if !text.is_empty() => Ok(String::from_utf8_lossy(&text).into_owned()),
            // For an unknown package apt prints an error and exits with status 100.
            Ok(_) | Err(ProgramError::Failed { .. }) => {
                Err(AptError::NoPackage { package: package.to_owned(), source: None })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn download(&self, package: &Package, into: &Path, config: &Path, job: &Job<'_>) -> Result<PathBuf, AptError> {
        let Package { name, version, size, .. } = package;
        if *size > MAX_PACKAGE {
            return Err(AptError::TooLarge { package: name.clone(), size: *size });
        }
        job.progress.phase(&format!("downloading {name} {version}"));
        let program = self
            .program("apt-get", config)
            .args(["-qq", "-o", "APT::Status-Fd=1", "download", "--"])
            .arg(format!("{name}={version}"))
            .directory(into);
        program.stream(job.cancel, |stdout| {
            follow(stdout, *size, job).map_err(|source| AptError::Io { path: into.to_owned(), source })
        })?;
        let failed = |source| AptError::Io { path: into.to_owned(), source };
        let mut files = fs::read_dir(into).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()));
        let path = files
            .find(|path| path.as_ref().map_or(true, |path| path.extension().is_some_and(|ext| ext == "deb")))
            .ok_or_else(|| AptError::Answer { package: name.clone(), field: "file" })?
            .map_err(failed)?;
        Self::check(package, &path, job)?;
        Ok(path)
    }

    fn check(package: &Package, path: &Path, job: &Job<'_>) -> Result<(), AptError> {
        let failed = |source| AptError::Io { path: path.to_owned(), source };
        let (file, _) = regular(path).map_err(failed)?;
        let hashed = sha256(&mut file.take(MAX_PACKAGE), job.cancel);
        let (found, _) = hashed.map_err(|error| match job.cancel.check() {
            Err(cancelled) => cancelled.into(),
            Ok(()) => failed(error),
        })?;
        if found == package.sha256 {
            return Ok(());
        }
        Err(AptError::Hash { package: package.name.clone(), expected: package.sha256.clone(), found })
    }
}

/// Turns apt's status lines (`dlstatus:1:42.5:Retrieving file 1 of 1`) into progress.
fn follow(stdout: &mut dyn Read, size: u64, job: &Job<'_>) -> io::Result<()> {
    let mut lines = BufReader::new(stdout.take(MAX_ANSWER));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let percent = text.strip_prefix("dlstatus:").and_then(|rest| rest.split(':').nth(1)?.parse::<f64>().ok());
        if let Some(percent) = percent.filter(|percent| (0.0..=100.0).contains(percent)) {
            // In tenths of a per cent, so that whole numbers do.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
            let per_mille = (percent * 10.0) as u64;
            job.progress.advance(size * per_mille / 1000, Some(size));
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_become_progress() {
        #[derive(Default)]
        struct Seen(std::sync::Mutex<Vec<u64>>);
        impl crate::job::Progress for Seen {
            fn phase(&self, _: &str) {}
            fn advance(&self, done: u64, _: Option<u64>) {
                self.0.lock().unwrap().push(done);
            }
        }
        let (seen, cancel) = (Seen::default(), crate::job::Cancel::default());
        let lines = b"dlstatus:1:0.0000:Retrieving\ngarbage\ndlstatus:1:42.5:x\ndlstatus:1:nan:x\ndlstatus:1:100:x\xff";
        follow(&mut &lines[..], 2000, &Job { progress: &seen, cancel: &cancel }).unwrap();
        assert_eq!(*seen.0.lock().unwrap(), [0, 850, 2000]);
    }
}
