//! `PUT /workspace?path=/abs/path|~/path[&checkout=sha1|sha256]`: imports a repository into the guest.
//!
//! The body is a tar stream with paths below the workspace: a git directory, and the files that git could not write by
//! itself. It is unpacked as the user the VM's commands run as. With `checkout` the agent then writes the files that
//! the index names out of the packs, which must hold objects without deltas, and updates the index's stat data.
//!
//! Lists below [`SCRATCH`] modify that: with [`WRITTEN`] only its files are written; those in [`FRESH`] were sent and
//! are what the index says; those in [`REMOVED`] are removed, and a name with a slash at its end is a directory to
//! remove with all that is in it. Each list is names ended by zero bytes. The directory is removed at the end. One
//! stream at a time: where another is being unpacked, or its files written, the next one waits. So an existing
//! directory is from an interrupted import, and its lists are not used.
//!
//! What arrives replaces a link, file or directory in its way.
//!
//! `GET /workspace/files?path=…&hash=sha1|sha256`: the files that the index there names, each ended by a zero byte.

use crate::words::words;
use serde::{Deserialize, Serialize};

/// Directory of the lists, below the workspace.
pub const SCRATCH: &str = ".git/banger";
/// List of files to write; without it, all of the index.
pub const WRITTEN: &str = "written";
/// List of files in the stream that are what the index says.
pub const FRESH: &str = "fresh";
/// List of files, and directories with all that is in them, to remove.
pub const REMOVED: &str = "removed";

/// File in every imported repository: the commit its HEAD was at.
pub const IMPORTED: &str = ".git/banger-head";

/// Answer of `GET /workspace?path=…`: what is at the path before an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceStatus {
    /// Absolute path of the workspace. Guest text.
    pub path: String,
    /// Whether there is anything but an empty directory.
    pub occupied: bool,
    /// Whether an import there was interrupted.
    #[serde(default)]
    pub unfinished: bool,
    /// Whether a repository was ever imported there, completely or not: whether [`IMPORTED`] exists.
    #[serde(default)]
    pub brought: bool,
}

/// Answer of `PUT /workspace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// Absolute path of the workspace. Guest text.
    pub path: String,
}

/// Hash function of object ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashName {
    /// 20 bytes.
    Sha1,
    /// 32 bytes.
    Sha256,
}

impl HashName {
    /// Bytes of an id.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no name is empty")]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

words!(HashName { Self::Sha1 => "sha1", Self::Sha256 => "sha256" });
