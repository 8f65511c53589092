//! Huffman decoding tables (RFC 1951, 3.2.2): the next bits of a stream are an index, and the entry there says what
//! they mean and how many of them belong to the code.
//!
//! Codes longer than the index share an entry by their first bits. It refers to a subtable, stored behind the main
//! table, for the bits that follow.

/// Length of the longest code in bits.
pub(super) const MAX_CODE_LEN: u32 = 15;
const LONGEST: usize = MAX_CODE_LEN as usize;

/// Table entry: meaning of a code.
///
/// ```text
/// bits  0-7   bits to take: the code and its extra bits
/// bits  8-11  bits of the code alone; for a subtable, bits of its index
/// bits 12-15  flags, as below
/// bits 16-30  base of the number it stands for; for a subtable, its position
/// bit  31     it is a literal, which is in bits 16-23
/// ```
pub(super) type Entry = u32;

/// Flag: the code stands for a literal byte.
pub(super) const LITERAL: Entry = 1 << 31;
/// Flag: the entry is neither a literal nor a number, but one of the following.
pub(super) const EXCEPTIONAL: Entry = 1 << 15;
/// Flag: the entry refers to a subtable.
const SUBTABLE: Entry = 1 << 14;
/// Flag: the code ends the block.
pub(super) const END_OF_BLOCK: Entry = 1 << 13;
/// Entry of no code, or of one without a meaning.
const INVALID: Entry = EXCEPTIONAL;

/// Lengths and distances: the base of each code and its number of extra bits (RFC 1951, 3.2.5).
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

/// Expands rows of (base of the first code, extra bits, number of codes).
const fn numbers<const N: usize, const M: usize>(rows: [(u16, u8, u8); M]) -> [(u16, u8); N] {
    let (mut all, mut at, mut row) = ([(0, 0); N], 0, 0);
    while row < M {
        let (mut base, extra, mut codes) = rows[row];
        while codes > 0 {
            all[at] = (base, extra);
            base += 1 << extra;
            at += 1;
            codes -= 1;
        }
        row += 1;
    }
    assert!(at == N, "each code has its numbers");
    all
}

/// Literal/length symbols: how many the code may have, how many of them have a meaning, and the meanings.
pub(super) const LITLEN_SYMBOLS: usize = 288;
pub(super) const MAX_LITLEN_CODES: usize = 257 + LENGTH_NUMBERS.len();
static LITLEN_MEANINGS: [Entry; LITLEN_SYMBOLS] = {
    let mut all = [INVALID; LITLEN_SYMBOLS];
    let mut symbol = 0;
    while symbol < MAX_LITLEN_CODES {
        all[symbol] = match symbol {
            0..256 => LITERAL | entry_bits(symbol) << 16,
            256 => EXCEPTIONAL | END_OF_BLOCK,
            _ => number(LENGTH_NUMBERS[symbol - 257]),
        };
        symbol += 1;
    }
    all
};

/// Distance symbols, likewise.
pub(super) const DISTANCE_SYMBOLS: usize = 32;
pub(super) const MAX_DISTANCE_CODES: usize = DISTANCE_NUMBERS.len();
static DISTANCE_MEANINGS: [Entry; DISTANCE_SYMBOLS] = {
    let mut all = [INVALID; DISTANCE_SYMBOLS];
    let mut symbol = 0;
    while symbol < MAX_DISTANCE_CODES {
        all[symbol] = number(DISTANCE_NUMBERS[symbol]);
        symbol += 1;
    }
    all
};

/// Symbols of the code length code, likewise.
pub(super) const CODE_LEN_SYMBOLS: usize = 19;
static CODE_LEN_MEANINGS: [Entry; CODE_LEN_SYMBOLS] = {
    let mut all = [INVALID; CODE_LEN_SYMBOLS];
    let mut symbol = 0;
    while symbol < CODE_LEN_SYMBOLS {
        all[symbol] = entry_bits(symbol) << 16;
        symbol += 1;
    }
    all
};

const fn number((base, extra): (u16, u8)) -> Entry {
    (base as u32) << 16 | extra as u32
}

/// Decoding table of a code. `BITS` is the width of its index; `SIZE` is the most entries it takes with its subtables.
#[derive(Debug)]
pub(super) struct Table<const BITS: u32, const SIZE: usize> {
    entries: Box<[Entry; SIZE]>,
}

/// Sizes: what `enough` of zlib's examples computes for that many symbols, index bits and longest code.
pub(super) type LitLenTable = Table<11, 2342>;
pub(super) type DistanceTable = Table<8, 402>;
pub(super) type CodeLenTable = Table<7, 128>;

/// Error: the lengths are not those of a code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidCode;

impl LitLenTable {
    pub(super) fn build_litlen(&mut self, lens: &[u8]) -> Result<(), InvalidCode> {
        self.build(lens, &LITLEN_MEANINGS, true)
    }
}

impl DistanceTable {
    pub(super) fn build_distance(&mut self, lens: &[u8]) -> Result<(), InvalidCode> {
        self.build(lens, &DISTANCE_MEANINGS, true)
    }
}

impl CodeLenTable {
    pub(super) fn build_code_len(&mut self, lens: &[u8]) -> Result<(), InvalidCode> {
        self.build(lens, &CODE_LEN_MEANINGS, false)
    }
}

