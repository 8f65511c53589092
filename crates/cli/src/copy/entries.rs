//! Parses a guest's tar stream into entries in which everything is bounded and every path relative.
//!
//! The raw headers are parsed here, because the tar crate's iterator allocates as much as a long name announces.
//! Nothing is resolved; a path that leads out of its directory is refused, not repaired.

use banger_link::archive::mtime::{self, UnixTime};
use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt as _,
};
use tar::{Archive, EntryType};

/// Longest path or link target, in bytes.
const MAX_PATH: usize = 4096;
/// Largest extension header, in bytes.
const MAX_EXTENSION: u64 = 64 << 10;
/// Most entries of one stream.
const MAX_ENTRIES: u64 = 4_000_000;

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Path components below the top entry; empty for that entry itself.
    pub(crate) below: Vec<OsString>,
    /// Permission bits, without set-uid, set-gid and sticky, because the guest's users are not the host's.
    pub(crate) mode: u32,
    /// Modification time.
    pub(crate) mtime: UnixTime,
    /// Type of the entry.
    pub(crate) kind: Kind,
}

/// Type of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file with this many bytes.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link with this target, which may be anything: it is created, never followed.
    Symlink(OsString),
    /// Another name of an earlier entry.
    HardLink(Vec<OsString>),
    /// A device, FIFO or socket; not copied.
    Special,
}

/// Calls `take` with every entry of `stream` and its content, until one fails.
pub(crate) fn walk(
    stream: impl Read,
    mut take: impl FnMut(Entry, &mut dyn Read) -> io::Result<Flow>,
) -> io::Result<()> {
    let mut archive = Archive::new(stream);
    let mut extension = Extension::default();
    for (count, entry) in (0..).zip(archive.entries()?.raw(true)) {
        let mut entry = entry?;
        if count >= MAX_ENTRIES {
            return Err(malformed(&format!("more than {MAX_ENTRIES} entries")));
        }
        let kind = entry.header().entry_type();
        if extension.absorb(kind, &mut entry)? {
            continue;
        }
        let Extension { path, link, mtime } = std::mem::take(&mut extension);
        let header = entry.header();
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let entry_of = Entry {
            below: below(&path)?,
            mode: header.mode()? & 0o777,
            mtime: mtime.unwrap_or_else(|| (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0)),
            kind: what(kind, header.entry_size()?, link)?,
        };
        if matches!(take(entry_of, &mut entry)?, Flow::Stop) {
            break;
        }
    }
    Ok(())
}

/// Whether to continue the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Go to the next entry.
    Continue,
    /// Stop here.
    Stop,
}

fn what(kind: EntryType, size: u64, link: Vec<u8>) -> io::Result<Kind> {
    Ok(match kind {
        EntryType::Regular | EntryType::Continuous => Kind::File(size),
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink if link.is_empty() || link.len() > MAX_PATH || link.contains(&0) => {
            return Err(malformed("a symbolic link without a usable target"));
        }
        EntryType::Symlink => Kind::Symlink(OsString::from_vec(link)),
        EntryType::Link => Kind::HardLink(below(&link)?),
        EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Special,
        other => return Err(malformed(&format!("an entry of type {:?}", char::from(other.as_byte())))),
    })
}

/// Values from the extension headers of the next entry.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    mtime: Option<UnixTime>,
}

