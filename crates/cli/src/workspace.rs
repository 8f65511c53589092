//! Imports a repository into a guest, and exports a patch out of it.
//!
//! The host's git does the reading, and nothing in the repository can make it run anything: [`git`] starts it without
//! hooks, filters, file-system monitors or transports, and whatever touches index, objects or files goes through a
//! [`shadow_repository`], a git directory of banger's own that borrows the repository's objects and none of its
//! configuration.
//!
//! ```text
//! import: repository → plan (index, changes, history) → stream: one tar of .git and changed files
//!         → upload → the agent's PUT /workspace, which writes the other files out of the packs
//! export: the guest's git makes one patch with a throw-away index → patch (every path checked)
//!         → file, stdout, or git apply
//! ```

mod attribute_macros;
mod attributes;
pub(crate) mod bootstrap;
pub(crate) mod changes;
pub(crate) mod export;
pub(crate) mod files;
pub(crate) mod git;
mod guest_config;
pub(crate) mod guest_git;
mod guest_state;
mod hash;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod import_lock;
mod inspect;
pub(crate) mod leftovers;
mod nested;
pub(crate) mod pack;
pub(crate) mod patch;
pub(crate) mod plan;
pub(crate) mod quote;
mod refs;
pub(crate) mod repository;
pub(crate) mod settings;
pub(crate) mod shadow_repository;
pub(crate) mod stale;
pub(crate) mod stream;
mod swap;
mod trusted;
pub(crate) mod upload;

use banger_proto::failure::{Code, Failure};
use std::{io, path::Path};

/// Default path of a repository in a guest: in the home of the VM's user.
pub(crate) const GUEST_PATH: &str = "~/repo";

/// Whether `text` is an object id, SHA-1 or SHA-256.
fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Makes a failure about a path of this host.
fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::Denied,
        _ => Code::Unavailable,
    };
    Failure::caused_by(code, format!("cannot {what} {}", path.display()), error)
}
