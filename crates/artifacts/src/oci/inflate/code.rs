//! Prefix codes as tables (RFC 1951, 3.2.2): the next bits of a stream are an index, and what is there says what they mean
//! and how many of them there are.
//!
//! Codes that are longer than the table's index share a slot by their first bits. It leads to a further table behind the
//! first, for the bits that follow.

/// Longest code.
pub(super) const MAX_LEN: u32 = 15;
const LONGEST: usize = MAX_LEN as usize;

/// An entry: what a code means.
///
/// ```text
/// bits  0-7   bits to take: the code's, and those behind it that are part of the number
/// bits  8-11  the code's alone; of a slot that leads on, those of the further table's index
/// bits 12-15  what else it may be, as below
/// bits 16-30  the least number it stands for; of a slot that leads on, where the further table is
/// bit  31     it is a byte, which is in bits 16-23
/// ```
pub(super) type Entry = u32;

/// It stands for a byte.
pub(super) const LITERAL: Entry = 1 << 31;
/// It is none of a byte and a number: one of the following.
pub(super) const OTHER: Entry = 1 << 15;
/// It leads to a further table.
const ONWARD: Entry = 1 << 14;
/// It ends the block.
pub(super) const END: Entry = 1 << 13;
/// No code, or one that means nothing.
const VOID: Entry = OTHER;

/// Lengths and distances: the least one of each code and how many bits are added (RFC 1951, 3.2.5).
const LENGTH_NUMBERS: [(u16, u8); 29] =
    numbers([(3, 0, 8), (11, 1, 4), (19, 2, 4), (35, 3, 4), (67, 4, 4), (131, 5, 4), (258, 0, 1)]);
const DISTANCE_NUMBERS: [(u16, u8); 30] = numbers([
    (1, 0, 4),
    (5, 1, 2),
    (9, 2, 2),
    (17, 3, 2),
    (33, 4, 2),
    (65, 5, 2),
    (129, 6, 2),
    (257, 7, 2),
    (513, 8, 2),
    (1025, 9, 2),
    (2049, 10, 2),
    (4097, 11, 2),
    (8193, 12, 2),
    (16385, 13, 2),
]);

/// So many codes from each least number on, with so many bits added.
const fn numbers<const N: usize, const M: usize>(rows: [(u16, u8, u8); M]) -> [(u16, u8); N] {
    let (mut all, mut at, mut row) = ([(0, 0); N], 0, 0);
    while row < M {
        let (mut least, added, mut codes) = rows[row];
        while codes > 0 {
            all[at] = (least, added);
            least += 1 << added;
            at += 1;
            codes -= 1;
        }
        row += 1;
    }
    assert!(at == N, "each code has its numbers");
    all
}

/// Symbols for bytes, a block's end and lengths: how many there may be, how many of them mean something, and what.
pub(super) const BYTES: usize = 288;
pub(super) const USED_BYTES: usize = 257 + LENGTH_NUMBERS.len();
static BYTE_MEANINGS: [Entry; BYTES] = {
    let mut all = [VOID; BYTES];
    let mut symbol = 0;
    while symbol < USED_BYTES {
        all[symbol] = match symbol {
            0..256 => LITERAL | entry_bits(symbol) << 16,
            256 => OTHER | END,
            _ => number(LENGTH_NUMBERS[symbol - 257]),
        };
        symbol += 1;
    }
    all
};

/// The same of those that mean distances.
pub(super) const DISTANCES: usize = 32;
pub(super) const USED_DISTANCES: usize = DISTANCE_NUMBERS.len();
static DISTANCE_MEANINGS: [Entry; DISTANCES] = {
    let mut all = [VOID; DISTANCES];
    let mut symbol = 0;
    while symbol < USED_DISTANCES {
        all[symbol] = number(DISTANCE_NUMBERS[symbol]);
        symbol += 1;
    }
    all
};

/// The same of those by which lengths of codes are written.
pub(super) const LENS: usize = 19;
static LEN_MEANINGS: [Entry; LENS] = {
    let mut all = [VOID; LENS];
    let mut symbol = 0;
    while symbol < LENS {
        all[symbol] = entry_bits(symbol) << 16;
        symbol += 1;
    }
    all
};

const fn number((least, added): (u16, u8)) -> Entry {
    (least as u32) << 16 | added as u32
}

/// A code's table, `BITS` the width of its index; `ROOM` is the most entries it and its further tables take.
#[derive(Debug)]
pub(super) struct Table<const BITS: u32, const ROOM: usize> {
    entries: Box<[Entry; ROOM]>,
}

/// Room: what `enough` of zlib's examples says of that many symbols, index bits and longest code.
pub(super) type ByteTable = Table<11, 2342>;
pub(super) type DistanceTable = Table<8, 402>;
pub(super) type LenTable = Table<7, 128>;

/// The lengths are no code's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoCode;

impl ByteTable {
    pub(super) fn of_bytes(&mut self, lens: &[u8]) -> Result<(), NoCode> {
        self.set(lens, &BYTE_MEANINGS, true)
    }
}

impl DistanceTable {
    pub(super) fn of_distances(&mut self, lens: &[u8]) -> Result<(), NoCode> {
        self.set(lens, &DISTANCE_MEANINGS, true)
    }
}

impl LenTable {
    pub(super) fn of_lens(&mut self, lens: &[u8]) -> Result<(), NoCode> {
        self.set(lens, &LEN_MEANINGS, false)
    }
}

