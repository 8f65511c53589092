//! Walks an untrusted tar stream.
//!
//! It only visits entries; nothing is unpacked here. Long names are assembled by this module itself, because the tar
//! crate reads them whole before it can be told how long they may be. Decides what a safe path is and how much a stream
//! may contain; it does not know which members matter.

use crate::job::Cancel;
use std::{
    io::{self, Read},
    path::{Component, Path, PathBuf},
};
use tar::EntryType;

/// Upper bound of a path or link target, in bytes.
pub(super) const MAX_PATH: usize = 4096;
/// Upper bound of an extended header, in bytes.
const MAX_PAX: u64 = 64 << 10;

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
    #[error("member {} is a {kind}", path.display())]
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
    /// A header is malformed.
    #[error("a header is malformed ({0})")]
    Header(&'static str),
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
    let mut archive = tar::Archive::new(stream);
    let entries = archive.entries().map_err(ArchiveError::from)?.raw(true);
    let mut long = Long::default();
    for (count, entry) in (1..).zip(entries) {
        let mut entry = entry.map_err(ArchiveError::from)?;
        if count > limits.entries {
            return Err(ArchiveError::TooManyEntries(limits.entries).into());
        }
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => long.path = Some(text(&mut entry)?),
            EntryType::GNULongLink => long.link = Some(text(&mut entry)?),
            EntryType::XHeader => long.pax(&mut entry)?,
            EntryType::XGlobalHeader => {}
            _ => {
                let Long { path, link } = std::mem::take(&mut long);
                let path = path.unwrap_or_else(|| entry.path_bytes().into_owned());
                let link = link.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
                // The archive's own root (`./`) is skipped.
                if let Some(path) = relative("member", &path)? {
                    visit(&path, member(kind, link, &mut entry)?)?;
                }
            }
        }
    }
    Ok(())
}

fn member(kind: EntryType, link: Option<Vec<u8>>, entry: &mut dyn Read) -> Result<Member<'_>, ArchiveError> {
    let target = |link: Option<Vec<u8>>| link.ok_or(ArchiveError::Header("a link without a target"));
    Ok(match kind {
        EntryType::Directory => Member::Directory,
        EntryType::Regular | EntryType::Continuous => Member::File(entry),
        EntryType::Symlink => Member::Symlink(link_text(target(link)?)?),
        EntryType::Link => Member::HardLink(
            relative("hard link target", &target(link)?)?.ok_or(ArchiveError::Header("a link to the root"))?,
        ),
        EntryType::Char | EntryType::Block => Member::Other("device"),
        EntryType::Fifo => Member::Other("fifo"),
        EntryType::GNUSparse => Member::Other("sparse file"),
        _ => Member::Other("member of an unknown kind"),
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

/// Long names read from extra members, for the member that follows.
#[derive(Default)]
struct Long {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Long {
    /// Reads the two relevant records of a POSIX extended header, which consists of lines `<length> <key>=<value>\n`.
    fn pax(&mut self, entry: &mut dyn Read) -> Result<(), ArchiveError> {
        let malformed = ArchiveError::Header("an extended header");
        let mut records = Vec::new();
        entry.take(MAX_PAX + 1).read_to_end(&mut records)?;
        if records.len() as u64 > MAX_PAX {
            return Err(malformed);
        }
        let mut rest = &records[..];
        while !rest.is_empty() {
            let record = rest
                .iter()
                .position(|byte| *byte == b' ')
                .and_then(|blank| Some((blank, std::str::from_utf8(&rest[..blank]).ok()?.parse::<usize>().ok()?)))
                .and_then(|(blank, length)| rest.get(blank + 1..length.checked_sub(1)?).map(|text| (length, text)));
            let Some((length, text)) = record else { return Err(malformed) };
            if let Some(path) = text.strip_prefix(b"path=") {
                self.path = Some(path.to_vec());
            } else if let Some(link) = text.strip_prefix(b"linkpath=") {
                self.link = Some(link.to_vec());
            } else if text.starts_with(b"size=") {
                // Only used for sizes from 8 GiB on, which no member may have.
                return Err(malformed);
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Reads a long name, without its final zero byte.
fn text(entry: &mut dyn Read) -> Result<Vec<u8>, ArchiveError> {
    let mut text = Vec::new();
    entry.take(MAX_PATH as u64 + 2).read_to_end(&mut text)?;
    if text.last() == Some(&0) {
        text.pop();
    }
    if text.len() > MAX_PATH { Err(ArchiveError::Header("a name is too long")) } else { Ok(text) }
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
    fn add(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }

    fn one(kind: EntryType, name: &str, link: &str) -> Result<Vec<String>, ArchiveError> {
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, kind, name, link, b"");
        list(&tar.into_inner().unwrap(), LIMITS)
    }

    #[test]
    fn members_are_visited_with_long_names_of_both_kinds() {
        let long = format!("lib/{}", "x".repeat(200));
        let mut tar = tar::Builder::new(Vec::new());
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

    #[test]
    fn floods_are_cut() {
        let mut tar = tar::Builder::new(Vec::new());
        for n in 0..5 {
            add(&mut tar, EntryType::Regular, &n.to_string(), "", &[b'x'; 5000]);
        }
        let tar = tar.into_inner().unwrap();
        assert!(matches!(list(&tar, Limits { entries: 4, ..LIMITS }), Err(ArchiveError::TooManyEntries(4))));
        assert!(matches!(list(&tar, Limits { bytes: 10_000, ..LIMITS }), Err(ArchiveError::TooLarge(10_000))));
        assert!(list(&tar[..7000], LIMITS).is_err());

        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, EntryType::GNULongName, "long", "", &vec![b'x'; 100_000]);
        assert!(matches!(list(&tar.into_inner().unwrap(), LIMITS), Err(ArchiveError::Header(_))));
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, EntryType::XHeader, "pax", "", b"999999999999 path=x\n");
        assert!(matches!(list(&tar.into_inner().unwrap(), LIMITS), Err(ArchiveError::Header(_))));
    }
}
