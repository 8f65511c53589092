//! Fast loop of the decoder: runs as long as there is enough input ahead and enough room for the output.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "a target feature, used only where the processor is found to have it")
)]
#![expect(
    clippy::inline_always,
    reason = "the loop is compiled twice, with the target features of its caller and without"
)]

use super::{
    Inflate, State,
    bits::REFILLED_BITS,
    huffman::{DistanceTable, END_OF_BLOCK, EXCEPTIONAL, Entry, LITERAL, LitLenTable},
    invalid,
    window::Window,
};
use std::io::{self, BufRead};

/// Size of a word in bytes.
const WORD: usize = 8;
/// Bytes of input that one iteration may look at: three words, each of which takes up to seven bytes.
const INPUT_MARGIN: usize = 4 * WORD;
/// Bytes that one iteration may write: three literals, the longest match, and the bytes copied beyond its end.
const OUTPUT_MARGIN: usize = 3 + 258 + 2 * STRIDE;
/// Bytes that are copied at once.
const STRIDE: usize = 16;

/// Bit reader of the loop: all of it in registers.
struct FastBits<'a> {
    input: &'a [u8],
    next: usize,
    bitbuf: u64,
    count: u32,
}

impl FastBits<'_> {
    /// Makes 56 bits or more available. The bits above `count` are also from the input, and are read again.
    #[inline(always)]
    fn refill(&mut self) {
        let word: [u8; WORD] = self.input[self.next..self.next + WORD].try_into().expect("it is as long");
        self.bitbuf |= u64::from_le_bytes(word).wrapping_shl(self.count);
        self.next += ((self.count & 63 ^ 63) >> 3) as usize;
        self.count |= REFILLED_BITS;
    }

    /// Takes the bits an entry names and returns all bits as they were before.
    #[inline(always)]
    fn take(&mut self, entry: Entry) -> u64 {
        let before = self.bitbuf;
        self.bitbuf = self.bitbuf.wrapping_shr(entry);
        self.count = self.count.wrapping_sub(entry);
        before
    }
}

/// Returns the literal of an entry.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "what is above is no part of it")]
fn literal(entry: Entry) -> u8 {
    (entry >> 16) as u8
}

/// Returns the number of an entry, with its extra bits added.
#[inline(always)]
fn number(entry: Entry, bits: u64) -> usize {
    let added = (bits & ((1 << (entry & 0x3F)) - 1)) >> (entry >> 8 & 0xF);
    (entry >> 16) as usize + usize::try_from(added).expect("a few bits")
}

impl<R: BufRead> Inflate<R> {
    /// Decodes into `out` from `at` on. Returns the position it reached.
    pub(super) fn run_fast(&mut self, out: &mut [u8], at: usize) -> io::Result<usize> {
        let (bitbuf, count) = (self.bits.bitbuf, self.bits.count);
        let mut bits = FastBits { input: self.bits.buffered()?, next: 0, bitbuf, count };
        #[cfg(target_arch = "x86_64")]
        let result = if std::arch::is_x86_feature_detected!("bmi1") && std::arch::is_x86_feature_detected!("bmi2") {
            // SAFETY: the processor has the features that the function is compiled for.
            unsafe { fast_loop_bmi(&mut bits, &self.litlen, &self.distance, &self.window, out, at) }
        } else {
            fast_loop(&mut bits, &self.litlen, &self.distance, &self.window, out, at)
        };
        #[cfg(not(target_arch = "x86_64"))]
        let result = fast_loop(&mut bits, &self.litlen, &self.distance, &self.window, out, at);
        let FastBits { next, bitbuf, count, .. } = bits;
        self.bits.input.consume(next);
        let count = count & 63;
        (self.bits.bitbuf, self.bits.count) = (bitbuf & ((1 << count) - 1), count);
        let (at, stop) = result;
        match stop {
            Stop::Edge => Ok(at),
            Stop::EndOfBlock => {
                self.state = State::Block;
                Ok(at)
            }
            Stop::Invalid(what) => Err(invalid(what)),
        }
    }
}

