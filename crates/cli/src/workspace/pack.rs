//! Writes git objects as packs with their indexes while they are read, so that the guest has nothing to compute.
//!
//! `git cat-file` gives the objects; they are compressed here and written into packs of a bounded size, each complete
//! in memory before it is sent. An object too large for that goes in a pack of its own, stored instead of compressed,
//! so that its length is known before it was read.

mod stored;

use super::hash;
use banger_proto::agent::workspace::HashName;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use std::io::{self, BufRead, Read};
use stored::write_large;

/// Size at which a pack in memory is sent, in bytes.
const PACK: usize = 16 << 20;
/// Largest object that is held in memory, in bytes.
const LARGE: u64 = 8 << 20;
/// Level of compression. A higher one costs the host more than it saves on the way.
const LEVEL: u32 = 4;

/// Receiver of packs: name (`pack-<hash>`), length and content of the pack, then the content of its index.
pub(crate) trait Sink {
    /// Takes a pack.
    fn pack(&mut self, name: &str, size: u64, content: &mut dyn Read) -> io::Result<()>;
    /// Takes the index of that pack.
    fn index(&mut self, name: &str, content: &[u8]) -> io::Result<()>;
}

/// Reads the output of `git cat-file --batch` to its end and writes all objects as packs.
pub(crate) fn write(mut objects: impl BufRead, format: HashName, sink: &mut impl Sink) -> io::Result<()> {
    let mut pack = Pack::new(format);
    let mut content = Vec::new();
    while let Some(object) = Object::read(&mut objects, format)? {
        if object.size > LARGE {
            write_large(&object, &mut objects, format, sink)?;
        } else {
            content.clear();
            (&mut objects).take(object.size).read_to_end(&mut content)?;
            if content.len() as u64 != object.size {
                return Err(unparsable("an object cut short"));
            }
            pack.add(&object, &content)?;
            if pack.bytes.len() >= PACK {
                std::mem::replace(&mut pack, Pack::new(format)).finish(sink)?;
            }
        }
        let mut end = [0];
        objects.read_exact(&mut end)?;
    }
    pack.finish(sink)
}

/// Writes a pack with the empty blob, which git knows without having it.
pub(crate) fn write_empty_blob(format: HashName, sink: &mut impl Sink) -> io::Result<()> {
    let object = Object { id: hash::of(format, b"blob 0\0"), kind: 3, size: 0 };
    let mut pack = Pack::new(format);
    pack.add(&object, b"")?;
    pack.finish(sink)
}

/// Header of an object in the output of `cat-file`.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    id: Vec<u8>,
    kind: u8,
    size: u64,
}

impl Object {
    fn read(from: &mut impl BufRead, format: HashName) -> io::Result<Option<Self>> {
        let mut line = String::new();
        from.take(256).read_line(&mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        let [id, kind, size] = words[..] else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("an object is missing: {}", line.trim_end())));
        };
        let kind = match kind {
            "commit" => 1,
            "tree" => 2,
            "blob" => 3,
            "tag" => 4,
            _ => return Err(unparsable("an object of no known kind")),
        };
        let id = HEXLOWER_PERMISSIVE
            .decode(id.as_bytes())
            .ok()
            .filter(|id| id.len() == format.len())
            .ok_or_else(|| unparsable("an object without an id"))?;
        let size = size.parse().map_err(|_| unparsable("an object without a size"))?;
        Ok(Some(Self { id, kind, size }))
    }

    /// Returns kind and size as they are encoded before an object in a pack (gitformat-pack).
    fn header(&self) -> Vec<u8> {
        let mut rest = self.size >> 4;
        let mut byte = (self.kind << 4) | (self.size & 0xf) as u8;
        let mut header = Vec::new();
        while rest > 0 {
            header.push(byte | 0x80);
            byte = (rest & 0x7f) as u8;
            rest >>= 7;
        }
        header.push(byte);
        header
    }
}

/// Entry of a pack's index.
struct Entry {
    id: Vec<u8>,
    crc: u32,
    offset: u32,
}

struct Pack {
    format: HashName,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    compress: Compress,
}

impl Pack {
    fn new(format: HashName) -> Self {
        Self { format, bytes: head(0), entries: Vec::new(), compress: Compress::new(Compression::new(LEVEL), true) }
    }