impl<const BITS: u32, const SIZE: usize> Table<BITS, SIZE> {
    const MASK: u64 = (1 << BITS) - 1;
    const WIDTH: usize = BITS as usize;

    pub(super) fn new() -> Self {
        Self { entries: Box::new([INVALID; SIZE]) }
    }

    /// Returns the entry of these bits. If it refers to a subtable, [`Self::subtable_entry`] returns the final one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it is part of the one loop that counts")]
    pub(super) fn lookup(&self, bits: u64) -> Entry {
        const { assert!(SIZE >= 1 << BITS) };
        self.entries[index(bits & Self::MASK)]
    }

    /// Returns the entry in the subtable that an [`EXCEPTIONAL`] entry refers to, if it does, by the bits behind its
    /// own.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it is part of the one loop that counts")]
    pub(super) fn subtable_entry(&self, slot: Entry, bits: u64) -> Option<Entry> {
        let bits = (bits >> BITS) & ((1 << (slot >> 8 & 0xF)) - 1);
        (slot & SUBTABLE != 0).then(|| self.entries[((slot & !LITERAL) >> 16) as usize + index(bits)])
    }

    /// Builds the table of the code in which each symbol has a code of that many bits, or none if that is 0. Refuses
    /// lengths that do not form a complete code; with `may_be_incomplete` a single code of one bit and no code at all
    /// are accepted.
    fn build(&mut self, lens: &[u8], meanings: &[Entry], may_be_incomplete: bool) -> Result<(), InvalidCode> {
        let mut counts = [0_u16; LONGEST + 1];
        for &len in lens {
            counts[usize::from(len)] += 1;
        }
        counts[0] = 0;
        let longest = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
        let space: u32 = (1..=LONGEST).map(|len| u32::from(counts[len]) << (LONGEST - len)).sum();
        let is_complete = space == 1 << LONGEST;
        if !is_complete && (space > 1 << LONGEST || !may_be_incomplete || longest > 1) {
            return Err(InvalidCode);
        }
        if !is_complete {
            self.entries[..1 << BITS].fill(INVALID);
        }
        // Symbols, sorted by the length of their codes.
        let mut sorted = [0_u16; LITLEN_SYMBOLS];
        let mut offsets = [0_u16; LONGEST + 1];
        (1..LONGEST).for_each(|len| offsets[len + 1] = offsets[len] + counts[len]);
        for (symbol, &len) in (0_u16..).zip(lens).filter(|(_, len)| **len > 0) {
            let offset = &mut offsets[usize::from(len)];
            sorted[usize::from(*offset)] = symbol;
            *offset += 1;
        }
        let mut symbols = sorted.iter().map(|&symbol| meanings[usize::from(symbol)]);
        // Next code, its first bit lowest.
        let mut code = 0;
        for (len, &count) in counts.iter().enumerate().take(longest.min(Self::WIDTH) + 1).skip(1) {
            // An entry of a shorter code is valid for both values of the new bit.
            if len > 1 {
                self.duplicate(len - 1);
            }
            for meaning in symbols.by_ref().take(count.into()) {
                self.entries[code] = entry(meaning, len);
                code = next_code(code, len);
            }
        }
        (longest..Self::WIDTH).for_each(|len| self.duplicate(len));
        self.build_subtables(&mut counts, code, symbols);
        Ok(())
    }

    /// Builds subtables for the codes from `code` on, which are longer than the index. They complete the code.
    fn build_subtables(
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
                    // As wide as the codes that begin with these bits need, of which those of this length are the
                    // first.
                    let (mut width, mut space) = (behind, counts[len]);
                    while space < 1 << width {
                        width += 1;
                        space = 2 * space + counts[Self::WIDTH + width];
                    }
                    end = start + (1 << width);
                    self.entries[first] =
                        entry_bits(start) << 16 | EXCEPTIONAL | SUBTABLE | entry_bits(width) << 8 | BITS;
                }
                let entry = entry(meaning, behind);
                (start + (code >> BITS)..end).step_by(1 << behind).for_each(|at| self.entries[at] = entry);
                counts[len] -= 1;
                code = next_code(code, len);
            }
        }
    }

    /// Repeats the entries of codes of up to `len` bits, for one bit more.
    fn duplicate(&mut self, len: usize) {
        self.entries.copy_within(..1 << len, 1 << len);
    }
}

/// Returns the entry of a code of `len` bits.
fn entry(meaning: Entry, len: usize) -> Entry {
    meaning + (entry_bits(len) << 8 | entry_bits(len))
}

#[expect(clippy::cast_possible_truncation, reason = "symbols, lengths and offsets in a table are small")]
const fn entry_bits(number: usize) -> Entry {
    number as Entry
}

fn index(bits: u64) -> usize {
    usize::try_from(bits).expect("a few bits")
}

/// Returns the code of `len` bits that follows this one; its last bit is the highest.
fn next_code(code: usize, len: usize) -> usize {
    match !code & ((1 << len) - 1) {
        // It was the last code.
        0 => 0,
        zeros => {
            let highest = 1 << zeros.ilog2();
            code & (highest - 1) | highest
        }
    }
}
