//! Decompression of DEFLATE (RFC 1951) into buffers that are large.
//!
//! Most of what a pull costs is this, so it is written for one thing: large buffers in, large buffers out. There a whole
//! code is looked up at once, several bytes are copied as one word, and neither end is looked at more than once a turn
//! ([`Inflate::run`]). At the edges of buffers the same is done a symbol at a time ([`Inflate::step`]).
//!
//! What zlib refuses is refused here. The bytes are hostile: every index is checked, and nothing is allocated by what they
//! say.

mod bits;
mod code;
mod past;
mod run;

pub(super) use bits::Bits;
use code::{
    BYTES, ByteTable, DISTANCES, DistanceTable, END, Entry, LENS, LITERAL, LenTable, MAX_LEN, NoCode, OTHER, Table,
    USED_BYTES, USED_DISTANCES,
};
use past::Past;
use std::io::{self, BufRead, Read};

/// The order in which lengths of the code of lengths come (RFC 1951, 3.2.7).
const LEN_ORDER: [usize; LENS] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Decompresses one stream after another from the same input.
pub(super) struct Inflate<R> {
    pub(super) bits: Bits<R>,
    state: State,
    /// Whether the block is the last.
    last: bool,
    bytes: ByteTable,
    distances: DistanceTable,
    /// Whether these are those of a block that brings none: to make them for every block of a few bits would cost more than
    /// all the rest.
    are_fixed: bool,
    lens: LenTable,
    past: Past,
    /// Bytes that came out.
    total: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A block begins.
    Block,
    /// So many bytes follow as they are.
    Stored(u16),
    /// Codes follow.
    Codes,
    /// A match has that much left to copy.
    Match {
        len: u16,
        distance: u16,
    },
    Ended,
}

