//! Builds a Debian image: bootstrapped by `mmdebstrap` from the host's own apt sources and streamed into an image.
//!
//! Decides how `mmdebstrap` is called and what the host must have for it; `site` provides its working directory. It
//! runs as root or as an ordinary user with subordinate ids. In both cases the same packages give the same bytes,
//! because every time in the image is the recipe's or older. The tar goes from the program's stdout into the builder;
//! there is neither a tarball nor a tree of banger's own.

use crate::{
    job::Job,
    program::{Ids, NoIds, Program, ProgramError},
    rootfs::{RootfsBuilder, RootfsError, Timestamp},
};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};

mod site;
mod sources;
mod tailor;

use site::Site;
use sources::HostSources;
pub use sources::Unread;
use tailor::Tailor;

/// Directory of apt's configuration.
const ETC_APT: &str = "/etc/apt";
/// Upper bound of packages in a recipe.
const MAX_PACKAGES: usize = 256;
/// Time stamp in an image whose recipe gives none: 2023-06-10, the day of Debian 12.
const DEFAULT_EPOCH: u32 = 1_686_355_200;
/// Bytes of the tar between two progress reports.
const REPORT_EVERY: u64 = 4 << 20;
/// Settings of the host's apt that concern access to the archive. Others, above all hooks, are not used.
const APT_SETTINGS: [&str; 8] = [
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::http::Proxy-Auto-Detect",
    "Acquire::https::Proxy-Auto-Detect",
    "Acquire::Retries",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::ForceIPv4",
];
/// Upper bound of those settings, in bytes.
const MAX_SETTINGS: u64 = 64 << 10;
/// Number of first errors repeated, and characters of each.
const MAX_ERRORS: usize = 2;
const MAX_ERROR: usize = 200;
/// Files that dpkg leaves out, in the bootstrap and later in the guest: there is no `man`, and translations are half
/// the files. Licences stay.
const DPKG_SETTINGS: [&str; 5] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// Start of the lines by which `mmdebstrap` reports its phases, and banger's names for them. The first match counts.
const PHASES: [(&str, &str); 8] = [
    ("running apt-get update", "reading Debian's package lists"),
    ("downloading packages", "downloading the base system"),
    ("extracting archives", "unpacking the base system"),
    ("installing essential packages", "installing the base system"),
    ("installing remaining packages", "downloading and installing packages"),
    ("cleaning package lists", "tidying up"),
    ("creating tarball", "reading the new system"),
    ("removing tempdir", "deleting what it was made of"),
];

/// Recipe of a Debian image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianRecipe {
    /// The release, such as `bookworm`.
    pub suite: String,
    /// Packages besides the essential ones and apt.
    #[serde(default)]
    pub include: Vec<String>,
    /// Upper bound of times in the image, in seconds since 1970.
    #[serde(default = "default_epoch")]
    pub epoch: u32,
}

fn default_epoch() -> u32 {
    DEFAULT_EPOCH
}

