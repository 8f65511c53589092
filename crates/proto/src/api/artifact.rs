//! Images and kernels.

use crate::{
    failure::Failure,
    name::{ImageId, ImageName, KernelName, VmName},
    size::ByteSize,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// A root file system image on this host. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    /// Id of the content; never reused for other content.
    pub id: ImageId,
    /// Names that point at it now.
    pub names: Vec<ImageName>,
    /// Digest of the content: `blake3:<hex>` or `sha256:<hex>`; `unknown` where its manifest is damaged.
    pub digest: String,
    /// Source, such as `mmdebstrap bookworm`; `unknown` where its manifest is damaged.
    pub source: String,
    /// Bytes of the root file system on this host.
    pub size: ByteSize,
    /// Whether banger owns the file.
    pub managed: bool,
    /// Kernel it recommends.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// `PRETTY_NAME` of its os-release: guest text, escape it.
    #[serde(default)]
    pub os: Option<String>,
    /// Processor it is made for, as `uname -m` names it; absent where its manifest is damaged.
    #[serde(default)]
    pub arch: Option<String>,
    /// Init it has, which `vm run --init auto` starts.
    #[serde(default)]
    pub init: Option<String>,
    /// What it says about its commands. Absent in lists, and where it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
    /// When it was made on this host (RFC 3339, UTC).
    pub created_at: String,
    /// Whether it can be used.
    #[serde(default)]
    pub state: ImageState,
    /// Why it cannot be used, or not at once.
    #[serde(default)]
    pub problem: Option<String>,
    /// Hints that help against the problem.
    #[serde(default)]
    pub hints: Vec<String>,
    /// VMs that use it.
    #[serde(default)]
    pub used_by: Vec<VmName>,
}

/// Defaults of the commands that run in an image: the content of an OCI image configuration. Guest text, escape it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageConfig {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default)]
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(default)]
    pub user: Option<String>,
    /// Words before the command.
    pub entrypoint: Vec<String>,
    /// Default command.
    pub cmd: Vec<String>,
}

/// Whether an image can be used, as far as a quick check tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImageState {
    /// The image can be used.
    #[default]
    Ready,
    /// The image was made shortly before the host went down and has not been read as a whole since; a VM that needs it
    /// waits for that.
    Unread,
    /// The image cannot be used.
    Damaged,
}

/// A kernel on this host, or one a catalog offers. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Kernel {
    /// Name of the kernel.
    pub name: KernelName,
    /// Distribution that makes it.
    pub distro: String,
    /// Architecture, such as `x86_64`.
    pub arch: String,
    /// `uname -r` when it is on this host, else the catalog's version.
    pub kernel_version: String,
    /// Whether it is on this host.
    pub pulled: bool,
    /// Description in the catalog.
    #[serde(default)]
    pub description: Option<String>,
    /// Catalog that offers it: `built-in`, or its address or path.
    #[serde(default)]
    pub catalog: Option<String>,
    /// Bytes on this host.
    #[serde(default)]
    pub size: Option<ByteSize>,
    /// Bytes a pull downloads, as far as the catalog says; for a package only apt knows, after it has looked.
    #[serde(default)]
    pub download: Option<ByteSize>,
    /// Whether the catalog's bundle differs from the one that was pulled: `pull --force` gets the new one.
    #[serde(default)]
    pub outdated: bool,
    /// Whether its files differ from what was pulled or imported; `null` when not checked.
    #[serde(default)]
    pub modified: Option<bool>,
    /// Why it cannot be used, or what was modified.
    #[serde(default)]
    pub problem: Option<String>,
    /// SHA-256 of `vmlinux`, hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Source, such as `apt linux-image-6.1.0-49-cloud-amd64 6.1.174-1`; for a kernel that is not here, the source a
    /// pull would use.
    #[serde(default)]
    pub source: Option<String>,
    /// When it was pulled or imported (RFC 3339, UTC).
    #[serde(default)]
    pub imported_at: Option<String>,
    /// Modules a guest loads before it has disks, in order.
    #[serde(default)]
    pub boot_modules: Vec<String>,
    /// VMs that use it.
    #[serde(default)]
    pub used_by: Vec<VmName>,
    /// Images that recommend it: their first names, or the ids of those without a name.
    #[serde(default)]
    pub used_by_images: Vec<String>,
}

