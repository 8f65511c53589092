//! Converts every typed error to the [`Failure`] a user sees: its code, causes and hints.
//!
//! Nothing else knows all errors. Modules report what happened; what it means for the user is decided here, so that one
//! kind of error has one code and one hint wherever it comes from.

mod oci;

use crate::{config::ConfigError, daemon::StartError, store::StoreError};
use banger_artifacts::{
    disk::DiskError,
    image::{Corruption, FileChanged, ImageError, ManifestError},
    kernel::KernelError,
    program::ProgramError,
};
use banger_link::vsock::ConnectError;
use banger_machine::{shim::client::ShimError, vmm::select::NoVmm};
use banger_proto::failure::{Code, Failure};
use std::{error::Error, io, path::Path};

/// Iterates over an error and its sources, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// Failure with `error` as the message and its sources as causes. A full disk is `unavailable` wherever it happens.
fn from_error(code: Code, error: &(dyn Error + 'static)) -> Failure {
    let mut failure = Failure::new(code, error.to_string());
    failure.causes = chain(error).skip(1).map(ToString::to_string).collect();
    with_common_causes(failure, error)
}

/// Failure with `message`, and `error` and its sources as causes.
pub(crate) fn because(code: Code, message: impl Into<String>, error: &(dyn Error + 'static)) -> Failure {
    with_common_causes(Failure::caused_by(code, message, error), error)
}

/// Sets code and hints for errors that mean the same in every module: no space, no permission.
fn with_common_causes(mut failure: Failure, error: &(dyn Error + 'static)) -> Failure {
    if chain(error).any(is_full) {
        failure.code = Code::Unavailable;
        return no_room(failure);
    }
    failure
}

fn no_room(failure: Failure) -> Failure {
    failure
        .hint("free some space and try again; `banger vm list` and `banger image list` show what takes room")
        .hint("`banger vm delete` and `banger image delete` give it back")
}

fn is_full(error: &(dyn Error + 'static)) -> bool {
    let by_system = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
    let by_database = error
        .downcast_ref::<rusqlite::Error>()
        .is_some_and(|error| error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull));
    by_system || by_database
}

/// Failure of an I/O step, given as a verb (`create`, `read`), on a path.
pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Failure {
    because(Code::Internal, format!("cannot {what} {}", path.display()), error)
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Newer { .. } => from_error(Code::Unsupported, &error)
                .hint("install the newer version again, or move the state directory away to start afresh"),
            StoreError::Taken(_) => from_error(Code::AlreadyExists, &error),
            _ => from_error(Code::Internal, &error),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = from_error(Code::Invalid, &error);
        match &error {
            ConfigError::Syntax { .. } => failure.hint("docs/configuration.md lists every key"),
            _ => failure,
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => error.into(),
            StartError::Store(error) => error.into(),
            StartError::Services(failure) => *failure,
            error @ (StartError::NoHome | StartError::BadReadyFd) => from_error(Code::Invalid, &error),
            error @ StartError::NotOurs { .. } => {
                from_error(Code::Denied, &error).hint("set XDG_RUNTIME_DIR to a directory of yours with mode 0700")
            }
            error @ (StartError::Held { .. } | StartError::RunHeld { .. }) => from_error(Code::Conflict, &error),
            error => from_error(Code::Unavailable, &error),
        }
    }
}

/// Conversion of other crates' errors, which cannot implement `Into<Failure>` here.
pub(crate) trait Explain {
    /// Converts the error to a failure for the user.
    fn explain(self) -> Failure;
}

impl Explain for NoVmm {
    fn explain(self) -> Failure {
        match &self {
            NoVmm::Missing { package: Some(package), .. } => {
                from_error(Code::Unavailable, &self).hint(format!("sudo apt install {package}"))
            }
            NoVmm::Missing { package: None, .. } => from_error(Code::Unavailable, &self)
                .hint("a VM made with --vmm auto takes what works here, one with --vmm qemu needs no KVM")
                .hint(format!("`{}` in config.toml says where the program is", self.key())),
            NoVmm::Unfit { .. } | NoVmm::TooOld { .. } => from_error(Code::Unsupported, &self)
                .hint(format!("`{}` in config.toml names another program", self.key())),
            NoVmm::Broken { .. } => from_error(Code::Unavailable, &self)
                .hint(format!("`{}` in config.toml names another program", self.key())),
        }
    }
}

impl Explain for ShimError {
    fn explain(self) -> Failure {
        let message = "the machine cannot be started";
        match &self {
            ShimError::NotStarted(_) | ShimError::Program { .. } => because(Code::Unavailable, message, &self),
            ShimError::Slow(_) => because(Code::Timeout, message, &self),
            ShimError::AlreadyRunning(_) | ShimError::Lingering(_) => because(Code::Conflict, message, &self),
            ShimError::Ended(_) => from_error(Code::Guest, &self),
            ShimError::Port { .. } => from_error(Code::Conflict, &self).hint("-p 0:GUEST takes a port that is free"),
            ShimError::Io(_) => from_error(Code::Internal, &self),
        }
    }
}

impl Explain for KernelError {
    fn explain(self) -> Failure {
        let code = match &self {
            Self::NotFound { .. } | Self::NotOffered { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::Import { .. } => self.unreadable().map_or(Code::Invalid, of_local_file),
            Self::Unusable(_) => Code::Invalid,
            Self::Cancelled(_) => return cancelled("the work on a kernel"),
            Self::Pull { .. } | Self::Corrupt { .. } => Code::Unavailable,
            _ => Code::Internal,
        };
        let failure = from_error(code, &self);
        match (&self, self.missing_program()) {
            (_, Some((_, package))) => missing(failure, package),
            (Self::NotFound { .. }, _) => failure.hint("`banger kernel list` shows the kernels on this host"),
            (Self::NotOffered { .. }, _) => failure.hint("`banger kernel list --available` shows what can be pulled"),
            (Self::Import { .. }, _) if self.is_no_kernel() => failure.hint(
                "what can be imported: a directory with a vmlinux, bzImage or vmlinuz; a Debian kernel package \
                 (linux-image-…); a kernel file, ELF or bzImage",
            ),
            _ => failure,
        }
    }
}

impl Explain for ImageError {
    fn explain(self) -> Failure {
        if self.is_cancelled() {
            return cancelled("the work on an image");
        }
        if let Self::Oci(error) = self.root() {
            let (code, hints) = oci::code_and_hints(error);
            return hints.into_iter().fold(from_error(code, &self), Failure::hint);
        }
        let code = match &self {
            Self::NotFound { .. } => Code::NotFound,
            Self::Register { source, .. } => source.unreadable().map_or(Code::Invalid, of_local_file),
            Self::Unmanaged { .. } | Self::Output { .. } => Code::Invalid,
            _ if self.is_unsupported() => Code::Unsupported,
            _ if matches!(self.root(), Self::Taken { .. } | Self::Disputed { .. } | Self::Missed { .. }) => {
                Code::Conflict
            }
            Self::Pull { .. } | Self::Build { .. } | Self::Corrupt { .. } => Code::Unavailable,
            _ => Code::Internal,
        };
        let mut failure = from_error(code, &self);
        if self.is_out_of_space() && failure.hints.is_empty() {
            failure.code = Code::Unavailable;
            failure = no_room(failure);
        }
        if let Self::Taken { id } | Self::Disputed { id } = self.root() {
            return failure
                .hint(format!("`banger image show {id}` says where that one comes from"))
                .hint(format!("`banger image delete {id}`, then the same command again, takes this one"));
        }
        match (&self, self.missing_program()) {
            (_, Some((_, package))) => missing(failure, package),
            _ if self.is_of_another_group() => failure.hint(
                "`banger daemon stop`, then the same command from a shell that is not of `newgrp` or `sg`: the daemon is in \
                 the group it was started in",
            ),
            _ if self.is_unsupported() => failure.hint(
                "`banger image pull debian:12` gets one from a registry; `--image debian:12` runs it, and `default_image` in \
                 config.toml makes it the default",
            ),
            (Self::NotFound { .. }, _) => failure.hint("`banger image list` shows the images on this host"),
            (Self::Unmanaged { id }, _) => {
                failure.hint(format!("`banger image promote {id}` makes it banger's own, with the id of its content"))
            }
            (Self::Corrupt { source: Corruption::Changed { source: FileChanged::Touched, .. }, .. }, _) => failure
                .hint("where its content is what it was: `banger image register` of it again, under the name it has"),
            (Self::Corrupt { source: Corruption::Changed { .. }, .. }, _) => failure
                .hint("put the file back as it was, or register it as it is now: `banger image register --force …`, for new VMs"),
            (Self::Corrupt { source: Corruption::Refused, .. }, _) => failure
                .hint("`banger image pull` of it again, once the disk has room and is sound, puts a whole one in its place"),
            (Self::Corrupt { source: Corruption::Manifest(ManifestError::Version(_)), .. }, _) => {
                failure.hint("a newer banger made it, and can use it; nothing of it is lost")
            }
            (Self::Corrupt { id, source }, _) if source.is_loss() => {
                failure.hint(format!("`banger image delete {id}`, once no VM uses it; the next pull makes it anew"))
            }
            _ => failure,
        }
    }
}

/// Code for an error about a file that the user named.
fn of_local_file(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::Denied,
        _ => Code::Invalid,
    }
}

impl Explain for DiskError {
    fn explain(self) -> Failure {
        let code = match &self {
            Self::Size(_) => Code::Invalid,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::Full { .. } => Code::Unavailable,
            Self::Cancelled(_) => return cancelled("the creation of a work disk"),
            _ => Code::Internal,
        };
        let failure = from_error(code, &self);
        match self {
            Self::Format(ProgramError::Missing { package, .. }) => missing(failure, package),
            _ => failure,
        }
    }
}

/// Adds the command that installs a missing program.
fn missing(mut failure: Failure, package: &str) -> Failure {
    failure.code = Code::Unavailable;
    failure.hint(format!("sudo apt install {package}"))
}

/// End of the message of a canceled operation about which nothing more is known.
const CANCELLED: &str = " was cancelled";

/// Failure of an operation that its client or another request canceled.
pub(crate) fn cancelled(what: &str) -> Failure {
    cut_short(format!("{what}{CANCELLED}"))
}

/// Failure of a canceled operation with a message of its own.
pub(crate) fn cut_short(message: impl Into<String>) -> Failure {
    Failure::new(Code::Conflict, message)
}

/// Whether a failure was made by [`cancelled`].
pub(crate) fn is_cancelled(failure: &Failure) -> bool {
    failure.code == Code::Conflict && failure.message.ends_with(CANCELLED)
}

/// Failure of a request to the guest's agent, which did not answer.
pub(crate) fn no_agent(what: &str, error: &ConnectError) -> Failure {
    because(Code::Guest, format!("the guest's agent does not answer to {what}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_artifacts::{image::DebianError, oci::OciError};

    #[test]
    fn a_full_disk_is_unavailable_wherever_it_happens() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let failure = io("write", "/x".as_ref(), &full());
        assert_eq!((failure.code, failure.hints.len()), (Code::Unavailable, 2));
        let failure = ShimError::Io(full()).explain();
        assert_eq!(failure.code, Code::Unavailable);
        let sqlite = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        assert_eq!(Failure::from(StoreError::Database(sqlite)).code, Code::Unavailable);
    }

    #[test]
    fn a_host_that_is_no_debian_is_told_of_registries() {
        let source = Box::new(ImageError::Debian(DebianError::NoSources(Vec::new())));
        let failure = ImageError::Pull { what: "image debian-bookworm".into(), source }.explain();
        assert_eq!(failure.code, Code::Unsupported);
        assert!(failure.hints.concat().contains("--image debian:12"), "{failure:?}");
    }

    #[test]
    fn a_file_that_cannot_be_used_says_whether_it_is_there_and_may_be_read() {
        use banger_artifacts::image::UnfitFile;
        let from = || std::path::PathBuf::from("/x");
        for (kind, code) in [
            (io::ErrorKind::NotFound, Code::NotFound),
            (io::ErrorKind::NotADirectory, Code::NotFound),
            (io::ErrorKind::PermissionDenied, Code::Denied),
            (io::ErrorKind::InvalidData, Code::Invalid),
            (io::ErrorKind::StorageFull, Code::Unavailable),
        ] {
            let register = ImageError::Register { path: from(), source: UnfitFile::Unreadable(kind.into()) };
            let oci = OciError::Unreadable { what: "open it".into(), source: kind.into() };
            let pull = ImageError::Pull { what: "oci:/x".into(), source: Box::new(ImageError::Oci(Box::new(oci))) };
            let named = KernelError::Named { what: "read", source: kind.into() };
            let name = "mine-6.1".parse().unwrap();
            let import = KernelError::Import { name, from: from(), source: Box::new(named) };
            for failure in [register.explain(), pull.explain(), import.explain()] {
                assert_eq!(failure.code, code, "{failure:?}");
                let text = format!("{} {:?}", failure.message, failure.causes);
                assert_eq!(text.matches("/x").count(), 1, "{failure:?}");
            }
        }
    }

    #[test]
    fn only_an_image_that_is_lost_is_to_be_deleted() {
        let hints = |source| ImageError::Corrupt { id: "0123456789abcdef".parse().unwrap(), source }.explain().hints;
        for lost in [Corruption::Superblock, Corruption::Manifest(ManifestError::TooLarge)] {
            assert!(hints(lost).concat().contains("banger image delete 0123456789abcdef"));
        }
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        for there in [
            Corruption::Manifest(ManifestError::Version(99)),
            Corruption::Manifest(denied().into()),
            Corruption::File(denied()),
            Corruption::Refused,
        ] {
            let hints = hints(there).concat();
            assert!(!hints.contains("delete"), "{hints}");
        }
    }

    #[test]
    fn a_missing_vmm_comes_with_the_command_that_mends_it() {
        let (vmm, package) = (banger_proto::api::vm::Vmm::Qemu, Some("qemu-system-x86"));
        let failure = NoVmm::Missing { vmm, name: "qemu-system-x86_64".into(), package }.explain();
        assert_eq!(failure.hints, ["sudo apt install qemu-system-x86"]);
        assert_eq!(failure.message, "qemu-system-x86_64 is not installed");
    }
}