impl<const BITS: u32, const ROOM: usize> Table<BITS, ROOM> {
    const MASK: u64 = (1 << BITS) - 1;
    const WIDTH: usize = BITS as usize;

    pub(super) fn new() -> Self {
        Self { entries: Box::new([VOID; ROOM]) }
    }

    /// The slot of these bits. Where it [`leads on`](Self::onward), the bits that follow it say more.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it is part of the one loop that counts")]
    pub(super) fn slot(&self, bits: u64) -> Entry {
        const { assert!(ROOM >= 1 << BITS) };
        self.entries[index(bits & Self::MASK)]
    }

    /// What a slot that is [`OTHER`] leads to, where it does, by the bits behind its own.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it is part of the one loop that counts")]
    pub(super) fn onward(&self, slot: Entry, bits: u64) -> Option<Entry> {
        let bits = (bits >> BITS) & ((1 << (slot >> 8 & 0xF)) - 1);
        (slot & ONWARD != 0).then(|| self.entries[((slot & !LITERAL) >> 16) as usize + index(bits)])
    }

    /// Makes the table of the code in which each symbol has a code of that many bits, none where that is 0. What fits no
    /// code is refused, but for a single code of one bit where that `may_be_alone`, and for none at all there.
    fn set(&mut self, lens: &[u8], meanings: &[Entry], may_be_alone: bool) -> Result<(), NoCode> {
        let mut counts = [0_u16; LONGEST + 1];
        for &len in lens {
            counts[usize::from(len)] += 1;
        }
        counts[0] = 0;
        let longest = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
        let space: u32 = (1..=LONGEST).map(|len| u32::from(counts[len]) << (LONGEST - len)).sum();
        let is_whole = space == 1 << LONGEST;
        if !is_whole && (space > 1 << LONGEST || !may_be_alone || longest > 1) {
            return Err(NoCode);
        }
        if !is_whole {
            self.entries[..1 << BITS].fill(VOID);
        }
        // Symbols by the length of their codes.
        let mut sorted = [0_u16; BYTES];
        let mut places = [0_u16; LONGEST + 1];
        (1..LONGEST).for_each(|len| places[len + 1] = places[len] + counts[len]);
        for (symbol, &len) in (0_u16..).zip(lens).filter(|(_, len)| **len > 0) {
            let place = &mut places[usize::from(len)];
            sorted[usize::from(*place)] = symbol;
            *place += 1;
        }
        let mut symbols = sorted.iter().map(|&symbol| meanings[usize::from(symbol)]);
        // The next code, its first bit lowest.
        let mut code = 0;
        for (len, &count) in counts.iter().enumerate().take(longest.min(Self::WIDTH) + 1).skip(1) {
            // What is there of shorter codes stands for both values of the bit that is new.
            if len > 1 {
                self.double(len - 1);
            }
            for meaning in symbols.by_ref().take(count.into()) {
                self.entries[code] = entry(meaning, len);
                code = next(code, len);
            }
        }
        (longest..Self::WIDTH).for_each(|len| self.double(len));
        self.set_longer(&mut counts, code, symbols);
        Ok(())
    }

    /// Makes further tables for the codes from `code` on, which are longer than the index. They make the code whole.
    fn set_longer(
        &mut self,
        counts: &mut [u16; LONGEST + 1],
        mut code: usize,
        mut symbols: impl Iterator<Item = Entry>,
    ) {
        let (mut start, mut end, mut slot) = (0, 1 << BITS, None);
        for len in Self::WIDTH + 1..=LONGEST {
            let behind = len - Self::WIDTH;
            for meaning in symbols.by_ref().take(counts[len].into()) {
                let first = code % (1 << BITS);
                if slot.replace(first) != Some(first) {
                    start = end;
                    // As wide as the codes need that begin like this, of which those of this length are the first.
                    let (mut width, mut space) = (behind, counts[len]);
                    while space < 1 << width {
                        width += 1;
                        space = 2 * space + counts[Self::WIDTH + width];
                    }
                    end = start + (1 << width);
                    self.entries[first] = entry_bits(start) << 16 | OTHER | ONWARD | entry_bits(width) << 8 | BITS;
                }
                let entry = entry(meaning, behind);
                (start + (code >> BITS)..end).step_by(1 << behind).for_each(|at| self.entries[at] = entry);
                counts[len] -= 1;
                code = next(code, len);
            }
        }
    }

    /// The entries of codes of up to `len` bits, for one bit more.
    fn double(&mut self, len: usize) {
        self.entries.copy_within(..1 << len, 1 << len);
    }
}

/// The entry of a code of `len` bits.
fn entry(meaning: Entry, len: usize) -> Entry {
    meaning + (entry_bits(len) << 8 | entry_bits(len))
}

#[expect(clippy::cast_possible_truncation, reason = "symbols, lengths and places in a table are small")]
const fn entry_bits(number: usize) -> Entry {
    number as Entry
}

fn index(bits: u64) -> usize {
    usize::try_from(bits).expect("a few bits")
}

/// The code of `len` bits that follows this one; its last bit is the highest.
fn next(code: usize, len: usize) -> usize {
    match !code & ((1 << len) - 1) {
        // It was the last.
        0 => 0,
        zeros => {
            let highest = 1 << zeros.ilog2();
            code & (highest - 1) | highest
        }
    }
}
