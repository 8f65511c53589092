//! Repositories imported into VMs.

use crate::words::words;
use serde::{Deserialize, Serialize};

/// How much of a repository is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The last commits of the current branch, and the working tree as it is.
    #[default]
    Overlay,
    /// All history, all branches and tags, submodules too.
    Full,
}

words!(Mode { Self::Overlay => "overlay", Self::Full => "full" });

/// The repository in a VM. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Workspace {
    /// Path in the guest; commands run there unless told otherwise.
    pub guest_path: String,
    /// Path on the host it was imported from.
    pub source_path: String,
    /// Commit of HEAD on the host; none on a branch without commits.
    pub head_commit: Option<String>,
    /// Commit an export is compared with; its tree is the imported tree. Same as `head_commit`, unless the working tree
    /// had changes.
    #[serde(default)]
    pub base_commit: Option<String>,
    /// How much of it was imported.
    pub mode: Mode,
    /// Branch that exists only in the guest.
    #[serde(default)]
    pub branch: Option<String>,
    /// Where that branch began.
    #[serde(default)]
    pub from: Option<String>,
    /// Whether untracked files were imported too.
    #[serde(default)]
    pub include_untracked: bool,
    /// Time of the import (RFC 3339, UTC).
    pub prepared_at: String,
}

/// Body of `PUT /v1/vms/{ref}/workspace`; the daemon adds the time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RecordWorkspace {
    /// Absolute path in the guest.
    pub guest_path: String,
    /// Absolute path on the host.
    pub source_path: String,
    /// Commit of HEAD: 40 or 64 hexadecimal digits.
    #[serde(default)]
    pub head_commit: Option<String>,
    /// Base commit: 40 or 64 hexadecimal digits.
    #[serde(default)]
    pub base_commit: Option<String>,
    /// How much of it was imported.
    #[serde(default)]
    pub mode: Mode,
    /// Branch that exists only in the guest.
    #[serde(default)]
    pub branch: Option<String>,
    /// Where that branch began.
    #[serde(default)]
    pub from: Option<String>,
    /// Whether untracked files were imported too.
    #[serde(default)]
    pub include_untracked: bool,
}
