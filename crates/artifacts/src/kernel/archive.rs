//! Walks an untrusted tar stream of a kernel: a bundle, or a part of a package.
//!
//! It only visits entries; nothing is unpacked here. Decides what a safe path is and how much a stream may contain; it
//! does not know which members matter. What an archive may say at all is decided by the reader, [`crate::tar`].

use crate::{
    job::Cancel,
    rootfs::Node,
    tar::{self, EntryKind, Reader, TarError},
};
use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt as _,
    path::{Component, Path, PathBuf},
};

/// Upper bound of a path or link target, in bytes.
pub(super) const MAX_PATH: usize = 4096;

/// Error of an archive that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream could not be read; this includes truncated and damaged streams.
    #[error("cannot read the archive")]
    Io(#[source] io::Error),
    /// A member could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where, relative to the tree being written.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A path is absolute or leads out.
    #[error("{what} {} is not a plain relative path", shown(path))]
    Path {
        /// `member`, or what the path belongs to.
        what: &'static str,
        /// The path as it stands there.
        path: Vec<u8>,
    },
    /// A member is of a kind that is refused: device, fifo, sparse file.
    #[error("member {} is a {kind}", shown(path.as_os_str().as_encoded_bytes()))]
    Kind {
        /// File or directory.
        path: PathBuf,
        /// Kind of the member.
        kind: &'static str,
    },
    /// A link leads out, or nowhere.
    #[error("link {} does not lead to anything inside", path.display())]
    Link {
        /// File or directory.
        path: PathBuf,
    },
    /// Two members have the same name.
    #[error("member {} is there twice", path.display())]
    Duplicate {
        /// File or directory.
        path: PathBuf,
    },
    /// A path has more levels than any kernel's.
    #[error("member {} lies too deep", shown(path.as_os_str().as_encoded_bytes()))]
    TooDeep {
        /// File or directory.
        path: PathBuf,
    },
    /// The archive itself is damaged, or says what none may say.
    #[error("it is damaged at byte {offset}: {what}")]
    Damaged {
        /// Position in the stream, in bytes.
        offset: u64,
        /// Damage at that position.
        what: &'static str,
    },
    /// A hard link leads to the archive's own root.
    #[error("a hard link leads to the root")]
    LinkToRoot,
    /// There are more members than in any kernel.
    #[error("it has more than {0} members")]
    TooManyEntries(u64),
    /// There are more bytes than in any kernel.
    #[error("it unpacks to more than {0} bytes")]
    TooLarge(u64),
}

/// Formats a path for an error message.
fn shown(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).collect();
    format!("{text:?}")
}

/// Limits on the content of an archive.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Members, skipped ones included.
    pub entries: u64,
    /// Bytes of the unpacked stream, skipped members included.
    pub bytes: u64,
}

/// One member.
pub enum Member<'a> {
    /// A directory.
    Directory,
    /// A regular file with its content.
    File(&'a mut dyn Read),
    /// A symbolic link with its target's text.
    Symlink(PathBuf),
    /// A further name for an earlier member.
    HardLink(PathBuf),
    /// Anything else; the name of its kind.
    Other(&'static str),
}

/// Calls `visit` for each member of the tar stream with its checked path.
pub(super) fn each<E: From<ArchiveError>>(
    stream: impl Read,
    limits: Limits,
    cancel: &Cancel,
    mut visit: impl FnMut(&Path, Member<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let stream = LimitedReader { inner: stream, left: limits.bytes, limit: limits.bytes, cancel };
    // The stream has a limit of its own, which covers headers too.
    let mut reader = Reader::new(stream, tar::Limits { entries: limits.entries, bytes: u64::MAX });
    while let Some(entry) = reader.next_entry().map_err(ArchiveError::from)? {
        // The archive's own root (`./`) is skipped.
        if let Some(path) = relative("member", &entry.path)? {
            visit(&path, member(entry.kind, &mut reader)?)?;
        }
    }
    Ok(())
}

fn member(kind: EntryKind, content: &mut dyn Read) -> Result<Member<'_>, ArchiveError> {
    Ok(match kind {
        EntryKind::Dir => Member::Directory,
        EntryKind::File => Member::File(content),
        EntryKind::Symlink(target) => Member::Symlink(link_text(target)?),
        EntryKind::HardLink(target) => {
            Member::HardLink(relative("hard link target", &target)?.ok_or(ArchiveError::LinkToRoot)?)
        }
        EntryKind::Node(Node::CharDevice { .. } | Node::BlockDevice { .. }) => Member::Other("device"),
        EntryKind::Node(Node::Fifo) => Member::Other("fifo"),
        EntryKind::Node(Node::Socket) => Member::Other("socket"),
    })
}

/// Returns the path without `.` components; `None` for the root itself.
pub(super) fn relative(what: &'static str, path: &[u8]) -> Result<Option<PathBuf>, ArchiveError> {
    let refused = || ArchiveError::Path { what, path: path.to_vec() };
    let text = std::str::from_utf8(path).map_err(|_| refused())?;
    if text.is_empty() || text.len() > MAX_PATH || text.contains('\0') {
        return Err(refused());
    }
    let mut plain = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) if name.len() <= 255 => plain.push(name),
            _ => return Err(refused()),
        }
    }
    Ok((!plain.as_os_str().is_empty()).then_some(plain))
}

