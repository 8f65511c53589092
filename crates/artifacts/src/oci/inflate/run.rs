//! The fast part: symbols as long as there is enough input ahead and enough room for what comes out.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the processor is asked first whether it can"))]
#![expect(
    clippy::inline_always,
    reason = "one loop is made of it, once with the instructions of its caller and once without"
)]

use super::{
    Inflate, State,
    bits::GATHERED,
    broken,
    code::{ByteTable, DistanceTable, END, Entry, LITERAL, OTHER},
    past::Past,
};
use std::io::{self, BufRead};

/// Bytes of a word.
const WORD: usize = 8;
/// Bytes of input that one turn may look at: three words, each of which takes up to seven bytes.
const AHEAD: usize = 4 * WORD;
/// Bytes that one turn may write: two bytes, the longest match, and as much behind it as it is copied too far.
const ROOM: usize = 3 + 258 + 2 * STRIDE;
/// Bytes that are copied at once.
const STRIDE: usize = 16;

/// The bits at hand while it runs: all in registers.
struct Hand<'a> {
    input: &'a [u8],
    next: usize,
    held: u64,
    count: u32,
}

impl Hand<'_> {
    /// Has 56 bits or more. Those above `count` are the input's too, and come again.
    #[inline(always)]
    fn gather(&mut self) {
        let word: [u8; WORD] = self.input[self.next..self.next + WORD].try_into().expect("it is as long");
        self.held |= u64::from_le_bytes(word).wrapping_shl(self.count);
        self.next += ((self.count & 63 ^ 63) >> 3) as usize;
        self.count |= GATHERED;
    }

    /// Takes what an entry says; all bits as they were before.
    #[inline(always)]
    fn take(&mut self, entry: Entry) -> u64 {
        let before = self.held;
        self.held = self.held.wrapping_shr(entry);
        self.count = self.count.wrapping_sub(entry);
        before
    }
}

/// The byte an entry stands for.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "what is above is no part of it")]
fn literal(entry: Entry) -> u8 {
    (entry >> 16) as u8
}

/// The number an entry stands for, with what is added of the bits.
#[inline(always)]
fn number(entry: Entry, bits: u64) -> usize {
    let added = (bits & ((1 << (entry & 0x3F)) - 1)) >> (entry >> 8 & 0xF);
    (entry >> 16) as usize + usize::try_from(added).expect("a few bits")
}

impl<R: BufRead> Inflate<R> {
    /// Goes on from `at` in the buffer; where it stands then.
    pub(super) fn run(&mut self, out: &mut [u8], at: usize) -> io::Result<usize> {
        let (held, count) = (self.bits.held, self.bits.count);
        let mut hand = Hand { input: self.bits.ahead()?, next: 0, held, count };
        #[cfg(target_arch = "x86_64")]
        let ran = if std::arch::is_x86_feature_detected!("bmi1") && std::arch::is_x86_feature_detected!("bmi2") {
            // SAFETY: this processor has what the function needs.
            unsafe { turns_bmi(&mut hand, &self.bytes, &self.distances, &self.past, out, at) }
        } else {
            turns(&mut hand, &self.bytes, &self.distances, &self.past, out, at)
        };
        #[cfg(not(target_arch = "x86_64"))]
        let ran = turns(&mut hand, &self.bytes, &self.distances, &self.past, out, at);
        let Hand { next, held, count, .. } = hand;
        self.bits.input.consume(next);
        let count = count & 63;
        (self.bits.held, self.bits.count) = (held & ((1 << count) - 1), count);
        let (at, why) = ran;
        match why {
            Why::Edge => Ok(at),
            Why::Ended => {
                self.state = State::Block;
                Ok(at)
            }
            Why::Broken(what) => Err(broken(what)),
        }
    }
}

/// Why it stopped.
enum Why {
    /// There is little input ahead, or little room.
    Edge,
    /// The block did.
    Ended,
    /// The input is no DEFLATE.
    Broken(&'static str),
}

/// The same with instructions that shift by any register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2")]
fn turns_bmi(
    hand: &mut Hand<'_>,
    bytes: &ByteTable,
    distances: &DistanceTable,
    past: &Past,
    out: &mut [u8],
    at: usize,
) -> (usize, Why) {
    turns(hand, bytes, distances, past, out, at)
}

/// Takes symbols and writes what they stand for.
#[inline(always)]
fn turns(
    kept: &mut Hand<'_>,
    bytes: &ByteTable,
    distances: &DistanceTable,
    past: &Past,
    out: &mut [u8],
    mut at: usize,
) -> (usize, Why) {
    let (Some(last_in), Some(last_out)) = (kept.input.len().checked_sub(AHEAD), out.len().checked_sub(ROOM)) else {
        return (at, Why::Edge);
    };
    if at > last_out || kept.next > last_in {
        return (at, Why::Edge);
    }
    let mut hand = Hand { ..*kept };
    hand.gather();
    let mut entry = bytes.slot(hand.held);
    let why = loop {
        if hand.next > last_in || at > last_out {
            break Why::Edge;
        }
        // Bytes first: there may be several, and two of them leave enough bits for a length.
        let mut before = hand.take(entry);
        if entry & LITERAL != 0 {
            out[at] = literal(entry);
            at += 1;
            entry = bytes.slot(hand.held);
            before = hand.take(entry);
            if entry & LITERAL != 0 {
                out[at] = literal(entry);
                at += 1;
                entry = bytes.slot(hand.held);
                before = hand.take(entry);
                if entry & LITERAL != 0 {
                    out[at] = literal(entry);
                    at += 1;
                    hand.gather();
                    entry = bytes.slot(hand.held);
                    continue;
                }
            }
        }
        if entry & OTHER != 0 {
            let Some(further) = bytes.onward(entry, before) else {
                break if entry & END != 0 { Why::Ended } else { Why::Broken("a symbol") };
            };
            entry = further;
            before = hand.take(entry);
            if entry & LITERAL != 0 {
                out[at] = literal(entry);
                at += 1;
                hand.gather();
                entry = bytes.slot(hand.held);
                continue;
            }
            if entry & OTHER != 0 {
                break if entry & END != 0 { Why::Ended } else { Why::Broken("a symbol") };
            }
        }
        let len = number(entry, before);
        if hand.count & 63 < 28 {
            hand.gather();
        }
        entry = distances.slot(hand.held);
        before = hand.take(entry);
        if entry & OTHER != 0 {
            let Some(further) = distances.onward(entry, before) else { break Why::Broken("a distance") };
            entry = further;
            before = hand.take(entry);
            if entry & OTHER != 0 {
                break Why::Broken("a distance");
            }
        }
        let distance = number(entry, before);
        hand.gather();
        entry = bytes.slot(hand.held);
        if distance <= at {
            copy(out, at, len, distance);
        } else if let Err(what) = past.copy(out, at, at + len, distance) {
            break Why::Broken(what);
        }
        at += len;
    };
    *kept = hand;
    (at, why)
}

/// Copies a match within the buffer; up to two strides behind it are written too.
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
        // Of each stride as many bytes are right as the match is far.
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
