//! Credentials for registries, as Docker and Podman store them.
//!
//! Reads their files and runs their helper programs; writes nothing and never prompts for a password. The caller says
//! which files: the library reads no environment.

use crate::{
    fetch::Secret,
    job::{Cancelled, Job},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::fs::OFlags;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

mod helper;
use helper::Helpers;

/// Largest file and largest output of a helper, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// File that is configured when there are no logins; it is not opened.
const NO_LOGINS: &str = "/dev/null";
/// Timeout of a helper: some ask a keyring that asks a person.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// Names of Docker's own registry in its files.
const DOCKER_HUB: [&str; 4] = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
/// Key under which Docker stores a login to its own registry, and asks a helper for it.
const HUB_ADDRESS: &str = "https://index.docker.io/v1/";

/// Files with credentials; the first with an entry for a registry counts.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
    /// Directory of helper programs; `PATH` if there is none.
    helpers: Option<PathBuf>,
}

/// Credential for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// User name and password.
    Basic(String, Secret),
    /// Identity token, which a login stored instead of the password.
    Identity(Secret),
}

/// Reason why existing credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Path.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A file is malformed. The parser's message is left out, because it quotes the content.
    #[error("{} is malformed in line {line}, column {column}", path.display())]
    Json {
        /// Path.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// An entry is malformed.
    #[error("{} has no name and password for {key:?} that can be read", path.display())]
    Entry {
        /// File with the entry.
        path: PathBuf,
        /// Key of the entry.
        key: String,
    },
    /// A helper failed.
    #[error("{program} gave no credentials: {why}")]
    Helper {
        /// The program.
        program: String,
        /// Its output or what happened to it.
        why: String,
    },
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    #[serde(rename = "auth")]
    encoded: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl Credentials {
    /// Reads these files, as far as they exist; the first with an entry for a registry counts.
    pub fn in_files(files: Vec<PathBuf>) -> Self {
        Self { files, helpers: None }
    }

    /// Looks for helper programs only in this directory.
    #[must_use]
    pub fn helpers_in(self, directory: PathBuf) -> Self {
        Self { helpers: Some(directory), ..self }
    }

    /// Returns the credential for a repository, if there is one. Reports a notice while a helper takes its time.
    pub(super) fn find(
        &self,
        registry: &str,
        repository: &str,
        job: &Job<'_>,
    ) -> Result<Option<Credential>, CredentialError> {
        let helpers = Helpers { directory: self.helpers.as_deref(), timeout: HELPER_TIMEOUT, job: *job };
        for path in &self.files {
            if let Some(file) = read(path)?
                && let Some(credential) = file.find(path, registry, repository, helpers)?
            {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> Result<Option<AuthFile>, CredentialError> {
    if path == Path::new(NO_LOGINS) {
        return Ok(None);
    }
    let failed = |source| CredentialError::Read { path: path.to_owned(), source };
    // Opening must not block on a fifo without a writer.
    let file = match File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).map_err(failed)?;
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| CredentialError::Json {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
    })
}

impl AuthFile {
    fn find(
        &self,
        path: &Path,
        registry: &str,
        repository: &str,
        helpers: Helpers<'_>,
    ) -> Result<Option<Credential>, CredentialError> {
        // Docker's key for its own registry is the address it also asks a helper for; Podman's is the name.
        for name in names(registry) {
            for (key, helper) in self.cred_helpers.iter().filter(|(key, _)| split(key) == (name, "")) {
                if let Some(credential) = ask(helpers, helper, registry, Some(key.as_str()))? {
                    return Ok(Some(credential));
                }
            }
        }
        if let Some(helper) = self.creds_store.as_deref().filter(|helper| !helper.is_empty())
            && let Some(credential) = ask(helpers, helper, registry, None)?
        {
            return Ok(Some(credential));
        }
        // Podman's keys may name a repository: the longest matching key counts.
        let fits = |key: &&String| {
            let (host, below) = split(key);
            let whole = format!("{repository}/");
            names(registry).any(|name| name == host) && (below.is_empty() || whole.starts_with(&format!("{below}/")))
        };
        let best = self.auths.keys().filter(fits).max_by_key(|key| split(key).1.len());
        let Some((key, auth)) = best.and_then(|key| self.auths.get_key_value(key)) else { return Ok(None) };
        auth.read()
            .ok_or_else(|| CredentialError::Entry { path: path.to_owned(), key: key.chars().take(120).collect() })
    }
}

impl Auth {
    /// Returns `None` if the entry is malformed; an empty entry is left by a login with a helper.
    #[expect(clippy::option_option, reason = "nothing to read is not the same as unreadable")]
    fn read(&self) -> Option<Option<Credential>> {
        if !self.identitytoken.is_empty() {
            return Some(Some(Credential::Identity(Secret::new(&*self.identitytoken))));
        }
        if !self.username.is_empty() {
            return Some(Some(Credential::Basic(self.username.clone(), Secret::new(&*self.password))));
        }
        if self.encoded.is_empty() {
            return Some(None);
        }
        let text = String::from_utf8(STANDARD.decode(self.encoded.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        // Docker pads with zero bytes.
        let password = password.trim_end_matches('\0');
        Some(Some(Credential::Basic(user.to_owned(), Secret::new(password))))
    }
}

/// Asks a helper by each name it may know a registry by; `key` is the one that names the helper.
fn ask(
    helpers: Helpers<'_>,
    helper: &str,
    registry: &str,
    key: Option<&str>,
) -> Result<Option<Credential>, CredentialError> {
    let hub = DOCKER_HUB.contains(&registry).then_some(HUB_ADDRESS);
    let known: Vec<&str> = hub.into_iter().chain(names(registry)).collect();
    for name in known.iter().copied().chain(key.filter(|key| !known.contains(key))) {
        if let Some(credential) = helpers.ask(helper, name)? {
            return Ok(Some(credential));
        }
    }
    Ok(None)
}

/// Returns the names of a registry in files.
fn names(registry: &str) -> impl Iterator<Item = &str> {
    let hub = DOCKER_HUB.contains(&registry);
    std::iter::once(registry).chain(DOCKER_HUB.into_iter().filter(move |name| hub && *name != registry))
}

/// Splits a key into the host and the path below it: `https://index.docker.io/v1/` is a host only, `quay.io/me/app` is
/// not.
fn split(key: &str) -> (&str, &str) {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key).trim_end_matches('/');
    let (host, below) = key.split_once('/').unwrap_or((key, ""));
    if matches!(below, "v1" | "v2") { (host, "") } else { (host, below) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Cancel, Silent};

    fn find_in(from: &Credentials, registry: &str, path: &str) -> Result<Option<Credential>, CredentialError> {
        from.find(registry, path, &Job { progress: &Silent, cancel: &Cancel::default() })
    }

    fn find(json: &serde_json::Value, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("auth.json");
        std::fs::write(&file, json.to_string()).unwrap();
        find_in(&Credentials::in_files(vec![temp.path().join("none"), file]), registry, repository)
    }

    fn basic(user: &str) -> Credential {
        Credential::Basic(user.into(), Secret::new("pw"))
    }

    fn auth(user: &str) -> serde_json::Value {
        serde_json::json!({"auth": STANDARD.encode(format!("{user}:pw"))})
    }

    #[test]
    fn keys_of_every_kind() {
        let file = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": auth("hub"),
            "quay.io": auth("quay"),
            "quay.io/team": auth("team"),
            "https://reg.local:5000": auth("local"),
            "token.io": {"auth": "ignored", "identitytoken": "T"},
            "helped.io": {},
            "broken.io": {"auth": "!"},
        }});
        for (registry, repository, user) in [
            ("docker.io", "library/alpine", "hub"),
            ("quay.io", "other/app", "quay"),
            ("quay.io", "team/app", "team"),
            ("quay.io", "teams/app", "quay"),
            ("reg.local:5000", "a", "local"),
        ] {
            assert_eq!(find(&file, registry, repository).unwrap(), Some(basic(user)), "{registry}/{repository}");
        }
        assert_eq!(find(&file, "token.io", "a").unwrap(), Some(Credential::Identity(Secret::new("T"))));
        for registry in ["reg.local", "helped.io", "io"] {
            assert_eq!(find(&file, registry, "a").unwrap(), None, "{registry}");
        }
        let error = find(&file, "broken.io", "a").unwrap_err();
        assert!(error.to_string().contains("broken.io"), "{error}");
    }

    #[test]
    fn what_is_said_of_a_malformed_file_has_nothing_of_what_is_in_it() {
        let error = find(&serde_json::json!({"auths": {"a.io": "c2VjcmV0"}}), "a.io", "a").unwrap_err();
        let mut shown = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            shown.push_str(&cause.to_string());
            next = cause.source();
        }
        assert!(shown.contains("is malformed in line 1, column ") && !shown.contains("c2VjcmV0"), "{shown}");
    }

    #[test]
    fn a_fifo_is_no_file_with_logins_and_nobody_waits_for_its_writer() {
        let temp = tempfile::tempdir().unwrap();
        let fifo = temp.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for file in [fifo, "/dev/zero".into()] {
            let error = find_in(&Credentials::in_files(vec![file]), "a.io", "a").unwrap_err();
            assert!(matches!(error, CredentialError::Read { .. }), "{error:?}");
        }
        let nobody = find_in(&Credentials::in_files(vec!["/dev/null".into()]), "a.io", "a");
        assert_eq!(nobody.unwrap(), None);
    }

    /// Returns the answer of a helper that knows one address, for a file that names the helper.
    fn helped(file: &serde_json::Value, knows: &str, registry: &str) -> Option<Credential> {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("docker-credential-test");
        let answer = r#"printf '{"Username":"me","Secret":"pw"}'"#;
        let script = format!(
            "#!/bin/sh\ncase $(cat) in\n'{knows}') {answer};;\n*) echo credentials not found in native keychain; exit 1;;\nesac\n"
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let config = temp.path().join("config.json");
        std::fs::write(&config, file.to_string()).unwrap();
        let credentials = Credentials::in_files(vec![config]).helpers_in(temp.path().to_owned());
        find_in(&credentials, registry, "me/private").unwrap()
    }

    #[test]
    fn a_helper_knows_docker_hub_by_the_address_it_was_told_at_the_login() {
        for file in [
            serde_json::json!({"credHelpers": {HUB_ADDRESS: "test"}}),
            serde_json::json!({"credHelpers": {"docker.io": "test"}}),
            serde_json::json!({"credHelpers": {"index.docker.io": "test"}}),
            serde_json::json!({"credsStore": "test"}),
        ] {
            // Docker's key, and Podman's.
            for knows in [HUB_ADDRESS, "docker.io"] {
                assert_eq!(helped(&file, knows, "docker.io"), Some(basic("me")), "{file} {knows}");
            }
            assert_eq!(helped(&file, "quay.io", "docker.io"), None, "{file}");
        }
        for file in [
            serde_json::json!({"credHelpers": {"reg.local:5000": "test"}}),
            serde_json::json!({"credHelpers": {"https://reg.local:5000": "test"}}),
            serde_json::json!({"credsStore": "test"}),
        ] {
            assert_eq!(helped(&file, "reg.local:5000", "reg.local:5000"), Some(basic("me")), "{file}");
            assert_eq!(helped(&file, HUB_ADDRESS, "reg.local:5000"), None, "{file}");
        }
        // A helper for one registry is asked for no other; nor is one for part of a registry, which no tool writes.
        for key in [HUB_ADDRESS, "docker.io", "quay.io", "reg.local:5000/me"] {
            let file = serde_json::json!({"credHelpers": {key: "test"}});
            assert_eq!(helped(&file, "reg.local:5000", "reg.local:5000"), None, "{key}");
        }
    }

    #[test]
    fn helpers_that_do_not_help() {
        let file = serde_json::json!({"credHelpers": {"a.io": "is-not-installed", "b.io": "../x"}});
        for (registry, part) in [("a.io", "docker-credential-is-not-installed"), ("b.io", "name")] {
            let error = find(&file, registry, "a").unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(find(&file, "c.io", "a").unwrap(), None);
    }
}