/// Error of a bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// The suite's name is invalid.
    #[error("invalid suite {0:?}: write 2 to 32 of a-z, such as bookworm")]
    Suite(String),
    /// A package's name is invalid.
    #[error("invalid package name {0:?}")]
    Package(String),
    /// The recipe has too many packages.
    #[error("{0} packages are more than {MAX_PACKAGES}")]
    Packages(usize),
    /// Unsupported: the host is no Debian, as far as its sources can be read.
    #[error("this host's apt has no Debian sources{}", unread(.0))]
    NoSources(Vec<Unread>),
    /// Unsupported: Debian has no name for this processor, or banger knows none.
    #[error("no Debian architecture is known for {0}")]
    Architecture(&'static str),
    /// Unavailable: an ordinary user without subordinate ids for the new system's users.
    #[error(transparent)]
    Ids(#[from] NoIds),
    /// The sources cannot be written for `mmdebstrap`.
    #[error("cannot write {}", path.display())]
    Write {
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// `mmdebstrap` ran and failed.
    #[error("mmdebstrap failed: {said}")]
    Bootstrap {
        /// First errors reported by mmdebstrap, apt or dpkg, escaped and cut; later ones only follow from them.
        said: String,
    },
    /// A program is missing, could not be run or was cancelled.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The result cannot be an image.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
}

impl DebianRecipe {
    /// Creates a recipe for `suite` with these packages besides the essential ones and apt.
    pub fn new(suite: impl Into<String>, include: Vec<String>) -> Result<Self, DebianError> {
        let recipe = Self { suite: suite.into(), include, epoch: DEFAULT_EPOCH };
        recipe.check()?;
        Ok(recipe)
    }

    /// Validates every word, because they become arguments of a program.
    pub fn check(&self) -> Result<(), DebianError> {
        if !(2..=32).contains(&self.suite.len()) || !self.suite.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(DebianError::Suite(cut(&self.suite)));
        }
        if self.include.len() > MAX_PACKAGES {
            return Err(DebianError::Packages(self.include.len()));
        }
        // Package names as in Debian policy, section 5.6.1.
        let is_name = |name: &&String| {
            (2..=128).contains(&name.len())
                && name.as_bytes()[0].is_ascii_alphanumeric()
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
        };
        match self.include.iter().find(|name| !is_name(name)) {
            Some(name) => Err(DebianError::Package(cut(name))),
            None => Ok(()),
        }
    }

    /// Runs `mmdebstrap` and writes the new system into `builder`. `work` is a directory for its files.
    pub(super) fn bootstrap(&self, builder: &mut RootfsBuilder, work: &Path, job: &Job<'_>) -> Result<(), DebianError> {
        self.check()?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => return Err(DebianError::Architecture(other)),
        };
        let HostSources { stanzas, unread } = sources::of_host(Path::new(ETC_APT), &self.suite);
        if stanzas.is_empty() {
            return Err(DebianError::NoSources(unread));
        }
        // As apt does. Most of them are a third party's, which would not be used anyway.
        for unread in &unread {
            job.progress.notice(&format!("its packages are not used: {unread}"));
        }
        let site = Site::prepare(work, &sources::for_bootstrap(&stanzas), &apt_settings(job)?, ids()?, job)?;

        let mut program = site
            .host(Program::new("mmdebstrap", "mmdebstrap"))
            .with_proxy_settings()
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .args(["--variant=apt", "--format=tar", "--skip=check/signed-by"])
            .arg(format!("--architectures={architecture}"));
        if !self.include.is_empty() {
            program = program.arg(format!("--include={}", self.include.join(",")));
        }
        program = program
            .args(DPKG_SETTINGS.map(|setting| format!("--dpkgopt={setting}")))
            .arg(format!("--aptopt={}", site.settings().display()))
            .args([self.suite.as_str(), "-"])
            .arg(site.list());

        let mut tailor = Tailor::default();
        let mut errors = Errors::default();
        let mut hear = |line: &str| {
            errors.hear(line);
            phase(line, job);
        };
        let streamed = program.stream_heard(job.cancel, &mut hear, |tar| {
            let (mut bytes, mut reported) = (0, 0);
            builder.archive(tar, |entry| {
                bytes += entry.size;
                if bytes - reported >= REPORT_EVERY {
                    job.progress.advance(bytes, None);
                    reported = bytes;
                }
                tailor.keep(entry)
            })?;
            Ok::<_, DebianError>(())
        });
        streamed.map_err(|error| errors.explain(error))?;
        site.clear()?;
        let sources = sources::for_image(&stanzas);
        tailor.finish(builder, &sources, Timestamp::from_secs(i64::from(self.epoch)))?;
        Ok(())
    }
}

/// First errors on stderr.
#[derive(Debug, Default)]
struct Errors(Vec<String>);

