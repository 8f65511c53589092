//! Images and kernels.

use crate::{
    failure::Failure,
    name::{ImageId, ImageName, KernelName, VmName},
    size::ByteSize,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A root file system image on this host. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    /// Tells the content; never reused for another.
    pub id: ImageId,
    /// The names that point at it now.
    pub names: Vec<ImageName>,
    /// Of what identifies the content: `blake3:<hex>`, or `sha256:<hex>`; `unknown` where its manifest is damaged.
    pub digest: String,
    /// Where it came from, such as `mmdebstrap bookworm`; `unknown` where its manifest is damaged.
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
    /// Whether it can be used.
    #[serde(default)]
    pub state: ImageState,
    /// Why it cannot be used, or not at once.
    #[serde(default)]
    pub problem: Option<String>,
    /// What would help against that.
    #[serde(default)]
    pub hints: Vec<String>,
    /// VMs that use it.
    #[serde(default)]
    pub used_by: Vec<VmName>,
}

/// Whether an image can be used, as far as a look at it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImageState {
    /// It can.
    #[default]
    Ready,
    /// It was made shortly before the host went down, and nobody has read it as a whole since: what needs it waits for that.
    Unread,
    /// It cannot.
    Damaged,
}

/// A kernel on this host, or one a catalog offers. Field names are stable.
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
    /// The catalog that offers it: `built-in`, or its address or path.
    #[serde(default)]
    pub catalog: Option<String>,
    /// Bytes on this host.
    #[serde(default)]
    pub size: Option<ByteSize>,
    /// Bytes a pull downloads, when the catalog says so: of a package only apt knows it, once it has looked.
    #[serde(default)]
    pub download: Option<ByteSize>,
    /// Whether the catalog's bundle is another one than what was pulled from it: `pull --force` gets it.
    #[serde(default)]
    pub outdated: bool,
    /// Whether its files are no longer what was pulled or imported; `null` when nobody looked.
    #[serde(default)]
    pub modified: Option<bool>,
    /// Why it cannot be used, or what was modified.
    #[serde(default)]
    pub problem: Option<String>,
    /// SHA-256 of `vmlinux`, hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Where it came from, such as `apt linux-image-6.1.0-49-cloud-amd64 6.1.174-1`; where a pull would get it when it is
    /// not here.
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
    /// Images that recommend it: their first names, or ids where they have none.
    #[serde(default)]
    pub used_by_images: Vec<String>,
}

/// A list of kernels that can be pulled. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KernelCatalog {
    /// `built-in`, or its address or path as the configuration has it.
    pub place: String,
    /// How many kernels it offers for this host's processor.
    pub kernels: usize,
    /// Why it cannot be read, if it cannot.
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// Body of `POST /v1/images/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// A catalog name; `oci:DIR`, `oci-archive:FILE` or `docker-archive:FILE` with an absolute path, and perhaps `:NAME`
    /// behind it; anything else is an OCI reference.
    pub image: String,
    /// What it is called from now on; else its familiar name. Refused when that is the name of something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ImageName>,
    /// The kernel it will recommend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    /// Which of the image's platforms, such as `linux/amd64`; else the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// A file with logins, as Docker and Podman write it, that counts instead of the daemon's own: an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub logins: Option<PathBuf>,
    /// Points a name that another image has at this one, and takes a bundle's word for an image that was lost and that others
    /// rely on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Body of `POST /v1/images/build`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// What it is called from now on.
    pub name: ImageName,
    /// A release of Debian, such as `bookworm`.
    pub debian: String,
    /// Packages besides the essential ones and apt.
    #[serde(default)]
    pub include: Vec<String>,
    /// The kernel it will recommend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    /// Points a name that another image has at this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Body of `POST /v1/images/{ref}/bundle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BundleImage {
    /// The file that is written: an absolute path. What is there is replaced.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub output: PathBuf,
}

/// A bundle that was written: what a catalog says of it. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageBundle {
    /// The file.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: ByteSize,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// The catalog entry for it, but for the address it will have.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub entry: serde_json::Value,
}

/// What went from the cache of layers, or would. Field names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CachePruned {
    /// Layers.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: ByteSize,
    /// Layers left alone because a pull reads them.
    pub in_use: u64,
}

/// Body of `POST /v1/images/register`. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RegisterImage {
    /// What it is called from now on.
    pub name: ImageName,
    /// An ext4 file, used where it lies.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub rootfs: PathBuf,
    /// The kernel it recommends; excludes the other three.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// A kernel file, imported under the image's name.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub kernel_file: Option<PathBuf>,
    /// That kernel's initrd.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub initrd: Option<PathBuf>,
    /// That kernel's modules.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub modules: Option<PathBuf>,
    /// Points a name that another image has at this one, and replaces a kernel imported under it.
    #[serde(default)]
    pub force: bool,
}

/// Body of `POST /v1/kernels/import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportKernel {
    /// What it is called from now on.
    pub kernel: KernelName,
    /// A directory, a Debian package or a kernel file; absolute.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub from: PathBuf,
    /// Who makes it.
    #[serde(default)]
    pub distro: Option<String>,
    /// The processor, which has to be the host's.
    #[serde(default)]
    pub arch: Option<String>,
    /// `uname -r`, for a kernel that does not say it.
    #[serde(default)]
    pub kernel_version: Option<String>,
    /// Replaces a kernel of that name.
    #[serde(default)]
    pub force: bool,
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
