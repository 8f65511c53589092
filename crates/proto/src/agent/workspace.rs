//! `PUT /workspace?path=/abs/path|~/path[&checkout=sha1|sha256]`: a repository into the guest.
//!
//! The body is a tar stream with paths below the workspace: a git directory, and the files that git could not write by
//! itself. It is unpacked as the user the VM's commands run as. With `checkout` the agent then writes the files that the
//! index names out of the packs, which must hold whole objects, and tells the index what it wrote.
//!
//! Lists below [`SCRATCH`] change that: [`WRITTEN`] are the only ones that are written; [`FRESH`] travelled and are what
//! the index says; [`REMOVED`] go, and of those a name with a slash at its end is a directory that goes with all that is in
//! it. Each is names ended by zeroes; all of it is gone afterwards. One stream at a time: where another is being unpacked, or
//! its files written, the next one waits. So where the directory is,
//! somebody was interrupted; what is in it then, the next one does not believe.
//!
//! What arrives is the whole truth: a link, file or directory in the way of something else goes.
//!
//! `GET /workspace/files?path=…&hash=sha1|sha256`: the files that the index there names, each ended by a zero.

use serde::{Deserialize, Serialize};

/// Where the lists are, below the workspace.
pub const SCRATCH: &str = ".git/banger";
/// The files that are to be written; without the list it is all of the index.
pub const WRITTEN: &str = "written";
/// Files of the stream that the index takes for unchanged.
pub const FRESH: &str = "fresh";
/// Files, and directories with all that is in them, that are to be removed.
pub const REMOVED: &str = "removed";

/// A file that every repository has which was brought: where its HEAD was then.
pub const IMPORTED: &str = ".git/banger-head";

/// Answer of `GET /workspace?path=…`: what is there before anything is brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceStatus {
    /// Where a workspace would be: absolute. Guest text.
    pub path: String,
    /// Whether there is anything but an empty directory.
    pub occupied: bool,
    /// Whether it is one that did not come to its end.
    #[serde(default)]
    pub unfinished: bool,
    /// Whether a repository was brought there once, to its end or not: what [`IMPORTED`] says.
    #[serde(default)]
    pub brought: bool,
}

/// Answer of `PUT /workspace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// Where the workspace is: absolute. Guest text.
    pub path: String,
}

/// Which hash names objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashName {
    /// 20 bytes.
    Sha1,
    /// 32 bytes.
    Sha256,
}

impl HashName {
    /// Bytes of a name.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no name is empty")]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

impl std::fmt::Display for HashName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        })
    }
}

impl std::str::FromStr for HashName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            _ => Err(format!("{text:?} is none of sha1, sha256")),
        }
    }
}