/// Reason why the loop stopped.
enum Stop {
    /// Too little input ahead, or too little room.
    Edge,
    /// End of the block.
    EndOfBlock,
    /// Invalid input.
    Invalid(&'static str),
}

/// Runs the loop compiled for BMI, whose instructions shift by any register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2")]
fn fast_loop_bmi(
    bits: &mut FastBits<'_>,
    litlen: &LitLenTable,
    distance_table: &DistanceTable,
    window: &Window,
    out: &mut [u8],
    at: usize,
) -> (usize, Stop) {
    fast_loop(bits, litlen, distance_table, window, out, at)
}

/// Decodes symbols and writes what they stand for.
#[inline(always)]
fn fast_loop(
    saved: &mut FastBits<'_>,
    litlen: &LitLenTable,
    distance_table: &DistanceTable,
    window: &Window,
    out: &mut [u8],
    mut at: usize,
) -> (usize, Stop) {
    let (Some(last_in), Some(last_out)) =
        (saved.input.len().checked_sub(INPUT_MARGIN), out.len().checked_sub(OUTPUT_MARGIN))
    else {
        return (at, Stop::Edge);
    };
    if at > last_out || saved.next > last_in {
        return (at, Stop::Edge);
    }
    let mut bits = FastBits { ..*saved };
    bits.refill();
    let mut entry = litlen.lookup(bits.bitbuf);
    let stop = loop {
        if bits.next > last_in || at > last_out {
            break Stop::Edge;
        }
        // Literals first: there may be several, and after two of them there are enough bits for a length.
        let mut before = bits.take(entry);
        if entry & LITERAL != 0 {
            out[at] = literal(entry);
            at += 1;
            entry = litlen.lookup(bits.bitbuf);
            before = bits.take(entry);
            if entry & LITERAL != 0 {
                out[at] = literal(entry);
                at += 1;
                entry = litlen.lookup(bits.bitbuf);
                before = bits.take(entry);
                if entry & LITERAL != 0 {
                    out[at] = literal(entry);
                    at += 1;
                    bits.refill();
                    entry = litlen.lookup(bits.bitbuf);
                    continue;
                }
            }
        }
        if entry & EXCEPTIONAL != 0 {
            let Some(further) = litlen.subtable_entry(entry, before) else {
                break if entry & END_OF_BLOCK != 0 { Stop::EndOfBlock } else { Stop::Invalid("a symbol") };
            };
            entry = further;
            before = bits.take(entry);
            if entry & LITERAL != 0 {
                out[at] = literal(entry);
                at += 1;
                bits.refill();
                entry = litlen.lookup(bits.bitbuf);
                continue;
            }
            if entry & EXCEPTIONAL != 0 {
                break if entry & END_OF_BLOCK != 0 { Stop::EndOfBlock } else { Stop::Invalid("a symbol") };
            }
        }
        let len = number(entry, before);
        if bits.count & 63 < 28 {
            bits.refill();
        }
        entry = distance_table.lookup(bits.bitbuf);
        before = bits.take(entry);
        if entry & EXCEPTIONAL != 0 {
            let Some(further) = distance_table.subtable_entry(entry, before) else { break Stop::Invalid("a distance") };
            entry = further;
            before = bits.take(entry);
            if entry & EXCEPTIONAL != 0 {
                break Stop::Invalid("a distance");
            }
        }
        let distance = number(entry, before);
        bits.refill();
        entry = litlen.lookup(bits.bitbuf);
        if distance <= at {
            copy(out, at, len, distance);
        } else if let Err(what) = window.copy(out, at, at + len, distance) {
            break Stop::Invalid(what);
        }
        at += len;
    };
    *saved = bits;
    (at, stop)
}

/// Copies a match within the buffer; writes up to two strides beyond its end.
#[inline(always)]
fn copy(out: &mut [u8], at: usize, len: usize, distance: usize) {
    let (mut from, mut to) = (at - distance, at);
    let end = at + len;
    if distance >= STRIDE {
        stride(out, from, to);
        stride(out, from + STRIDE, to + STRIDE);
        while {
            from += 2 * STRIDE;
            to += 2 * STRIDE;
            to < end
        } {
            stride(out, from, to);
            stride(out, from + STRIDE, to + STRIDE);
        }
    } else if distance == 1 {
        let value = out[from];
        out[to..end].fill(value);
    } else {
        // Of each stride as many bytes are correct as the distance of the match.
        while to < end {
            stride(out, from, to);
            from += distance;
            to += distance;
        }
    }
}

#[inline(always)]
fn stride(out: &mut [u8], from: usize, to: usize) {
    let piece: [u8; STRIDE] = out[from..from + STRIDE].try_into().expect("it is as long");
    out[to..to + STRIDE].copy_from_slice(&piece);
}
