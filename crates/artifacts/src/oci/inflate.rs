//! DEFLATE decoder (RFC 1951) for large buffers.
//!
//! It is our own because decompression is most of the cost of a pull. Measured on the layers of a 309 MiB image, both
//! decoders in parallel and writing nowhere, over 10 rounds, it takes 0.61 of the time of zlib-rs, about what ISA-L's
//! igzip takes.
//!
//! It is written for one case: large buffers in, large buffers out. There a whole code is looked up at once, several
//! bytes are copied as one word, and neither end is checked more than once per iteration ([`Inflate::run_fast`]). At
//! the edges of buffers it decodes one symbol at a time ([`Inflate::decode_symbol`]).
//!
//! It refuses what zlib refuses. The bytes are hostile: every index is checked, and no allocation depends on them.

mod bits;
mod fast_loop;
mod huffman;
mod window;

pub(super) use bits::Bits;
use huffman::{
    CODE_LEN_SYMBOLS, CodeLenTable, DISTANCE_SYMBOLS, DistanceTable, END_OF_BLOCK, EXCEPTIONAL, Entry, InvalidCode,
    LITERAL, LITLEN_SYMBOLS, LitLenTable, MAX_CODE_LEN, MAX_DISTANCE_CODES, MAX_LITLEN_CODES, Table,
};
use std::io::{self, BufRead, Read};
use window::Window;

/// Order in which the lengths of the code length code are stored (RFC 1951, 3.2.7).
const CODE_LEN_ORDER: [usize; CODE_LEN_SYMBOLS] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Decompresses one stream after another from the same input.
pub(super) struct Inflate<R> {
    pub(super) bits: Bits<R>,
    state: State,
    /// Whether the current block is the last one.
    last: bool,
    litlen: LitLenTable,
    distance: DistanceTable,
    /// Whether the tables are those of the fixed codes: rebuilding them for every block of a few bits would cost more
    /// than everything else.
    is_fixed: bool,
    code_len: CodeLenTable,
    window: Window,
    /// Number of decompressed bytes.
    total: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the header of a block.
    Block,
    /// In a stored block with so many bytes left.
    Stored(u16),
    /// In a compressed block.
    Compressed,
    /// In a match with `len` bytes left to copy.
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
            litlen: LitLenTable::new(),
            distance: DistanceTable::new(),
            is_fixed: false,
            code_len: CodeLenTable::new(),
            window: Window::new(),
            total: 0,
        }
    }

    /// Begins a stream.
    pub(super) fn begin(&mut self) {
        (self.state, self.last, self.total) = (State::Block, false, 0);
        self.window.clear();
    }

    /// Returns how many bytes the stream was decompressed to.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Fills the buffer; only at the end of the stream less than that. The input is at a whole byte then.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < out.len() {
            match self.state {
                State::Block => self.begin_block()?,
                State::Stored(left) => {
                    let len = usize::from(left).min(out.len() - at);
                    self.bits.read_exact(&mut out[at..at + len])?;
                    at += len;
                    self.state = match left - to_u16(len) {
                        0 => State::Block,
                        left => State::Stored(left),
                    };
                }
                State::Compressed => {
                    at = self.run_fast(out, at)?;
                    if self.state == State::Compressed && at < out.len() {
                        at = self.decode_symbol(out, at)?;
                    }
                }
                State::Match { len, distance } => at = self.copy(out, at, len.into(), distance.into())?,
                State::Ended => break,
            }
        }
        self.record_output(&out[..at]);
        Ok(at)
    }

    /// Reads the header of a block (RFC 1951, 3.2.3).
    fn begin_block(&mut self) -> io::Result<()> {
        if self.last {
            self.bits.align();
            self.state = State::Ended;
            return Ok(());
        }
        self.bits.refill()?;
        self.last = self.bits.take_bits(1)? == 1;
        match self.bits.take_bits(2)? {
            0 => {
                self.bits.align();
                let mut head = [0; 4];
                self.bits.read_exact(&mut head)?;
                let [a, b, c, d] = head;
                let len = u16::from_le_bytes([a, b]);
                if len != !u16::from_le_bytes([c, d]) {
                    return Err(invalid("a stored block's length"));
                }
                self.state = if len == 0 { State::Block } else { State::Stored(len) };
            }
            1 if self.is_fixed => self.state = State::Compressed,
            1 => {
                let mut lens = [8; LITLEN_SYMBOLS];
                lens[144..256].fill(9);
                lens[256..280].fill(7);
                self.set_codes(&lens, &[5; DISTANCE_SYMBOLS])?;
                self.is_fixed = true;
            }
            2 => self.read_codes()?,
            _ => return Err(invalid("a block's kind")),
        }
        Ok(())
    }

    fn set_codes(&mut self, bytes: &[u8], distances: &[u8]) -> io::Result<()> {
        self.is_fixed = false;
        self.litlen.build_litlen(bytes).map_err(|InvalidCode| invalid("the code of bytes and lengths"))?;
        self.distance.build_distance(distances).map_err(|InvalidCode| invalid("the code of distances"))?;
        self.state = State::Compressed;
        Ok(())
    }

    /// Reads the codes of a block with dynamic codes (RFC 1951, 3.2.7).
    fn read_codes(&mut self) -> io::Result<()> {
        let bits = &mut self.bits;
        let mut count = |len, min| Ok::<_, io::Error>(bits.take_bits(len)? as usize + min);
        let (bytes, distances, count) = (count(5, 257)?, count(5, 1)?, count(4, 4)?);
        if bytes > MAX_LITLEN_CODES || distances > MAX_DISTANCE_CODES {
            return Err(invalid("how many codes a block has"));
        }
        let mut lens = [0; CODE_LEN_SYMBOLS];
        for &symbol in &CODE_LEN_ORDER[..count] {
            bits.refill()?;
            lens[symbol] = to_u8(bits.take_bits(3)?);
        }
        self.code_len.build_code_len(&lens).map_err(|InvalidCode| invalid("the code of lengths"))?;
        let mut all = [0; MAX_LITLEN_CODES + MAX_DISTANCE_CODES];
        let all = &mut all[..bytes + distances];
        let mut at = 0;
        while at < all.len() {
            bits.refill()?;
            let entry = self.code_len.lookup(bits.bitbuf);
            bits.take_bits(entry & 0xFF)?;
            let (len, times) = match entry >> 16 {
                16 if at == 0 => return Err(invalid("lengths of codes")),
                16 => (all[at - 1], 3 + bits.take_bits(2)?),
                17 => (0, 3 + bits.take_bits(3)?),
                18 => (0, 11 + bits.take_bits(7)?),
                len => (to_u8(len), 1),
            };
            all.get_mut(at..at + times as usize).ok_or_else(|| invalid("lengths of codes"))?.fill(len);
            at += times as usize;
        }
        let (bytes, distances) = all.split_at(bytes);
        if bytes[256] == 0 {
            return Err(invalid("a block that cannot end"));
        }
        let (mut byte_lens, mut distance_lens) = ([0; MAX_LITLEN_CODES], [0; MAX_DISTANCE_CODES]);
        byte_lens[..bytes.len()].copy_from_slice(bytes);
        distance_lens[..distances.len()].copy_from_slice(distances);
        self.set_codes(&byte_lens, &distance_lens)
    }

    /// Decodes one symbol, and copies its match as far as there is room.
    fn decode_symbol(&mut self, out: &mut [u8], at: usize) -> io::Result<usize> {
        self.bits.refill()?;
        let entry = next_symbol(&mut self.bits, &self.litlen)?;
        if entry & LITERAL != 0 {
            out[at] = to_u8((entry & !LITERAL) >> 16);
            return Ok(at + 1);
        }
        if entry & END_OF_BLOCK != 0 {
            self.state = State::Block;
            return Ok(at);
        }
        let distance = next_symbol(&mut self.bits, &self.distance)?;
        self.copy(out, at, (entry >> 16) as usize, (distance >> 16) as usize)
    }

    /// Copies as much of a match as there is room for.
    fn copy(&mut self, out: &mut [u8], at: usize, len: usize, distance: usize) -> io::Result<usize> {
        let end = out.len().min(at + len);
        self.window.copy(out, at, end, distance).map_err(invalid)?;
        self.state = match at + len - end {
            0 => State::Compressed,
            left => State::Match { len: to_u16(left), distance: to_u16(distance) },
        };
        Ok(end)
    }

    /// Counts the decompressed bytes, and saves those that a match in the next buffer may refer to.
    fn record_output(&mut self, out: &[u8]) {
        self.total += out.len() as u64;
        if self.state != State::Ended {
            self.window.push(out);
        }
    }
}

