//! What can be wrong with an image, for callers that tell cases apart.

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

/// Why there is no image to work with.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that id is on this host.
    #[error("there is no image {id} on this host")]
    NotFound {
        /// The id.
        id: ImageId,
    },
    /// What is stored under the id is not what was put there.
    #[error("image {id} is damaged")]
    Corrupt {
        /// The id.
        id: ImageId,
        /// What is wrong.
        source: Corruption,
    },
    /// None of the entry's sources gave it; `source` is what the last one tried said.
    #[error("cannot pull image {name}")]
    Pull {
        /// The name.
        name: ImageName,
        /// What went wrong.
        source: Box<ImageError>,
    },
    /// What there is to know about an image could not be read again.
    #[error("the manifest of image {name} cannot be kept")]
    Manifest {
        /// What it would be called.
        name: ImageName,
        /// Why not.
        source: ManifestError,
    },
    /// A file cannot be used as an image.
    #[error("cannot use {} as an image", path.display())]
    Register {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: UnfitFile,
    },
    /// The image could not be built.
    #[error("cannot build image {name}")]
    Build {
        /// The name.
        name: ImageName,
        /// What went wrong.
        source: Box<ImageError>,
    },
    /// The catalog entry has a source this banger cannot use.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The Debian could not be bootstrapped.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// Somebody else's image could not be had.
    #[error(transparent)]
    Oci(#[from] Box<OciError>),
    /// What somebody published is no image.
    #[error(transparent)]
    Bundle(#[from] Box<BundleError>),
    /// Another image has the same id.
    #[error("another image is here under the id {id}")]
    Taken {
        /// The id.
        id: ImageId,
    },
    /// The same image is here, and its manifest says otherwise how it is run.
    #[error("the same image is here already, as {id}, and is run in another way than this one says")]
    Disputed {
        /// The id.
        id: ImageId,
    },
    /// Somebody relies on the image, which was lost, and had it from elsewhere than from the bundle.
    #[error("this is image {id}, which was lost here; how it is run is not for a bundle to say")]
    Missed {
        /// The id.
        id: ImageId,
    },
    /// It is in the store already.
    #[error("image {id} is banger's own already")]
    Managed {
        /// The id.
        id: ImageId,
    },
    /// It is a file of the user's, and nobody else's.
    #[error("image {id} is a file of yours, used where it lies")]
    Unmanaged {
        /// The id.
        id: ImageId,
    },
    /// What would give way to a bundle is no regular file.
    #[error("{} is there, and is no regular file", path.display())]
    Output {
        /// Where the bundle was to be.
        path: PathBuf,
    },
    /// What was found cannot be an image.
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
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was told to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What is wrong with a stored image.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// Its manifest.
    #[error("its manifest cannot be used")]
    Manifest(#[from] ManifestError),
    /// Its file is not there or cannot be read.
    #[error("cannot read its rootfs.ext4")]
    File(#[from] io::Error),
    /// Its file has another length.
    #[error("its rootfs.ext4 has {is} bytes, not {should}")]
    Size {
        /// What there is.
        is: u64,
        /// What there should be.
        should: u64,
    },
    /// Its file does not begin like an ext4 of that size.
    #[error("its rootfs.ext4 is not the ext4 filesystem it was")]
    Superblock,
    /// It is a file of the user's, which is no longer what was registered.
    #[error("its file {} is not what was registered", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What became of it.
        source: FileChanged,
    },
    /// The disk refused it in this boot of the host: what is read of it may be what is in memory, or nothing.
    #[error("the disk has refused part of it")]
    Refused,
    /// Its file has another content.
    #[error("its rootfs.ext4 has the digest {is}")]
    Digest {
        /// The digest it has, with its kind.
        is: String,
    },
}

impl Corruption {
    /// Whether something of it is lost, and not only out of reach, or for another banger to read.
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

    /// The innermost of errors that only add a name.
    pub fn root(&self) -> &Self {
        match self {
            Self::Pull { source, .. } | Self::Build { source, .. } => source.root(),
            other => other,
        }
    }

    /// Whether it was told to stop, wherever that was noticed.
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

    /// Whether the disk (or the user's quota) was full: freeing space and trying again helps.
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

    /// The program that is missing and the Debian package that has it, when that is the reason.
    pub fn missing_program(&self) -> Option<(&str, &'static str)> {
        match self.root() {
            Self::Debian(DebianError::Program(ProgramError::Missing { program, package })) => Some((program, package)),
            _ => None,
        }
    }

    /// Whether this process is in another group than its user's own, and that is the reason.
    pub fn is_of_another_group(&self) -> bool {
        matches!(self.root(), Self::Debian(DebianError::Program(ProgramError::Group { .. })))
    }

    /// This host cannot do it at all, as opposed to not now.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.root(), Self::Source(_) | Self::Debian(DebianError::NoSources | DebianError::Architecture(_)))
    }

    /// As [`Cancelled`] when the job was told to stop, whatever broke because of it.
    pub(super) fn or_cancelled(self, cancel: &Cancel) -> Self {
        if cancel.is_cancelled() { Self::Cancelled(Cancelled) } else { self }
    }
}