/// Catalog of kernels that can be pulled. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KernelCatalog {
    /// Location: `built-in`, or the address or path in the configuration.
    pub place: String,
    /// Number of kernels it offers for this host's processor.
    pub kernels: usize,
    /// Why it cannot be read, if it cannot.
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// Catalog of images that can be pulled. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageCatalog {
    /// Location: `built-in`, or the address or path in the configuration.
    pub place: String,
    /// Images for this host's processor, by name, without those of which a catalog of higher precedence has the name.
    pub images: Vec<OfferedImage>,
    /// Why it cannot be read, if it cannot.
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// An image that a catalog offers. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OfferedImage {
    /// Name to pull it by.
    pub name: ImageName,
    /// Description in the catalog.
    #[serde(default)]
    pub description: Option<String>,
    /// Kernel it is pulled with.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// Its sources, in the order in which they are tried, such as `mmdebstrap bookworm`; without those that this banger
    /// has no use for.
    pub sources: Vec<String>,
    /// Bytes of its first bundle to download, if it has one.
    #[serde(default)]
    pub download: Option<ByteSize>,
    /// Image on this host that has the name.
    #[serde(default)]
    pub id: Option<ImageId>,
}

/// Body of `POST /v1/images/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// Image to pull: a catalog name; or `oci:DIR`, `oci-archive:FILE` or `docker-archive:FILE` with an absolute path,
    /// optionally followed by `:NAME`; anything else is an OCI reference.
    pub image: String,
    /// Name to give it; when absent, its familiar name. Refused when it is the name of something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ImageName>,
    /// Kernel it will recommend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    /// Platform of the image, such as `linux/amd64`; when absent, the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// File with registry logins, in Docker's and Podman's format, that replaces the daemon's own: an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub logins: Option<PathBuf>,
    /// Takes the name from another image, and believes a bundle about an image that was lost and that others depend on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Body of `POST /v1/images/build`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// Name to give it.
    pub name: ImageName,
    /// Release of Debian, such as `bookworm`.
    pub debian: String,
    /// Packages besides the essential ones and apt.
    #[serde(default)]
    pub include: Vec<String>,
    /// Kernel it will recommend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    /// Takes the name from another image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Body of `POST /v1/images/{ref}/bundle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BundleImage {
    /// Absolute path of the file to write; an existing file is replaced.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub output: PathBuf,
}

/// Bundle that was written, as a catalog describes it. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageBundle {
    /// Path of the file.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub path: PathBuf,
    /// Length of the file, in bytes.
    pub size: ByteSize,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Catalog entry for it, without the address it will have.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub entry: serde_json::Value,
}

/// Result of `POST /v1/images/cache/prune`: what was removed, or would be. Field names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CachePruned {
    /// Number of removed layers.
    pub blobs: u64,
    /// Bytes of the removed layers.
    pub bytes: ByteSize,
    /// Number of layers kept because a pull reads them.
    pub in_use: u64,
}

/// Body of `POST /v1/images/register`. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RegisterImage {
    /// Name to give it.
    pub name: ImageName,
    /// Path of an ext4 file, which is used in place.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub rootfs: PathBuf,
    /// Kernel it recommends; excludes the other four. Without any of the five, the same file registered again goes on
    /// recommending the kernel it recommended.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// Whether it recommends no kernel, so that its VMs boot the default one, whatever it recommended before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default_kernel: bool,
    /// Path of a kernel file, imported under the image's name.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub kernel_file: Option<PathBuf>,
    /// Path of the kernel's initrd.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub initrd: Option<PathBuf>,
    /// Path of the kernel's modules.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub modules: Option<PathBuf>,
    /// Takes the name from another image, and replaces a kernel imported under it.
    #[serde(default)]
    pub force: bool,
}

/// Body of `POST /v1/kernels/import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportKernel {
    /// Name to give it.
    pub kernel: KernelName,
    /// Path of a directory, a Debian package or a kernel file; absolute.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub from: PathBuf,
    /// Distribution that makes it.
    #[serde(default)]
    pub distro: Option<String>,
    /// Architecture, which must be the host's.
    #[serde(default)]
    pub arch: Option<String>,
    /// `uname -r`, for a kernel that does not contain it.
    #[serde(default)]
    pub kernel_version: Option<String>,
    /// Whether to replace a kernel with that name.
    #[serde(default)]
    pub force: bool,
}

/// Body of `POST /v1/kernels/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullKernel {
    /// Name in a catalog.
    pub kernel: KernelName,
    /// Whether to pull a kernel again that is here.
    #[serde(default)]
    pub force: bool,
}
