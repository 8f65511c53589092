//! Checks whether a repository's HEAD moved since it was imported: reads a few small files, cheap enough for every
//! exec.

use super::{git::Git, repository::Repository};
use banger_proto::api::workspace::Workspace;
use std::path::Path;

/// Position of HEAD compared with the import.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// At the imported commit.
    Same,
    /// At another commit, or at none.
    Moved(Option<String>),
    /// The repository is gone or cannot be read.
    Unknown,
}

/// Compares HEAD with the recorded commit.
pub(crate) fn compare(workspace: &Workspace) -> Head {
    let Ok(git) = Git::find() else { return Head::Unknown };
    let Ok(repository) = Repository::at(&git, Path::new(&workspace.source_path)) else { return Head::Unknown };
    let now = match quick(&repository) {
        Some(commit) => Some(commit),
        None => match git.reading(&repository.git_dir).args(["rev-parse", "-q", "--verify", "HEAD"]).line() {
            Ok(commit) => commit,
            Err(_) => return Head::Unknown,
        },
    };
    if now == workspace.head_commit { Head::Same } else { Head::Moved(now) }
}

/// Reads HEAD from loose files, where it nearly always is.
fn quick(repository: &Repository) -> Option<String> {
    let read = |path: &Path| Some(std::fs::read_to_string(path).ok()?.trim_end().to_owned());
    let head = read(&repository.git_dir.join("HEAD"))?;
    let commit = match head.strip_prefix("ref: ") {
        Some(name) if name.starts_with("refs/heads/") && !name.contains("..") => {
            read(&repository.common_dir.join(name))?
        }
        Some(_) => return None,
        None => head,
    };
    let is_id = matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then_some(commit)
}

/// Shortens a commit id for people.
pub(crate) fn short(commit: Option<&str>) -> &str {
    commit.map_or("none", |commit| commit.get(..12).unwrap_or(commit))
}
