//! A repository on its way into a guest, and a patch on its way out.
//!
//! The host's git does the reading, and nothing in the repository can make it run anything: [`git`] starts it without
//! hooks, filters, file-system monitors or transports, and what touches index, objects or files goes through a
//! [`facade`], a git directory of banger's own that borrows the repository's objects and none of its configuration.
//!
//! ```text
//! repository → plan (index, changes, history) → stream: one tar of .git and changed files → the agent's /workspace,
//!                                                which writes the other files out of the packs
//! guest: throw-away index → one patch → patch (every path checked) → file, stdout, or git apply
//! ```

mod attributes;
pub(crate) mod bootstrap;
pub(crate) mod bringer;
pub(crate) mod changes;
pub(crate) mod checkout;
pub(crate) mod export;
pub(crate) mod facade;
pub(crate) mod files;
pub(crate) mod git;
mod hash;
pub(crate) mod history;
mod inspect;
pub(crate) mod leftovers;
mod macros;
mod nested;
mod own;
pub(crate) mod pack;
pub(crate) mod patch;
pub(crate) mod plan;
pub(crate) mod quote;
mod refs;
pub(crate) mod repository;
pub(crate) mod send;
pub(crate) mod settings;
pub(crate) mod stale;
mod standing;
pub(crate) mod stream;
mod swap;
mod trusted;

use banger_proto::failure::{Code, Failure};
use std::{io, path::Path};

/// Where a repository appears in a guest: in the home of the VM's user.
pub(crate) const GUEST_PATH: &str = "~/repo";

/// Whether it is the name of an object.
fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A failure about a path of this host.
fn about(what: &str, path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::Denied,
        _ => Code::Unavailable,
    };
    Failure::caused_by(code, format!("cannot {what} {}", path.display()), error)
}
