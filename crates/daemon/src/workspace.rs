//! WorkspaceService: the defaults of commands in a guest, the directories that live on a VM's own disk, and the record
//! of the repository that was imported.
//!
//! It never runs git and never sees a repository: the client that imports one (the CLI, as its user) reports what it
//! did.

use banger_machine::clock;
use banger_proto::{
    api::workspace::{RecordWorkspace, Workspace},
    failure::{Code, Failure},
    time::rfc3339,
};
use std::collections::BTreeMap;

/// Directories that live on the work disk itself: people keep data there, and Docker, containerd and kubelet cannot use
/// an overlay for theirs.
const OWN_DIRECTORIES: [&str; 6] =
    ["/root", "/home", "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/lib/kubelet"];
/// Largest size of an environment, in bytes of names and values together. A guest's configuration has little more room.
const MAX_ENV: usize = 512 << 10;
/// Longest path that a guest's kernel accepts, in bytes.
const MAX_PATH: usize = 4095;
/// Longest user and group, in bytes.
const MAX_USER: usize = 256;

/// Defaults of every command that is executed in a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecDefaults {
    /// Environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Working directory.
    pub(crate) workdir: Option<String>,
    /// `name`, `uid`, `name:group` or `uid:gid`.
    pub(crate) user: Option<String>,
}

/// Decides about work in guests.
#[derive(Debug, Default)]
pub(crate) struct WorkspaceService;

impl WorkspaceService {
    /// Checks the requested defaults, before anything is created.
    #[expect(clippy::unused_self, reason = "who is asked is the service, whatever it needs to answer")]
    pub(crate) fn exec_defaults(
        &self,
        env: BTreeMap<String, String>,
        workdir: Option<String>,
        user: Option<String>,
    ) -> Result<ExecDefaults, Failure> {
        let invalid = |message: String| Err(Failure::new(Code::Invalid, message));
        for (name, value) in &env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return invalid(format!("{name:?} cannot be an environment variable"));
            }
        }
        let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_ENV {
            return invalid(format!("the environment has {bytes} bytes, where {MAX_ENV} are allowed"));
        }
        if let Some(path) = &workdir
            && (!path.starts_with('/') || path.contains('\0') || path.len() > MAX_PATH)
        {
            return invalid(format!("the working directory {:?} is not an absolute path", shortened(path)));
        }
        if let Some(user) = &user
            && !is_user(user)
        {
            let failure = Failure::new(Code::Invalid, format!("{:?} is not a user", shortened(user)));
            return Err(failure.hint("write name, uid, name:group or uid:gid"));
        }
        Ok(ExecDefaults { env, workdir, user })
    }

    /// Checks the report about an import and turns it into a record, dated now.
    #[expect(clippy::unused_self, reason = "who is asked is the service, whatever it needs to answer")]
    pub(crate) fn record(&self, report: RecordWorkspace) -> Result<Workspace, Failure> {
        for path in [&report.guest_path, &report.source_path] {
            if !path.starts_with('/') || path.contains('\0') || path.len() > MAX_PATH {
                return Err(Failure::new(Code::Invalid, format!("{:?} is not an absolute path", shortened(path))));
            }
        }
        for commit in [&report.head_commit, &report.base_commit].into_iter().flatten() {
            if !is_commit(commit) {
                return Err(Failure::new(Code::Invalid, format!("{:?} is not the id of a commit", shortened(commit))));
            }
        }
        for name in [&report.branch, &report.from].into_iter().flatten() {
            if name.is_empty() || name.len() > MAX_PATH || name.contains('\0') {
                return Err(Failure::new(Code::Invalid, format!("{:?} is not a branch or commit", shortened(name))));
            }
        }
        Ok(Workspace {
            guest_path: report.guest_path,
            source_path: report.source_path,
            head_commit: report.head_commit,
            base_commit: report.base_commit,
            mode: report.mode,
            branch: report.branch,
            from: report.from,
            include_untracked: report.include_untracked,
            prepared_at: rfc3339(clock::now()),
        })
    }

    /// Returns the directories that live on the VM's own disk. Each is filled once from the image.
    #[expect(clippy::unused_self, reason = "who is asked is the service, whatever it needs to answer")]
    pub(crate) fn own_directories(&self) -> Vec<String> {
        OWN_DIRECTORIES.map(str::to_owned).into()
    }
}

/// Whether the text has the form of a user: one or two names or numbers. Whether the user exists only the guest knows.
fn is_user(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    text.len() <= MAX_USER && text.splitn(2, ':').all(part)
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(env: &[(&str, &str)], workdir: Option<&str>, user: Option<&str>) -> Result<ExecDefaults, Failure> {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        WorkspaceService.exec_defaults(env, workdir.map(str::to_owned), user.map(str::to_owned))
    }

    #[test]
    fn sensible_defaults_are_taken_as_they_are() {
        let defaults = check(&[("A", "b=c\n")], Some("/src"), Some("1000:1000")).unwrap();
        assert_eq!((defaults.env["A"].as_str(), defaults.user.as_deref()), ("b=c\n", Some("1000:1000")));
        for user in ["root", "www-data:adm", "0", "a.b:c"] {
            check(&[], None, Some(user)).unwrap_or_else(|error| panic!("{user}: {error}"));
        }
    }

    #[test]
    fn a_record_is_what_was_said_and_when() {
        let report = |path: &str, commit: &str| RecordWorkspace {
            guest_path: path.into(),
            source_path: "/src".into(),
            head_commit: Some(commit.into()),
            ..RecordWorkspace::default()
        };
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let record = WorkspaceService.record(report("/root/repo", commit)).unwrap();
        assert_eq!((record.guest_path.as_str(), record.head_commit.as_deref()), ("/root/repo", Some(commit)));
        assert!(record.prepared_at.ends_with('Z'), "{}", record.prepared_at);
        for (path, commit) in [("root", commit), ("", commit), ("/a\0", commit), ("/a", "HEAD"), ("/a", "--output=/x")]
        {
            assert_eq!(
                WorkspaceService.record(report(path, commit)).unwrap_err().code,
                Code::Invalid,
                "{path} {commit}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for env in [[("", "x")], [("A=B", "x")], [("A", "\0")]] {
            assert_eq!(check(&env, None, None).unwrap_err().code, Code::Invalid, "{env:?}");
        }
        assert!(check(&[("A", &"x".repeat(MAX_ENV))], None, None).is_err());
        for workdir in ["", "src", "/a\0b", &format!("/{}", "x".repeat(5000))] {
            assert!(check(&[], Some(workdir), None).is_err(), "{workdir}");
        }
        for user in ["", ":", "a:", ":b", "a:b:c", "a b"] {
            assert!(check(&[], None, Some(user)).is_err(), "{user}");
        }
    }
}