/// Decodes a symbol, whose bits [`Bits::refill`] has made available. Returns its entry, with the extra bits added to
/// the number.
fn next_symbol<const BITS: u32, const SIZE: usize>(
    bits: &mut Bits<impl BufRead>,
    table: &Table<BITS, SIZE>,
) -> io::Result<Entry> {
    let mut entry = table.lookup(bits.bitbuf);
    if entry & EXCEPTIONAL != 0
        && let Some(further) = table.subtable_entry(entry, bits.bitbuf)
    {
        bits.take_bits(entry & 0xFF)?;
        entry = further;
    }
    if entry & EXCEPTIONAL != 0 && entry & END_OF_BLOCK == 0 {
        // Behind the end of the input there are zeros, which may be no code.
        return Err(if bits.count < MAX_CODE_LEN { io::ErrorKind::UnexpectedEof.into() } else { invalid("a symbol") });
    }
    let taken = bits.take_bits(entry & 0xFF)?;
    let is_number = entry & (LITERAL | EXCEPTIONAL) == 0;
    Ok(if is_number { (entry & 0xFFFF_0000) + ((taken >> (entry >> 8 & 0xF)) << 16) } else { entry })
}

fn to_u16(number: usize) -> u16 {
    u16::try_from(number).expect("a length or a distance")
}

fn to_u8(number: u32) -> u8 {
    u8::try_from(number).expect("it is less than 256")
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is no DEFLATE: {what}"))
}

#[cfg(test)]
mod tests;