impl Extension {
    /// Reads an extension header; `false` for any other entry.
    fn absorb(&mut self, kind: EntryType, entry: &mut (impl Read + ?Sized)) -> io::Result<bool> {
        let mut read = || {
            let mut bytes = Vec::new();
            entry.take(MAX_EXTENSION + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_EXTENSION { Err(malformed("an endless extension header")) } else { Ok(bytes) }
        };
        let text = |bytes: Vec<u8>| bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => self.path = Some(text(read()?)),
            EntryType::GNULongLink => self.link = Some(text(read()?)),
            EntryType::XHeader => self.pax(&read()?)?,
            EntryType::XGlobalHeader => drop(read()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn pax(&mut self, bytes: &[u8]) -> io::Result<()> {
        for record in tar::PaxExtensions::new(bytes) {
            let record = record?;
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                b"mtime" => self.mtime = mtime::from_pax(record.value_bytes()),
                // The walk relies on the size in the header; another one here would shift everything after it.
                b"size" => return Err(malformed("a size outside its header")),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Returns the components of `path` below its first.
fn below(path: &[u8]) -> io::Result<Vec<OsString>> {
    if path.len() > MAX_PATH || path.starts_with(b"/") || path.contains(&0) {
        return Err(malformed(&format!("the path {:?}", shown(path))));
    }
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(malformed(&format!("the path {:?}, which leads outside", shown(path))));
    }
    Ok(parts.into_iter().skip(1).map(|part| OsString::from_vec(part.to_vec())).collect())
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}

/// Error for a stream that no honest agent sends.
pub(crate) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the guest's archive holds {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{Builder, Header};

    fn archive(entries: &[(&str, EntryType, &str, u64)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, link, size) in entries {
            let mut header = Header::new_gnu();
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            let link_name = &mut header.as_old_mut().linkname;
            link_name[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_mtime(7);
            header.set_size(*size);
            header.set_cksum();
            builder.append(&header, io::repeat(b'x').take(*size)).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn entries(bytes: &[u8]) -> io::Result<Vec<Entry>> {
        let mut all = Vec::new();
        walk(bytes, |entry, _| {
            all.push(entry);
            Ok(Flow::Continue)
        })?;
        Ok(all)
    }

    #[test]
    fn the_first_component_is_not_ours() {
        let bytes = archive(&[
            ("dir/", EntryType::Directory, "", 0),
            ("dir/a/b", EntryType::Regular, "", 3),
            ("dir/l", EntryType::Symlink, "/etc/passwd", 0),
            ("dir/h", EntryType::Link, "dir/a/b", 0),
            ("dir/f", EntryType::Fifo, "", 0),
        ]);
        let all = entries(&bytes).unwrap();
        assert_eq!(all[0].below, Vec::<OsString>::new());
        assert_eq!((all[1].below.as_slice(), &all[1].kind), (["a".into(), "b".into()].as_slice(), &Kind::File(3)));
        assert_eq!((all[1].mode, all[1].mtime), (0o755, (7, 0)));
        assert_eq!(all[2].kind, Kind::Symlink("/etc/passwd".into()));
        assert_eq!(all[3].kind, Kind::HardLink(vec!["a".into(), "b".into()]));
        assert_eq!(all[4].kind, Kind::Special);
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        for path in ["/etc/passwd", "../x", "a/../../x", "a/.."] {
            assert!(entries(&archive(&[(path, EntryType::Regular, "", 0)])).is_err(), "{path}");
        }
        assert!(entries(&archive(&[("a/h", EntryType::Link, "../../x", 0)])).is_err());
        assert!(entries(&archive(&[("a/l", EntryType::Symlink, "", 0)])).is_err());
        assert!(entries(&archive(&[("a/s", EntryType::GNUSparse, "", 0)])).is_err());
    }

    #[test]
    fn a_long_name_is_bounded_before_it_is_read() {
        let mut header = Header::new_gnu();
        header.set_path("././@LongLink").unwrap();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let stream = header.as_bytes().chain(io::repeat(b'x'));
        let error = walk(stream, |_, _| Ok(Flow::Continue)).unwrap_err();
        assert!(error.to_string().contains("endless"), "{error}");
    }

    #[test]
    fn long_names_are_used() {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        let long = format!("dir/{}", "n".repeat(200));
        builder.append_data(&mut header, &long, io::empty()).unwrap();
        let all = entries(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(all[0].below, [OsString::from("n".repeat(200))]);
    }
}
