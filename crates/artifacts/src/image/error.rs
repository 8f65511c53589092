//! Errors of images, for callers that tell cases apart.

use super::{BundleError, DebianError, FileChanged, ManifestError, SourceError, UnfitFile};
use crate::{
    fetch::FetchError,
    job::{Cancel, Cancelled},
    oci::OciError,
    program::ProgramError,
    publish::{PublishError, is_full},
    rootfs::RootfsError,
};
use banger_proto::name::{ImageId, ImageName};
use std::{io, path::PathBuf};

/// Error of an operation on images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that id is on this host.
    #[error("there is no image {id} on this host")]
    NotFound {
        /// The id.
        id: ImageId,
    },
    /// The stored image is damaged.
    #[error("image {id} is damaged")]
    Corrupt {
        /// The id.
        id: ImageId,
        /// Cause.
        source: Corruption,
    },
    /// None of the entry's sources worked; `source` is the error of the last one tried.
    #[error("cannot pull {what}")]
    Pull {
        /// `image NAME`, or the file with images that was asked for.
        what: String,
        /// Cause.
        source: Box<ImageError>,
    },
    /// The manifest of a new image could not be read again.
    #[error("the manifest of image {name} cannot be kept")]
    Manifest {
        /// What it would be called.
        name: ImageName,
        /// Cause.
        source: ManifestError,
    },
    /// A file cannot be used as an image.
    #[error("cannot use {} as an image", path.display())]
    Register {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: UnfitFile,
    },
    /// The image could not be built.
    #[error("cannot build image {name}")]
    Build {
        /// The name.
        name: ImageName,
        /// Cause.
        source: Box<ImageError>,
    },
    /// The catalog entry has a source this banger cannot use.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The Debian could not be bootstrapped.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// An OCI image could not be pulled.
    #[error(transparent)]
    Oci(#[from] Box<OciError>),
    /// A bundle is no valid image.
    #[error(transparent)]
    Bundle(#[from] Box<BundleError>),
    /// Another image has the same id.
    #[error("another image is here under the id {id}")]
    Taken {
        /// The id.
        id: ImageId,
    },
    /// The same image exists, and its manifest runs commands differently.
    #[error("the same image is here already, as {id}, and is run in another way than this one says")]
    Disputed {
        /// The id.
        id: ImageId,
    },
    /// The image is missing, and somebody depends on it who had it from another source than the bundle.
    #[error("this is image {id}, which was lost here; how it is run is not for a bundle to say")]
    Missed {
        /// The id.
        id: ImageId,
    },
    /// The image is managed already.
    #[error("image {id} is banger's own already")]
    Managed {
        /// The id.
        id: ImageId,
    },
    /// The image is a file of the user's and is not exported.
    #[error("image {id} is a file of yours, used where it lies")]
    Unmanaged {
        /// The id.
        id: ImageId,
    },
    /// The path for a bundle is taken by something that is no regular file.
    #[error("{} is there, and is no regular file", path.display())]
    Output {
        /// Where the bundle was to be.
        path: PathBuf,
    },
    /// The root filesystem cannot be built.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The store could not be written.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A file could not be used.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Damage of a stored image.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// The manifest cannot be used.
    #[error("its manifest cannot be used")]
    Manifest(#[from] ManifestError),
    /// The file is missing or cannot be read.
    #[error("cannot read its rootfs.ext4")]
    File(#[from] io::Error),
    /// Its file has another length.
    #[error("its rootfs.ext4 has {is} bytes, not {should}")]
    Size {
        /// Actual size in bytes.
        is: u64,
        /// Size in the manifest, in bytes.
        should: u64,
    },
    /// Its file does not begin like an ext4 of that size.
    #[error("its rootfs.ext4 is not the ext4 filesystem it was")]
    Superblock,
    /// The user's file is no longer what was registered.
    #[error("its file {} is not what was registered", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// How it changed.
        source: FileChanged,
    },
    /// A sync failed in this boot of the host: what is read may be what is in memory, or nothing.
    #[error("the disk has refused part of it")]
    Refused,
    /// Its file has another content.
    #[error("its rootfs.ext4 has the digest {is}")]
    Digest {
        /// Actual digest, prefixed with its hash function.
        is: String,
    },
}

impl Corruption {
    /// Whether data is lost, rather than out of reach or written by another banger.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Manifest(ManifestError::Io(error)) | Self::File(error) => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
            }
            Self::Manifest(ManifestError::Version(_)) | Self::Changed { .. } | Self::Refused => false,
            Self::Manifest(_) | Self::Size { .. } | Self::Superblock | Self::Digest { .. } => true,
        }
    }
}

impl From<BundleError> for ImageError {
    fn from(error: BundleError) -> Self {
        Self::Bundle(Box::new(error))
    }
}

impl From<OciError> for ImageError {
    fn from(error: OciError) -> Self {
        Self::Oci(Box::new(error))
    }
}

impl ImageError {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// Returns the innermost error below those that only add a name.
    pub fn root(&self) -> &Self {
        match self {
            Self::Pull { source, .. } | Self::Build { source, .. } => source.root(),
            other => other,
        }
    }

    /// Whether the cause is cancellation.
    pub fn is_cancelled(&self) -> bool {
        match self.root() {
            Self::Oci(error) => return error.is_cancelled(),
            Self::Bundle(error) => {
                return matches!(
                    **error,
                    BundleError::Fetch(FetchError::Cancelled(_)) | BundleError::Archive(RootfsError::Cancelled(_))
                );
            }
            _ => {}
        }
        matches!(
            self.root(),
            Self::Cancelled(_)
                | Self::Publish(PublishError::Cancelled(_))
                | Self::Rootfs(RootfsError::Cancelled(_))
                | Self::Debian(
                    DebianError::Rootfs(RootfsError::Cancelled(_)) | DebianError::Program(ProgramError::Cancelled(_))
                )
        )
    }

    /// Whether the cause is a full disk or quota, so that freeing space helps.
    pub fn is_out_of_space(&self) -> bool {
        match self.root() {
            Self::Rootfs(error) | Self::Debian(DebianError::Rootfs(error)) => error.is_out_of_space(),
            Self::Oci(error) => error.is_out_of_space(),
            Self::Bundle(error) => matches!(&**error, BundleError::Write(source) if is_full(source)),
            Self::Io { source, .. }
            | Self::Publish(PublishError::Io { source, .. })
            | Self::Debian(DebianError::Write { source, .. }) => is_full(source),
            // The bootstrap's own temporary files.
            Self::Debian(DebianError::Bootstrap { said }) => said.contains("No space left on device"),
            _ => false,
        }
    }

    /// Missing program and the Debian package that provides it, if that is the cause.
    pub fn missing_program(&self) -> Option<(&str, &'static str)> {
        match self.root() {
            Self::Debian(DebianError::Program(ProgramError::Missing { program, package })) => Some((program, package)),
            _ => None,
        }
    }

    /// Whether the cause is that this process runs in another group than the user's own.
    pub fn is_of_another_group(&self) -> bool {
        matches!(self.root(), Self::Debian(DebianError::Program(ProgramError::Group { .. })))
    }

    /// Whether this host can never do it, as opposed to not now.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.root(), Self::Source(_) | Self::Debian(DebianError::NoSources(_) | DebianError::Architecture(_)))
    }

    /// Turns the error into [`Cancelled`] if the job was cancelled, whatever failed because of it.
    pub(super) fn or_cancelled(self, cancel: &Cancel) -> Self {
        if cancel.is_cancelled() { Self::Cancelled(Cancelled) } else { self }
    }
}