/// Checks the text of a symbolic link: any path is accepted.
fn link_text(text: Vec<u8>) -> Result<PathBuf, ArchiveError> {
    let refused = |path| ArchiveError::Path { what: "link target", path };
    if text.is_empty() || text.len() > MAX_PATH || text.contains(&0) {
        return Err(refused(text));
    }
    String::from_utf8(text).map(PathBuf::from).map_err(|error| refused(error.into_bytes()))
}

/// Reader that fails after a number of bytes, and when cancelled.
struct LimitedReader<'a, R> {
    inner: R,
    left: u64,
    limit: u64,
    cancel: &'a Cancel,
}

/// Error of a [`LimitedReader`].
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
struct Reached(u64);

impl<R: Read> Read for LimitedReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(Reached(self.limit)))?;
        Ok(n)
    }
}

impl From<TarError> for ArchiveError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Damaged { offset, what } => Self::Damaged { offset, what },
            TarError::Unsupported { path, kind } => Self::Kind { path: PathBuf::from(OsString::from_vec(path)), kind },
            TarError::TooManyEntries(limit) => Self::TooManyEntries(limit),
            TarError::TooManyBytes(limit) => Self::TooLarge(limit),
            TarError::Io(error) => error.into(),
        }
    }
}

impl From<io::Error> for ArchiveError {
    /// Recovers the error of a [`LimitedReader`] from the wrappers of the readers in between.
    fn from(error: io::Error) -> Self {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = next {
            let reached = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => inner.downcast_ref::<Reached>(),
                None => error.downcast_ref::<Reached>(),
            };
            if let Some(Reached(limit)) = reached {
                return Self::TooLarge(*limit);
            }
            next = error.source();
        }
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::tar::{Builder, EntryType, Header};

    const LIMITS: Limits = Limits { entries: 100, bytes: 1 << 20 };

    fn list(bytes: &[u8], limits: Limits) -> Result<Vec<String>, ArchiveError> {
        let mut seen = Vec::new();
        each(bytes, limits, &Cancel::default(), |path, member| {
            let path = path.display();
            seen.push(match member {
                Member::Directory => format!("d {path}"),
                Member::File(content) => {
                    let mut text = String::new();
                    content.read_to_string(&mut text)?;
                    format!("f {path} {}", text.len())
                }
                Member::Symlink(target) => format!("l {path} -> {}", target.display()),
                Member::HardLink(target) => format!("h {path} -> {}", target.display()),
                Member::Other(kind) => format!("? {path} {kind}"),
            });
            Ok::<_, ArchiveError>(())
        })?;
        Ok(seen)
    }

    /// Adds a member whose name is written to the header as it is, however malformed.
    fn add(tar: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }

