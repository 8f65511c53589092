//! Errors of kernels, for callers that tell cases apart.

use super::{
    AptError, ArchiveError, BundleError, BzImageError, DebError, ElfError, ManifestError, ModulesError, SourceError,
    TreeError,
};
use crate::{
    initramfs::InitramfsError,
    job::{Cancel, Cancelled},
    program::ProgramError,
    publish::PublishError,
};
use banger_proto::name::KernelName;
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

/// Error of an operation on kernels.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No kernel of that name is on this host.
    #[error("there is no kernel {name} on this host")]
    NotFound {
        /// The name.
        name: KernelName,
    },
    /// No catalog offers a kernel of that name for this processor.
    #[error("no catalog has a kernel {name} for {arch}")]
    NotOffered {
        /// The name.
        name: KernelName,
        /// The processor.
        arch: &'static str,
    },
    /// A kernel of that name is here already.
    #[error("there is a kernel {name} already")]
    AlreadyExists {
        /// The name.
        name: KernelName,
    },
    /// The stored kernel is damaged.
    #[error("kernel {name} is damaged")]
    Corrupt {
        /// The name.
        name: KernelName,
        /// Cause.
        source: Corruption,
    },
    /// None of the entry's sources worked; `source` holds their errors in order.
    #[error("cannot pull kernel {name}")]
    Pull {
        /// The name.
        name: KernelName,
        /// Cause.
        source: Box<KernelError>,
    },
    /// Error of one of several sources; `source` is that of the next one.
    #[error("{}", in_one_line(failure))]
    Earlier {
        /// Error of this source.
        failure: Box<KernelError>,
        /// Error of the next source.
        source: Box<KernelError>,
    },
    /// The import failed.
    #[error("cannot import kernel {name} from {}", from.display())]
    Import {
        /// The name.
        name: KernelName,
        /// Path given by the user.
        from: PathBuf,
        /// Cause.
        source: Box<KernelError>,
    },
    /// The catalog entry has no source this banger can use.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// apt failed.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A bundle could not be downloaded, or was refused.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A package could not be read.
    #[error(transparent)]
    Deb(#[from] DebError),
    /// An archive or a tree was refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The kernel image could not be unpacked.
    #[error("the kernel image cannot be used")]
    BzImage(#[from] BzImageError),
    /// The file is no kernel image.
    #[error("the kernel image cannot be used")]
    Elf(#[from] ElfError),
    /// The parts do not make a kernel.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The modules could not be used.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// A tree could not be read, or its image not written.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The store could not be written.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The initramfs could not be made.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// What the user named could not be used. The error above this one has its path.
    #[error("cannot {what} it")]
    Named {
        /// The step, as a verb.
        what: &'static str,
        /// Error of the system.
        source: io::Error,
    },
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

/// Damage of a stored kernel.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// The manifest is unusable.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file is missing or cannot be read.
    #[error("cannot read its {file}")]
    File {
        /// The file's name.
        file: &'static str,
        /// Error of the system.
        source: io::Error,
    },
    /// Its `vmlinux` is not a kernel image, or not all of it.
    #[error("its vmlinux is not a kernel image")]
    Elf(#[from] ElfError),
    /// A hash differs from the manifest's.
    #[error("the SHA-256 of its {what} is {found}, and the manifest says {expected}")]
    Hash {
        /// `vmlinux` or `files`.
        what: &'static str,
        /// Hash in the manifest.
        expected: String,
        /// Actual hash.
        found: String,
    },
    /// It has a file that its import did not make.
    #[error("it came without a {0}, and now there is one")]
    Added(&'static str),
}

/// Why files do not make a kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No `vmlinux`, `bzImage` or `vmlinuz`.
    #[error("there is no kernel image in it")]
    NoKernel,
    /// There is more than one image.
    #[error("there is more than one kernel image in it")]
    TwoKernels,
    /// There are module trees of more than one release.
    #[error("there are modules for {0} and for {1} in it")]
    TwoTrees(String, String),
    /// Neither the kernel nor its other files contain its release.
    #[error("its release (uname -r) is not to be found")]
    NoRelease,
    /// The sources of the release disagree.
    #[error("its kernel is {kernel}, and {what} says {other}")]
    Release {
        /// Release of the kernel.
        kernel: String,
        /// The source that disagrees.
        what: &'static str,
        /// Release of that source.
        other: String,
    },
    /// The release is no valid file name.
    #[error("{0:?} is not a kernel release")]
    BadRelease(String),
    /// It is for another processor.
    #[error("it is for {0}, and this host is {arch}", arch = std::env::consts::ARCH)]
    Arch(String),
    /// It is neither a directory nor a file.
    #[error("it is neither a directory nor a regular file")]
    Kind,
}

/// Formats an error with all its causes in one line, for use inside another chain.
fn in_one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line = format!("{line}: {cause}");
        next = cause.source();
    }
    line
}

impl KernelError {
    /// Chains the errors of several sources in order.
    pub(super) fn in_order(failures: Vec<Self>) -> Option<Self> {
        let join = |source: Self, failure: Self| Self::Earlier { failure: Box::new(failure), source: Box::new(source) };
        failures.into_iter().rev().reduce(join)
    }

    /// Returns [`Self::Cancelled`] if the job was cancelled, else this error: a cancelled step fails in many ways.
    pub(super) fn or_cancelled(self, cancel: &Cancel) -> Self {
        cancel.check().err().map_or(self, Self::Cancelled)
    }

    /// Whether the input is no kernel at all, as opposed to a bad one.
    pub fn is_no_kernel(&self) -> bool {
        match self {
            Self::Import { source, .. } => source.is_no_kernel(),
            Self::Unusable(Unusable::NoKernel | Unusable::Kind)
            | Self::BzImage(BzImageError::NotBzImage)
            | Self::Elf(ElfError::NotElf | ElfError::Type(_))
            | Self::Deb(DebError::NotDeb) => true,
            _ => false,
        }
    }

    /// Takes a path out of the error that the error above it has.
    pub(super) fn below(self, above: &Path) -> Self {
        match self {
            Self::Io { what, path, source } if path == above => Self::Named { what, source },
            Self::Tree(TreeError::Io { path, source }) if path == above => Self::Named { what: "read", source },
            other => other,
        }
    }

    /// Error of the system that kept an import from a file of the user's.
    pub fn unreadable(&self) -> Option<&io::Error> {
        let Self::Import { source, .. } = self else { return None };
        match &**source {
            Self::Named { source, .. } | Self::Io { source, .. } | Self::Tree(TreeError::Io { source, .. }) => {
                Some(source)
            }
            _ => None,
        }
    }

    /// Missing program and the Debian package that provides it, if that is the cause.
    pub fn missing_program(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::Earlier { failure, source } => failure.missing_program().or_else(|| source.missing_program()),
            Self::Pull { source, .. }
            | Self::Import { source, .. }
            | Self::Bundle(BundleError::Refused { source, .. }) => source.missing_program(),
            Self::Apt(AptError::Program(ProgramError::Missing { program, package }))
            | Self::Modules(ModulesError::Program(ProgramError::Missing { program, package })) => {
                Some((program, package))
            }
            _ => None,
        }
    }
}
