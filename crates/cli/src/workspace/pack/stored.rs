//! Pack of one object that is too large for memory: stored instead of compressed, so that its length is known before it
//! was read.

use super::{Entry, Object, Sink, head, index, unparsable};
use crate::workspace::hash::Hasher;
use banger_proto::agent::workspace::HashName;
use data_encoding::HEXLOWER;
use flate2::Crc;
use std::io::{self, Read};

/// Bytes of one stored block (RFC 1951, 3.2.4).
const BLOCK: usize = 65_535;

/// Writes a pack with one object that is not held in memory.
pub(super) fn write_large(
    object: &Object,
    content: &mut impl Read,
    format: HashName,
    sink: &mut impl Sink,
) -> io::Result<()> {
    let blocks = object.size.div_ceil(BLOCK as u64);
    let prefix = [head(1), object.header()].concat();
    let size = prefix.len() as u64 + 2 + object.size + 5 * blocks + 4 + format.len() as u64;
    let mut stored = Stored {
        content: content.take(object.size),
        left: object.size,
        ready: Vec::new(),
        at: 0,
        adler: (1, 0),
        hasher: Some(Hasher::new(format)),
        crc: Crc::new(),
        pack: Vec::new(),
    };
    stored.put(&prefix[..12], false);
    stored.put(&[&prefix[12..], &[0x78, 0x01]].concat(), true);
    // The pack's own hash is known only at its end; the object's is as unique.
    let name = format!("pack-{}", HEXLOWER.encode(&object.id));
    sink.pack(&name, size, &mut stored)?;
    if stored.pack.is_empty() {
        return Err(unparsable("an object cut short"));
    }
    let entry = Entry { id: object.id.clone(), crc: stored.crc.sum(), offset: 12 };
    sink.index(&name, &index(vec![entry], &stored.pack, format))
}

/// Reader that makes the pack from the object's content.
struct Stored<R> {
    content: R,
    left: u64,
    /// Bytes of the pack that are ready, and how many of them were read.
    ready: Vec<u8>,
    at: usize,
    adler: (u32, u32),
    /// Hash of the whole pack, until its end.
    hasher: Option<Hasher>,
    /// CRC of the object's bytes in the pack.
    crc: Crc,
    /// The pack's checksum, once all of it was made.
    pack: Vec<u8>,
}

impl<R: Read> Stored<R> {
    fn put(&mut self, bytes: &[u8], of_object: bool) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        if of_object {
            self.crc.update(bytes);
        }
        self.ready.extend_from_slice(bytes);
    }

    fn block(&mut self) -> io::Result<()> {
        let length = self.left.min(BLOCK as u64);
        let mut block = vec![0; 5 + usize::try_from(length).map_err(io::Error::other)?];
        self.content.read_exact(&mut block[5..])?;
        self.left -= length;
        let length = u16::try_from(length).map_err(io::Error::other)?;
        block[0] = u8::from(self.left == 0);
        block[1..3].copy_from_slice(&length.to_le_bytes());
        block[3..5].copy_from_slice(&(!length).to_le_bytes());
        self.adler = adler(self.adler, &block[5..]);
        self.put(&block, true);
        if self.left == 0 {
            let (a, b) = self.adler;
            self.put(&((b << 16) | a).to_be_bytes(), true);
            if let Some(hasher) = self.hasher.take() {
                self.pack = hasher.finish();
                self.ready.extend_from_slice(&self.pack);
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Stored<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.ready.len() {
            self.ready.clear();
            self.at = 0;
            if self.left == 0 {
                return Ok(0);
            }
            self.block()?;
        }
        let count = into.len().min(self.ready.len() - self.at);
        into[..count].copy_from_slice(&self.ready[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Adler-32 (RFC 1950), in runs short enough not to overflow.
fn adler((mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    for run in bytes.chunks(5552) {
        for byte in run {
            a += u32::from(*byte);
            b += a;
        }
        a %= 65_521;
        b %= 65_521;
    }
    (a, b)
}
