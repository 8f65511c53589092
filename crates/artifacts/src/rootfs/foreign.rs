//! Names and link targets that are not UTF-8.
//!
//! To ext4 a name is bytes; the crate that writes the filesystem takes `&str`. So such a name is declared under a
//! stand-in of the same length, and exchanged for the real one in the finished metadata: length, record and block stay
//! what they are, only checksums are made anew. A directory that is hashed by name cannot stay hashed, because the real
//! name has another hash: it becomes a linear one in the same blocks, which every reader of ext4 understands (the index
//! hides in what looks like free space on purpose). Only directories with such a name in them pay for that.

use super::error::Refusal;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    os::unix::fs::FileExt,
};

const BLOCK: usize = 4096;
const INODE: usize = 256;
/// Where the checksum of a directory block stands, in a record of its own.
const TAIL: usize = BLOCK - 12;
/// Flags of an inode: hashed by name; mapped by extents.
const HASHED: u32 = 0x1000;
const EXTENTS: u32 = 0x8_0000;
/// Where in an inode its flags, its map (or a short link's target) and the halves of its checksum are.
const FLAGS: usize = 0x20;
const MAP: std::ops::Range<usize> = 0x28..0x64;
const CHECKSUM_LOW: usize = 0x7C;
const CHECKSUM_HIGH: usize = 0x82;
const GENERATION: usize = 0x64;
/// What an extent tree's node begins with.
const NODE: u16 = 0xF30A;
/// What stand-ins are made of.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// What stands in for what.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    /// By the directory's inode: stand-in to real name.
    names: BTreeMap<u32, HashMap<Vec<u8>, Box<[u8]>>>,
    /// By the link's inode: the real target.
    targets: Vec<(u32, Box<[u8]>)>,
}

impl StandIns {
    /// `name` as text, or what stands in for it in `directory`, where `taken` tells which names are others'.
    pub(super) fn name<'a>(
        &mut self,
        directory: u32,
        name: &'a [u8],
        taken: impl Fn(&[u8]) -> bool,
    ) -> Result<Cow<'a, str>, Refusal> {
        if let Ok(text) = std::str::from_utf8(name) {
            return Ok(Cow::Borrowed(text));
        }
        let here = self.names.entry(directory).or_default();
        let mut number = here.len() as u64;
        loop {
            let text = padded(number, name.len()).ok_or(Refusal::NotUtf8)?;
            if !taken(text.as_bytes()) && !here.contains_key(text.as_bytes()) {
                here.insert(text.clone().into_bytes(), name.into());
                return Ok(Cow::Owned(text));
            }
            number += 1;
        }
    }

    /// The target of the link with this inode as text, or what stands in for it.
    pub(super) fn target<'a>(&mut self, link: u32, target: &'a [u8]) -> Cow<'a, str> {
        std::str::from_utf8(target).map_or_else(
            |_| {
                self.targets.push((link, target.into()));
                Cow::Owned("x".repeat(target.len()))
            },
            Cow::Borrowed,
        )
    }

    /// Puts the real ones in their places in `image`, whose metadata is complete.
    pub(super) fn exchange(&self, image: &File) -> io::Result<()> {
        if self.names.is_empty() && self.targets.is_empty() {
            return Ok(());
        }
        let image = Metadata::open(image)?;
        for (&number, names) in &self.names {
            let mut inode = image.inode(number)?;
            let mut blocks = Vec::new();
            image.mapped(&inode.bytes[MAP], &mut blocks)?;
            let hashed = inode.flags() & HASHED != 0;
            for (logical, &block) in blocks.iter().enumerate() {
                let mut bytes = image.block(block)?;
                if hashed && (logical == 0 || is_index(&bytes)) {
                    flatten(&mut bytes, logical == 0);
                }
                rename(&mut bytes, names);
                let sum = crc32c(inode.seed, &bytes[..TAIL]);
                bytes[BLOCK - 4..].copy_from_slice(&sum.to_le_bytes());
                image.file.write_all_at(&bytes, block * BLOCK as u64)?;
            }
            if hashed {
                let flags = inode.flags() & !HASHED;
                inode.bytes[FLAGS..FLAGS + 4].copy_from_slice(&flags.to_le_bytes());
                image.write(&mut inode)?;
            }
        }
        for (number, target) in &self.targets {
            let mut inode = image.inode(*number)?;
            if inode.flags() & EXTENTS == 0 {
                inode.bytes[MAP][..target.len()].copy_from_slice(target);
                image.write(&mut inode)?;
            } else {
                let mut blocks = Vec::new();
                image.mapped(&inode.bytes[MAP], &mut blocks)?;
                let block = blocks.first().ok_or(io::ErrorKind::InvalidData)?;
                image.file.write_all_at(target, block * BLOCK as u64)?;
            }
        }
        Ok(())
    }
}

/// A number in `len` digits, if it fits.
fn padded(mut number: u64, len: usize) -> Option<String> {
    let mut digits = vec![b'0'; len];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[usize::try_from(number % 36).expect("below 36")];
        number /= 36;
    }
    (number == 0).then(|| String::from_utf8(digits).expect("digits are text"))
}

/// An inner node of a hashed directory: one unused record over the whole block.
fn is_index(block: &[u8]) -> bool {
    block[..4] == [0; 4] && usize::from(u16_at(block, 4)) == BLOCK
}

