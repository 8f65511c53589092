//! Gzip decoder (RFC 1952) for layers, without gzip's own checksum.
//!
//! A decompressed layer must have the SHA-256 that its image's configuration names; a CRC-32 of the same bytes would
//! prove less and costs a tenth of the whole. Everything else about the format is checked.

use super::inflate::Inflate;
use std::io::{self, BufRead, Read};

/// Longest name or comment, in bytes.
const MAX_FIELD: usize = 64 << 10;
/// Flags of a header's optional fields, and the reserved bits.
const CHECKED: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// Decompresses all members of a stream.
pub(super) struct Gunzip<R> {
    inflate: Inflate<R>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the header of a member; the first one has to exist.
    Header {
        first: bool,
    },
    Body,
    Ended,
}

impl<R: BufRead> Gunzip<R> {
    pub(super) fn new(input: R) -> Self {
        Self { inflate: Inflate::new(input), state: State::Header { first: true } }
    }

    /// Reads the header of a member; false if there is none.
    fn header(&mut self, first: bool) -> io::Result<bool> {
        let input = &mut self.inflate.bits;
        if !first && input.is_at_end()? {
            return Ok(false);
        }
        let mut head = [0; 10];
        input.read_exact(&mut head)?;
        let [0x1f, 0x8b, 8, flags, ..] = head else { return Err(invalid("it is not gzip")) };
        if flags & RESERVED != 0 {
            return Err(invalid("its gzip header has flags of an unknown meaning"));
        }
        if flags & EXTRA != 0 {
            let mut len = [0; 2];
            input.read_exact(&mut len)?;
            let mut field = vec![0; usize::from(u16::from_le_bytes(len))];
            input.read_exact(&mut field)?;
        }
        for field in [NAME, COMMENT] {
            if flags & field != 0 && !input.skip_text(MAX_FIELD)? {
                return Err(invalid("its gzip header does not end"));
            }
        }
        if flags & CHECKED != 0 {
            input.read_exact(&mut [0; 2])?;
        }
        self.inflate.begin();
        Ok(true)
    }

    /// Reads the trailer of a member: a checksum, which is ignored, and the length of its content.
    fn trailer(&mut self) -> io::Result<()> {
        let mut trailer = [0; 8];
        self.inflate.bits.read_exact(&mut trailer)?;
        let [.., a, b, c, d] = trailer;
        let is = self.inflate.total() & u64::from(u32::MAX);
        if is == u64::from(u32::from_le_bytes([a, b, c, d])) {
            return Ok(());
        }
        Err(invalid("it has another length than its gzip trailer says"))
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            match self.state {
                State::Header { first } => {
                    let begins = self.header(first)?;
                    self.state = if begins { State::Body } else { State::Ended };
                }
                State::Body => {
                    let given = self.inflate.read(buffer)?;
                    if given < buffer.len() {
                        self.trailer()?;
                        self.state = State::Header { first: false };
                    }
                    if given > 0 {
                        return Ok(given);
                    }
                }
                State::Ended => break,
            }
        }
        Ok(0)
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, GzBuilder};
    use std::io::Write as _;

    fn packed(builder: GzBuilder, content: &[u8]) -> Vec<u8> {
        let mut encoder = builder.write(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        // The smallest buffer splits everything that can be split.
        Gunzip::new(io::BufReader::with_capacity(1, bytes)).read_to_end(&mut all)?;
        let mut again = Vec::new();
        Gunzip::new(bytes).read_to_end(&mut again)?;
        assert_eq!(all, again);
        Ok(all)
    }

    #[test]
    fn members_with_every_field_follow_each_other() {
        let content: Vec<u8> = (0..300_000_u32).map(|n| u8::try_from(n % 1000 * (n % 977) % 250).unwrap()).collect();
        let full = GzBuilder::new().filename("a name").comment("a comment").extra(vec![1, 2, 0, 0]).mtime(7);
        let all =
            [packed(full, &content), packed(GzBuilder::new(), b""), packed(GzBuilder::new(), b"the end")].concat();
        assert!(unpacked(&all).unwrap() == [&content[..], b"the end"].concat());
    }

    #[test]
    fn what_is_cut_or_lies_is_an_error() {
        let good = packed(GzBuilder::new().filename("name"), b"content content content");
        for len in 0..good.len() {
            assert!(unpacked(&good[..len]).is_err(), "{len}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for bad in [with(0, 0), with(2, 7), with(3, 0x80), with(good.len() - 1, 1), [&good[..], b"more"].concat()] {
            assert!(unpacked(&bad).is_err());
        }
        let endless = [&[0x1f, 0x8b, 8, NAME, 0, 0, 0, 0, 0, 0][..], &vec![b'x'; 2 * MAX_FIELD]].concat();
        assert!(unpacked(&endless).is_err());
    }
}
