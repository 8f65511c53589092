//! Layers written by tests.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use std::io::Write as _;
use tar::{Builder, EntryType, Header};

/// Writer of a layer.
pub(super) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(super) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(super) fn raw(mut self, path: &[u8], kind: EntryType, link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        // As it is: the crate's own setters refuse what tests are about.
        for (text, long) in [(path, EntryType::GNULongName), (link, EntryType::GNULongLink)] {
            if text.len() > 100 {
                let mut extension = Header::new_gnu();
                extension.set_entry_type(long);
                extension.set_size(text.len() as u64 + 1);
                extension.set_cksum();
                self.0.append(&extension, [text, b"\0"].concat().as_slice()).unwrap();
            }
        }
        let old = header.as_old_mut();
        old.name[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        old.linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    /// Adds a file whose path is split into two fields, as in ustar.
    pub(super) fn ustar(mut self, prefix: &str, name: &str) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(0);
        let ustar = header.as_ustar_mut().unwrap();
        ustar.prefix[..prefix.len()].copy_from_slice(prefix.as_bytes());
        ustar.name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
        self
    }

    /// Adds a file, as in archives before POSIX.
    pub(super) fn old(mut self, path: &str) -> Self {
        let mut header = Header::new_old();
        header.set_mode(0o644);
        header.set_size(0);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
        self
    }

    pub(super) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.raw(path.as_bytes(), EntryType::Regular, b"", content.as_ref())
    }

    pub(super) fn dir(self, path: &str) -> Self {
        self.raw(path.as_bytes(), EntryType::Directory, b"", b"")
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(path.as_bytes(), EntryType::Symlink, target.as_bytes(), b"")
    }

    pub(super) fn link(self, path: &str, target: &str) -> Self {
        self.raw(path.as_bytes(), EntryType::Link, target.as_bytes(), b"")
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}