/// Makes a block of the index one of a linear directory, with nothing in it but, in the first, `.` and `..`.
fn flatten(block: &mut [u8], root: bool) {
    // The last record's length is at 4 (the unused one) or 16 (that of `..`); what it spans begins behind its name.
    let (record, begin, free) = if root { (16, 12, 24) } else { (4, 0, 8) };
    let length = u16::try_from(TAIL - begin).expect("below 4096");
    block[record..record + 2].copy_from_slice(&length.to_le_bytes());
    block[free..].fill(0);
    block[TAIL + 4] = 12;
    block[TAIL + 7] = 0xDE;
}

/// Exchanges the names of records.
fn rename(block: &mut [u8], names: &HashMap<Vec<u8>, Box<[u8]>>) {
    let mut at = 0;
    while at + 8 <= TAIL {
        let length = usize::from(u16_at(block, at + 4));
        let name = at + 8..at + 8 + usize::from(block[at + 6]);
        if let Some(real) = names.get(&block[name.clone()]) {
            block[name].copy_from_slice(real);
        }
        at += length.max(8);
    }
}

/// The finished metadata of an image with blocks of 4,096 and inodes of 256 bytes, as the writer makes it.
struct Metadata<'a> {
    file: &'a File,
    inodes_per_group: u32,
    /// What every checksum begins with: that of the filesystem's identity.
    seed: u32,
}

struct Inode {
    number: u32,
    bytes: [u8; INODE],
    /// What the checksums of it and its blocks begin with.
    seed: u32,
}

impl Inode {
    fn flags(&self) -> u32 {
        u32_at(&self.bytes, FLAGS)
    }
}

impl<'a> Metadata<'a> {
    fn open(file: &'a File) -> io::Result<Self> {
        let mut superblock = [0; 1024];
        file.read_exact_at(&mut superblock, 1024)?;
        Ok(Self { file, inodes_per_group: u32_at(&superblock, 0x28), seed: crc32c(!0, &superblock[0x68..0x78]) })
    }

    /// Where an inode is.
    fn place(&self, number: u32) -> io::Result<u64> {
        let (group, index) = ((number - 1) / self.inodes_per_group, (number - 1) % self.inodes_per_group);
        let mut descriptor = [0; 32];
        self.file.read_exact_at(&mut descriptor, BLOCK as u64 + u64::from(group) * 32)?;
        Ok(u64::from(u32_at(&descriptor, 8)) * BLOCK as u64 + u64::from(index) * INODE as u64)
    }

    fn inode(&self, number: u32) -> io::Result<Inode> {
        let mut bytes = [0; INODE];
        self.file.read_exact_at(&mut bytes, self.place(number)?)?;
        let seed = crc32c(crc32c(self.seed, &number.to_le_bytes()), &bytes[GENERATION..GENERATION + 4]);
        Ok(Inode { number, bytes, seed })
    }

    /// Writes an inode with its checksum.
    fn write(&self, inode: &mut Inode) -> io::Result<()> {
        for half in [CHECKSUM_LOW, CHECKSUM_HIGH] {
            inode.bytes[half..half + 2].fill(0);
        }
        let [a, b, c, d] = crc32c(inode.seed, &inode.bytes).to_le_bytes();
        inode.bytes[CHECKSUM_LOW..CHECKSUM_LOW + 2].copy_from_slice(&[a, b]);
        inode.bytes[CHECKSUM_HIGH..CHECKSUM_HIGH + 2].copy_from_slice(&[c, d]);
        self.file.write_all_at(&inode.bytes, self.place(inode.number)?)
    }

    fn block(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; BLOCK];
        self.file.read_exact_at(&mut bytes, number * BLOCK as u64)?;
        Ok(bytes)
    }

    /// The blocks below a node of an extent tree, in order.
    fn mapped(&self, node: &[u8], blocks: &mut Vec<u64>) -> io::Result<()> {
        if u16_at(node, 0) != NODE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (entries, depth) = (usize::from(u16_at(node, 2)), u16_at(node, 6));
        for entry in node[12..].chunks_exact(12).take(entries) {
            if depth == 0 {
                let start = u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32;
                blocks.extend(start..start + u64::from(u16_at(entry, 4)));
            } else {
                let child = u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32;
                self.mapped(&self.block(child)?, blocks)?;
            }
        }
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// CRC-32C as ext4 chains it: no inversion at either end.
fn crc32c(start: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut n = 0;
        while n < 256 {
            #[expect(clippy::cast_possible_truncation, reason = "below 256; `try_from` is not const")]
            let mut crc = n as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82F6_3B78 };
                bit += 1;
            }
            table[n] = crc;
            n += 1;
        }
        table
    };
    bytes.iter().fold(start, |crc, &byte| TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_as_long_as_what_they_stand_for_and_nobody_elses() {
        let mut stand_ins = StandIns::default();
        assert_eq!(stand_ins.name(2, b"plain", |_| false), Ok("plain".into()));
        let mut seen = std::collections::HashSet::new();
        for n in 0..2000_u16 {
            let name = [&n.to_le_bytes()[..], b"\xff\xfe"].concat();
            let text = stand_ins.name(2, &name, |taken| taken == b"0005").unwrap();
            assert!(text.len() == 4 && &*text != "0005" && seen.insert(text.into_owned()));
        }
        for _ in 0..36 {
            stand_ins.name(3, b"\xff", |_| false).unwrap();
        }
        assert_eq!(stand_ins.name(3, b"\xff", |_| false), Err(Refusal::NotUtf8));
    }

    #[test]
    fn the_checksum_is_the_usual_one_without_its_inversions() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
    }
}
