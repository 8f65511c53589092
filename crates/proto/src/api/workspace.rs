//! Repositories in VMs: what was brought where, and from what.

use crate::words::words;
use serde::{Deserialize, Serialize};

/// How much of a repository travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The last commits of the current branch and the working tree as it is.
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
    /// Where it is in the guest; commands run there unless told otherwise.
    pub guest_path: String,
    /// Where it came from on the host.
    pub source_path: String,
    /// The commit HEAD was at on the host; none on a branch without commits.
    pub head_commit: Option<String>,
    /// What an export is compared with: the commit that holds the tree as it was brought. `head_commit`, unless the
    /// working tree had changes.
    #[serde(default)]
    pub base_commit: Option<String>,
    /// How much of it was brought.
    pub mode: Mode,
    /// The branch that is only the guest's.
    #[serde(default)]
    pub branch: Option<String>,
    /// Where that branch began.
    #[serde(default)]
    pub from: Option<String>,
    /// Whether untracked files were brought, too.
    #[serde(default)]
    pub include_untracked: bool,
    /// When (RFC 3339, UTC).
    pub prepared_at: String,
}

/// Body of `PUT /v1/vms/{ref}/workspace`; the daemon adds the time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RecordWorkspace {
    /// Absolute.
    pub guest_path: String,
    /// Absolute.
    pub source_path: String,
    /// 40 or 64 hexadecimal digits.
    #[serde(default)]
    pub head_commit: Option<String>,
    /// 40 or 64 hexadecimal digits.
    #[serde(default)]
    pub base_commit: Option<String>,
    /// How much of it was brought.
    #[serde(default)]
    pub mode: Mode,
    /// The branch that is only the guest's.
    #[serde(default)]
    pub branch: Option<String>,
    /// Where that branch began.
    #[serde(default)]
    pub from: Option<String>,
    /// Whether untracked files were brought, too.
    #[serde(default)]
    pub include_untracked: bool,
}