impl<R: BufRead> Inflate<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            bits: Bits::new(input),
            state: State::Ended,
            last: false,
            bytes: ByteTable::new(),
            distances: DistanceTable::new(),
            are_fixed: false,
            lens: LenTable::new(),
            past: Past::new(),
            total: 0,
        }
    }

    /// A stream begins.
    pub(super) fn begin(&mut self) {
        (self.state, self.last, self.total) = (State::Block, false, 0);
        self.past.forget();
    }

    /// How many bytes came out of the stream.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Fills the buffer; less than that at the end of the stream alone. The input stands at a whole byte then.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < out.len() {
            match self.state {
                State::Block => self.block()?,
                State::Stored(left) => {
                    let len = usize::from(left).min(out.len() - at);
                    self.bits.read_exact(&mut out[at..at + len])?;
                    at += len;
                    self.state = match left - short(len) {
                        0 => State::Block,
                        left => State::Stored(left),
                    };
                }
                State::Codes => {
                    at = self.run(out, at)?;
                    if self.state == State::Codes && at < out.len() {
                        at = self.step(out, at)?;
                    }
                }
                State::Match { len, distance } => at = self.copy(out, at, len.into(), distance.into())?,
                State::Ended => break,
            }
        }
        self.keep(&out[..at]);
        Ok(at)
    }

    /// The head of a block (RFC 1951, 3.2.3).
    fn block(&mut self) -> io::Result<()> {
        if self.last {
            self.bits.align();
            self.state = State::Ended;
            return Ok(());
        }
        self.bits.gather()?;
        self.last = self.bits.draw(1)? == 1;
        match self.bits.draw(2)? {
            0 => {
                self.bits.align();
                let mut head = [0; 4];
                self.bits.read_exact(&mut head)?;
                let [a, b, c, d] = head;
                let len = u16::from_le_bytes([a, b]);
                if len != !u16::from_le_bytes([c, d]) {
                    return Err(broken("a stored block's length"));
                }
                self.state = if len == 0 { State::Block } else { State::Stored(len) };
            }
            1 if self.are_fixed => self.state = State::Codes,
            1 => {
                let mut lens = [8; BYTES];
                lens[144..256].fill(9);
                lens[256..280].fill(7);
                self.codes(&lens, &[5; DISTANCES])?;
                self.are_fixed = true;
            }
            2 => self.written_codes()?,
            _ => return Err(broken("a block's kind")),
        }
        Ok(())
    }

    fn codes(&mut self, bytes: &[u8], distances: &[u8]) -> io::Result<()> {
        self.are_fixed = false;
        self.bytes.of_bytes(bytes).map_err(|NoCode| broken("the code of bytes and lengths"))?;
        self.distances.of_distances(distances).map_err(|NoCode| broken("the code of distances"))?;
        self.state = State::Codes;
        Ok(())
    }

    /// Reads the codes of a block that brings its own (RFC 1951, 3.2.7).
    fn written_codes(&mut self) -> io::Result<()> {
        let bits = &mut self.bits;
        let mut count = |len, least| Ok::<_, io::Error>(bits.draw(len)? as usize + least);
        let (bytes, distances, count) = (count(5, 257)?, count(5, 1)?, count(4, 4)?);
        if bytes > USED_BYTES || distances > USED_DISTANCES {
            return Err(broken("how many codes a block has"));
        }
        let mut lens = [0; LENS];
        for &symbol in &LEN_ORDER[..count] {
            bits.gather()?;
            lens[symbol] = byte(bits.draw(3)?);
        }
        self.lens.of_lens(&lens).map_err(|NoCode| broken("the code of lengths"))?;
        let mut all = [0; USED_BYTES + USED_DISTANCES];
        let all = &mut all[..bytes + distances];
        let mut at = 0;
        while at < all.len() {
            bits.gather()?;
            let entry = self.lens.slot(bits.held);
            bits.draw(entry & 0xFF)?;
            let (len, times) = match entry >> 16 {
                16 if at == 0 => return Err(broken("lengths of codes")),
                16 => (all[at - 1], 3 + bits.draw(2)?),
                17 => (0, 3 + bits.draw(3)?),
                18 => (0, 11 + bits.draw(7)?),
                len => (byte(len), 1),
            };
            all.get_mut(at..at + times as usize).ok_or_else(|| broken("lengths of codes"))?.fill(len);
            at += times as usize;
        }
        let (bytes, distances) = all.split_at(bytes);
        if bytes[256] == 0 {
            return Err(broken("a block that cannot end"));
        }
        let (mut byte_lens, mut distance_lens) = ([0; USED_BYTES], [0; USED_DISTANCES]);
        byte_lens[..bytes.len()].copy_from_slice(bytes);
        distance_lens[..distances.len()].copy_from_slice(distances);
        self.codes(&byte_lens, &distance_lens)
    }

    /// One symbol, and what is copied because of it as far as there is room.
    fn step(&mut self, out: &mut [u8], at: usize) -> io::Result<usize> {
        self.bits.gather()?;
        let entry = symbol(&mut self.bits, &self.bytes)?;
        if entry & LITERAL != 0 {
            out[at] = byte((entry & !LITERAL) >> 16);
            return Ok(at + 1);
        }
        if entry & END != 0 {
            self.state = State::Block;
            return Ok(at);
        }
        let distance = symbol(&mut self.bits, &self.distances)?;
        self.copy(out, at, (entry >> 16) as usize, (distance >> 16) as usize)
    }

    /// Copies of a match what there is room for.
    fn copy(&mut self, out: &mut [u8], at: usize, len: usize, distance: usize) -> io::Result<usize> {
        let end = out.len().min(at + len);
        self.past.copy(out, at, end, distance).map_err(broken)?;
        self.state = match at + len - end {
            0 => State::Codes,
            left => State::Match { len: short(left), distance: short(distance) },
        };
        Ok(end)
    }

    /// Counts what came out, and keeps what a match in the next buffer may reach.
    fn keep(&mut self, out: &[u8]) {
        self.total += out.len() as u64;
        if self.state != State::Ended {
            self.past.keep(out);
        }
    }
}

/// Takes a symbol, of at most as many bits as are [gathered](Bits::gather); its entry, with the number made up.
fn symbol<const BITS: u32, const ROOM: usize>(
    bits: &mut Bits<impl BufRead>,
    table: &Table<BITS, ROOM>,
) -> io::Result<Entry> {
    let mut entry = table.slot(bits.held);
    if entry & OTHER != 0
        && let Some(further) = table.onward(entry, bits.held)
    {
        bits.draw(entry & 0xFF)?;
        entry = further;
    }
    if entry & OTHER != 0 && entry & END == 0 {
        // Behind the end of the input there are zeros, which may be no code.
        return Err(if bits.count < MAX_LEN { io::ErrorKind::UnexpectedEof.into() } else { broken("a symbol") });
    }
    let drawn = bits.draw(entry & 0xFF)?;
    let is_number = entry & (LITERAL | OTHER) == 0;
    Ok(if is_number { (entry & 0xFFFF_0000) + ((drawn >> (entry >> 8 & 0xF)) << 16) } else { entry })
}

fn short(number: usize) -> u16 {
    u16::try_from(number).expect("a length or a distance")
}

fn byte(number: u32) -> u8 {
    u8::try_from(number).expect("it is less than 256")
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is no DEFLATE: {what}"))
}

#[cfg(test)]
mod tests;