impl Errors {
    fn hear(&mut self, line: &str) {
        if self.0.len() < MAX_ERRORS
            && let Some(said) = line.strip_prefix("E: ")
        {
            self.0.push(said.chars().take(MAX_ERROR).collect());
        }
    }

    /// Turns a failure of the program into an error with its own messages.
    fn explain(self, error: DebianError) -> DebianError {
        match error {
            DebianError::Program(ProgramError::Failed { .. }) if !self.0.is_empty() => {
                DebianError::Bootstrap { said: self.0.join("; ") }
            }
            other => other,
        }
    }
}

fn phase(line: &str, job: &Job<'_>) {
    let Some(said) = line.strip_prefix("I: ") else {
        tracing::debug!(line, "mmdebstrap");
        return;
    };
    if let Some((_, phase)) = PHASES.iter().find(|(beginning, _)| said.starts_with(beginning)) {
        job.progress.phase(phase);
    }
}

/// Returns the subordinate ids for the new system's users; `None` for root, who has all ids.
fn ids() -> Result<Option<Ids>, DebianError> {
    if geteuid().is_root() {
        return Ok(None);
    }
    // Checked before anything is made.
    if Program::find("newuidmap").is_none() {
        return Err(ProgramError::Missing { program: "newuidmap".into(), package: "uidmap" }.into());
    }
    Ok(Some(Ids::subordinate()?))
}

/// The host's settings for reaching the archive, a line `Name "value";` each.
fn apt_settings(job: &Job<'_>) -> Result<String, DebianError> {
    let output = Program::new("apt-config", "apt").arg("dump").args(APT_SETTINGS).capture(MAX_SETTINGS, job.cancel)?;
    let text = String::from_utf8_lossy(&output);
    // Names without a value are only the branches the others hang on.
    let settings = text.split_inclusive('\n').filter(|line| line.ends_with("\";\n") && !line.ends_with(" \"\";\n"));
    Ok(settings.collect())
}

/// The files that may have had Debian's sources.
fn unread(files: &[Unread]) -> String {
    files.iter().map(|file| format!("; {file}")).collect::<Vec<_>>().concat()
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_names_are_refused() {
        let packages = |names: &[&str]| DebianRecipe::new("bookworm", names.iter().map(|&name| name.into()).collect());
        assert!(packages(&["git", "libstdc++6", "docker.io", "7zip"]).is_ok());
        for bad in ["", "x", "-rf", "git,curl", "Git", "git/sid", "a b", "?essential", "./x.deb"] {
            assert!(matches!(packages(&[bad]), Err(DebianError::Package(_))), "{bad:?}");
        }
        for bad in ["", "x", "-x", "book worm", "bookworm/main", "BOOKWORM", &"x".repeat(33)] {
            assert!(matches!(DebianRecipe::new(bad, Vec::new()), Err(DebianError::Suite(_))), "{bad:?}");
        }
        assert!(matches!(packages(&["git"; 257]), Err(DebianError::Packages(257))));
    }

    #[test]
    fn the_first_errors_explain_a_failure() {
        let mut errors = Errors::default();
        for line in ["I: x", "E: the cause", "Err:1 y", "E: more", "E: mmdebstrap failed to run"] {
            errors.hear(line);
        }
        let status = std::os::unix::process::ExitStatusExt::from_raw(25 << 8);
        let failed =
            || DebianError::Program(ProgramError::Failed { program: "x".into(), status, stderr: "tail".into() });
        assert_eq!(errors.explain(failed()).to_string(), "mmdebstrap failed: the cause; more");
        assert!(Errors::default().explain(failed()).to_string().contains("tail"));
    }

    #[test]
    fn recipes_in_json() {
        let recipe: DebianRecipe = serde_json::from_str(r#"{"suite": "bookworm"}"#).unwrap();
        assert_eq!(recipe, DebianRecipe::new("bookworm", Vec::new()).unwrap());
    }
}