    fn one(kind: EntryType, name: &str, link: &str) -> Result<Vec<String>, ArchiveError> {
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, kind, name, link, b"");
        list(&tar.into_inner().unwrap(), LIMITS)
    }

    #[test]
    fn members_are_visited_with_long_names_of_both_kinds() {
        let long = format!("lib/{}", "x".repeat(200));
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, EntryType::Directory, "./", "", b"");
        add(&mut tar, EntryType::Directory, "./lib/", "", b"");
        add(&mut tar, EntryType::GNULongName, "././@LongLink", "", format!("{long}\0").as_bytes());
        add(&mut tar, EntryType::Regular, "cut", "", b"hello");
        let record = format!("path={long}y\n");
        let record = format!("{} {record}", record.len() + 4);
        add(&mut tar, EntryType::XHeader, "pax", "", record.as_bytes());
        add(&mut tar, EntryType::Symlink, "cut", "../b", b"");
        add(&mut tar, EntryType::Link, "h", "./lib/a", b"");
        add(&mut tar, EntryType::Fifo, "p", "", b"");
        assert_eq!(
            list(&tar.into_inner().unwrap(), LIMITS).unwrap(),
            ["d lib", &format!("f {long} 5"), &format!("l {long}y -> ../b"), "h h -> lib/a", "? p fifo"]
        );
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for name in ["/etc/passwd", "../x", "a/../../x", "a/..", "\u{1b}/.."] {
            let error = one(EntryType::Regular, name, "").unwrap_err();
            assert!(matches!(error, ArchiveError::Path { .. }), "{name}: {error}");
            assert!(!error.to_string().contains('\u{1b}'), "{error}");
        }
        assert!(one(EntryType::Link, "a", "/etc/passwd").is_err());
        assert!(one(EntryType::Link, "a", "../x").is_err());
        assert!(one(EntryType::Symlink, "a", "").is_err());
    }

    /// What the reader refuses for layers it refuses here too.
    #[test]
    fn what_no_archive_may_say_is_refused() {
        let archive = |write: &dyn Fn(&mut Builder<Vec<u8>>)| {
            let mut tar = Builder::new(Vec::new());
            write(&mut tar);
            tar.into_inner().unwrap()
        };
        let file = |tar: &mut Builder<Vec<u8>>| add(tar, EntryType::Regular, "a", "", b"x");
        let global = |tar: &mut Builder<Vec<u8>>| add(tar, EntryType::XGlobalHeader, "g", "", b"9 path=b\n");
        let whole = archive(&file);
        let no_mode = archive(&|tar| {
            let mut header = Header::new_gnu();
            header.set_path("a").unwrap();
            header.set_size(0);
            header.as_old_mut().mode = *b"rw-r--r-";
            header.set_cksum();
            tar.append(&header, &b""[..]).unwrap();
        });
        for (bytes, says) in [
            (whole[..1024].to_vec(), "it ends without an end marker"),
            ([&whole[..1536], &whole].concat(), "behind one block of zeros"),
            (archive(&|tar| add(tar, EntryType::GNULongName, "l", "", b"x")), "ends after an extension header"),
            (archive(&|tar| [global, file].iter().for_each(|add| add(tar))), "a global PAX header changes entries"),
            (archive(&|tar| add(tar, EntryType::GNUSparse, "s", "", b"")), "member \"s\" is a sparse file in GNU form"),
            (archive(&|tar| add(tar, EntryType::new(b'V'), "v", "", b"")), "member \"v\" is a file of an unknown type"),
            (no_mode, "a mode is not a number"),
        ] {
            let error = list(&bytes, LIMITS).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        // A size beyond what octal digits hold is in an extension header.
        let sized = archive(&|tar| {
            add(tar, EntryType::XHeader, "pax", "", b"9 size=3\n");
            file(tar);
        });
        assert!(list(&sized, LIMITS).is_ok_and(|seen| seen == ["f a 3"]), "{:?}", list(&sized, LIMITS));
    }

    #[test]
    fn floods_are_cut() {
        let mut tar = Builder::new(Vec::new());
        for n in 0..5 {
            add(&mut tar, EntryType::Regular, &n.to_string(), "", &[b'x'; 5000]);
        }
        let tar = tar.into_inner().unwrap();
        assert!(matches!(list(&tar, Limits { entries: 4, ..LIMITS }), Err(ArchiveError::TooManyEntries(4))));
        assert!(matches!(list(&tar, Limits { bytes: 10_000, ..LIMITS }), Err(ArchiveError::TooLarge(10_000))));
        assert!(list(&tar[..7000], LIMITS).is_err());

        let mut tar = Builder::new(Vec::new());
        add(&mut tar, EntryType::GNULongName, "long", "", &vec![b'x'; 100_000]);
        add(&mut tar, EntryType::Regular, "cut", "", b"");
        assert!(matches!(list(&tar.into_inner().unwrap(), LIMITS), Err(ArchiveError::Path { .. })));
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, EntryType::XHeader, "pax", "", b"999999999999 path=x\n");
        assert!(matches!(list(&tar.into_inner().unwrap(), LIMITS), Err(ArchiveError::Damaged { .. })));
    }
}
