//! Images and kernels.

use crate::{
    name::{ImageId, ImageName, KernelName, VmName},
    size::ByteSize,
};
use serde::{Deserialize, Serialize};

/// A root file system image on this host. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    /// Tells the content; never reused for another.
    pub id: ImageId,
    /// The names that point at it now.
    pub names: Vec<ImageName>,
    /// SHA-256 of what identifies the content, `sha256:<hex>`.
    pub digest: String,
    /// Where it came from, such as `mmdebstrap bookworm`.
    pub source: String,
    /// Bytes of the root file system on this host.
    pub size: ByteSize,
    /// Whether banger owns the file.
    pub managed: bool,
    /// The kernel it recommends.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// `PRETTY_NAME` of its os-release: guest text, escape it.
    #[serde(default)]
    pub os: Option<String>,
    /// When it was made here (RFC 3339, UTC).
    pub created_at: String,
    /// VMs that use it.
    #[serde(default)]
    pub used_by: Vec<VmName>,
}

/// A kernel on this host, or one the catalog offers. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Kernel {
    /// Its name.
    pub name: KernelName,
    /// Who makes it.
    pub distro: String,
    /// `x86_64`.
    pub arch: String,
    /// `uname -r` when it is on this host, else what the catalog says.
    pub kernel_version: String,
    /// Whether it is on this host.
    pub pulled: bool,
    /// From the catalog.
    #[serde(default)]
    pub description: Option<String>,
    /// Bytes on this host.
    #[serde(default)]
    pub size: Option<ByteSize>,
    /// SHA-256 of `vmlinux`, hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Where it came from, such as `apt linux-image-6.1.0-49-cloud-amd64 6.1.174-1`.
    #[serde(default)]
    pub source: Option<String>,
    /// When it came here (RFC 3339, UTC).
    #[serde(default)]
    pub imported_at: Option<String>,
    /// Modules a guest loads before it has disks, in order.
    #[serde(default)]
    pub boot_modules: Vec<String>,
    /// VMs that use it.
    #[serde(default)]
    pub used_by: Vec<VmName>,
}

/// Body of `POST /v1/images/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// A catalog name.
    pub image: ImageName,
}

/// Body of `POST /v1/kernels/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullKernel {
    /// A catalog name.
    pub kernel: KernelName,
    /// Pull again what is there.
    #[serde(default)]
    pub force: bool,
}
