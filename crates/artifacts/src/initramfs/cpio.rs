//! Writer of the archive format that the kernel unpacks: cpio "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same calls give the same bytes. Owners are root and times are zero.

use std::io::{self, Write};

/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// The kernel ignores longer names (`PATH_MAX`, its zero byte included).
const MAX_NAME: usize = 4095;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

/// Error of writing an entry.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// The output could not be written.
    #[error("cannot write the archive")]
    Io(#[from] io::Error),
    /// A name that the kernel would refuse or misread.
    #[error("{0:?} cannot be a name in the archive")]
    Name(String),
    /// An entry is too long for the format, which has 32 bits for a length.
    #[error("{name:?} has {size} bytes, more than the archive format holds")]
    TooLarge {
        /// The entry.
        name: String,
        /// Its length.
        size: u64,
    },
}

/// An archive being written.
#[derive(Debug)]
pub struct Cpio<W> {
    out: W,
    inode: u32,
    written: u64,
}

impl<W: Write> Cpio<W> {
    /// Creates a writer to `out`, whose position is a multiple of four bytes.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, written: 0 }
    }

    /// Writes a directory. Parents are not created and must be written first.
    pub fn directory(&mut self, name: &str, mode: u32) -> Result<(), CpioError> {
        self.entry(name, S_IFDIR | (mode & 0o7777), 2, (0, 0), &[])
    }

    /// Writes a regular file.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<(), CpioError> {
        self.entry(name, S_IFREG | (mode & 0o7777), 1, (0, 0), content)
    }

    /// Writes a character device.
    pub fn char_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) -> Result<(), CpioError> {
        self.entry(name, S_IFCHR | (mode & 0o7777), 1, (major, minor), &[])
    }

    /// Ends the archive and returns the output, whose position is a multiple of four bytes.
    pub fn finish(mut self) -> Result<W, CpioError> {
        self.inode = 0;
        self.header(TRAILER, 0, 1, (0, 0), 0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> Result<(), CpioError> {
        let plain = !name.is_empty()
            && name.len() <= MAX_NAME
            && name != TRAILER
            && !name.contains('\0')
            && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !plain {
            return Err(CpioError::Name(name.chars().take(200).collect()));
        }
        let size = u32::try_from(content.len())
            .map_err(|_| CpioError::TooLarge { name: name.to_owned(), size: content.len() as u64 })?;
        self.inode += 1;
        self.header(name, mode, links, device, size)?;
        self.put(content)?;
        self.align()
    }

    fn header(
        &mut self,
        name: &str,
        mode: u32,
        links: u32,
        (major, minor): (u32, u32),
        size: u32,
    ) -> Result<(), CpioError> {
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        let inode = self.inode;
        // magic, inode, mode, uid, gid, links, mtime, size, device of the file system, device, name's length, checksum
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}{0:08x}{0:08x}{major:08x}{minor:08x}{name_size:08x}{0:08x}",
            0
        );
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), CpioError> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn align(&mut self) -> Result<(), CpioError> {
        let rest = usize::try_from(self.written.next_multiple_of(4) - self.written).expect("below four");
        self.put(&[0; 4][..rest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_fixed() {
        let mut archive = Cpio::new(Vec::new());
        archive.directory("dev", 0o755).unwrap();
        archive.char_device("dev/console", 0o600, 5, 1).unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        let text = String::from_utf8(archive.finish().unwrap()).unwrap().replace('\0', ".");
        insta::assert_snapshot!(text.replace("0707", "\n0707"), @r"

        07070100000001000041ed0000000000000000000000020000000000000000000000000000000000000000000000000000000400000000dev...
        07070100000002000021800000000000000000000000010000000000000000000000000000000000000005000000010000000c00000000dev/console...
        07070100000003000081ed0000000000000000000000010000000000000005000000000000000000000000000000000000000500000000init..hello...
        07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000b00000000TRAILER!!!....
        ");
    }

    #[test]
    fn names_the_kernel_would_misread_are_refused() {
        let mut archive = Cpio::new(Vec::new());
        for name in ["", "/init", "a//b", "a/", "./a", "../a", "a/../b", "a\0b", TRAILER, &"x".repeat(5000)] {
            assert!(matches!(archive.file(name, 0o644, b""), Err(CpioError::Name(_))), "{name:?}");
        }
        assert_eq!(archive.written, 0, "nothing of a refused entry is written");
    }

    /// Name, mode and content of every entry; also checks alignment, the trailer and that nothing follows it.
    fn read_back(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let whole = archive.len();
        let mut entries = Vec::new();
        loop {
            let at = whole - archive.len();
            assert_eq!(at % 4, 0);
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&archive[..6], b"070701");
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&archive[110..110 + name_size - 1]).unwrap().to_owned();
            assert_eq!(archive[110 + name_size - 1], 0);
            let content = (110 + name_size).next_multiple_of(4);
            let end = content + size;
            if name == TRAILER {
                assert_eq!(archive.len(), content, "nothing follows the trailer");
                return entries;
            }
            entries.push((name, mode, archive[content..end].to_vec()));
            archive = &archive[end.next_multiple_of(4)..];
        }
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            files in prop::collection::vec(("[a-z0-9_.é-]{1,40}x", prop::collection::vec(any::<u8>(), 0..300), 0_u32..0o10000), 0..20)
        ) {
            let mut archive = Cpio::new(Vec::new());
            for (name, content, mode) in &files {
                archive.file(name, *mode, content).unwrap();
            }
            let read = read_back(&archive.finish().unwrap());
            let expected: Vec<_> =
                files.into_iter().map(|(name, content, mode)| (name, S_IFREG | mode, content)).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