    fn add(&mut self, object: &Object, content: &[u8]) -> io::Result<()> {
        let start = self.bytes.len();
        self.bytes.extend(object.header());
        self.compress.reset();
        let mut read = 0;
        loop {
            self.bytes.reserve((content.len() - read) / 2 + 64);
            let before = self.compress.total_in();
            let status = self.compress.compress_vec(&content[read..], &mut self.bytes, FlushCompress::Finish);
            read += usize::try_from(self.compress.total_in() - before).unwrap_or(usize::MAX);
            match status {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let mut crc = Crc::new();
        crc.update(&self.bytes[start..]);
        // A pack in memory is far smaller than 4 GiB.
        let offset = u32::try_from(start).map_err(io::Error::other)?;
        self.entries.push(Entry { id: object.id.clone(), crc: crc.sum(), offset });
        Ok(())
    }

    fn finish(mut self, sink: &mut impl Sink) -> io::Result<()> {
        let count = u32::try_from(self.entries.len()).map_err(io::Error::other)?;
        if count == 0 {
            return Ok(());
        }
        self.bytes[8..12].copy_from_slice(&count.to_be_bytes());
        let hash = hash::of(self.format, &self.bytes);
        self.bytes.extend_from_slice(&hash);
        let name = format!("pack-{}", HEXLOWER.encode(&hash));
        sink.pack(&name, self.bytes.len() as u64, &mut self.bytes.as_slice())?;
        sink.index(&name, &index(self.entries, &hash, self.format))
    }
}

/// Returns the first bytes of a pack.
fn head(count: u32) -> Vec<u8> {
    [b"PACK".as_slice(), &2_u32.to_be_bytes(), &count.to_be_bytes()].concat()
}

/// Returns the index of a pack, version 2 (gitformat-pack).
fn index(mut entries: Vec<Entry>, pack: &[u8], format: HashName) -> Vec<u8> {
    entries.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let mut bytes = b"\xfftOc\0\0\0\x02".to_vec();
    let mut count = 0_u32;
    let mut rest = entries.iter().peekable();
    for first in 0..=255_u8 {
        while rest.next_if(|entry| entry.id[0] == first).is_some() {
            count += 1;
        }
        bytes.extend(count.to_be_bytes());
    }
    for entry in &entries {
        bytes.extend_from_slice(&entry.id);
    }
    for field in [|entry: &Entry| entry.crc, |entry: &Entry| entry.offset] {
        bytes.extend(entries.iter().flat_map(|entry| field(entry).to_be_bytes()));
    }
    bytes.extend_from_slice(pack);
    let hash = hash::of(format, &bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

fn unparsable(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("git cat-file gave {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path, process::Command};

    struct Directory<'a>(&'a Path);

    impl Sink for Directory<'_> {
        fn pack(&mut self, name: &str, size: u64, content: &mut dyn Read) -> io::Result<()> {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            assert_eq!(bytes.len() as u64, size, "the size that was announced");
            fs::write(self.0.join(format!("{name}.pack")), bytes)
        }

        fn index(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
            fs::write(self.0.join(format!("{name}.idx")), content)
        }
    }

    fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
        let out = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(args)
            .current_dir(dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    /// git's own check of packs and objects decides.
    #[test]
    fn git_finds_nothing_wrong() {
        for (format, name) in [(HashName::Sha1, "sha1"), (HashName::Sha256, "sha256")] {
            let temp = tempfile::tempdir().unwrap();
            let (from, to) = (temp.path().join("from"), temp.path().join("to"));
            for dir in [&from, &to] {
                fs::create_dir(dir).unwrap();
                git(dir, &["init", "-q", &format!("--object-format={name}")]);
            }
            fs::write(from.join("empty"), "").unwrap();
            fs::write(from.join("text"), "hello\n".repeat(10_000)).unwrap();
            // Larger than what is compressed, and no multiple of a block.
            let large: Vec<u8> = (0..u32::try_from(LARGE).unwrap() + 12_345).map(|n| (n % 251) as u8).collect();
            fs::write(from.join("large"), &large).unwrap();
            git(&from, &["add", "."]);
            git(&from, &["commit", "-q", "-m", "all"]);
            let args = ["cat-file", "--batch", "--batch-all-objects"];
            let objects = git(&from, &args);
            write(objects.as_slice(), format, &mut Directory(&to.join(".git/objects/pack"))).unwrap();
            for pack in fs::read_dir(to.join(".git/objects/pack")).unwrap().flatten() {
                if pack.path().extension().is_some_and(|kind| kind == "idx") {
                    git(&to, &["verify-pack", pack.path().to_str().unwrap()]);
                }
            }
            let head = String::from_utf8(git(&from, &["rev-parse", "HEAD"])).unwrap();
            git(&to, &["reset", "-q", "--hard", head.trim()]);
            git(&to, &["fsck", "--strict"]);
            assert_eq!(fs::read(to.join("large")).unwrap(), large);
            assert_eq!(git(&to, &["status", "--porcelain"]), b"");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let error = write(b"0123 missing\n".as_slice(), HashName::Sha1, &mut Directory(temp.path())).unwrap_err();
        assert!(error.to_string().contains("0123 missing"), "{error}");
        assert!(write(b"xyz blob 3\nabc\n".as_slice(), HashName::Sha1, &mut Directory(temp.path())).is_err());
    }

    #[test]
    fn headers_are_gits() {
        let header = |kind, size| Object { id: vec![], kind, size }.header();
        assert_eq!(header(3, 15), [0x3f]);
        assert_eq!(header(3, 16), [0xb0, 0x01]);
        assert_eq!(header(1, 4096), [0x90, 0x80, 0x02]);
    }
}
