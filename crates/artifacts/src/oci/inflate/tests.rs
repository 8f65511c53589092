//! Comparison with zlib: what zlib writes is decompressed, and what it refuses is refused.

use super::Inflate;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use proptest::prelude::*;
use std::io::{BufReader, Read as _};

/// Upper bound of the output of any test, in bytes.
const MAX_OUTPUT: usize = 2 << 20;

/// Decompresses with input and output buffers of these sizes. Returns the output and how much of the input is left.
fn inflate(bytes: &[u8], input: usize, output: usize) -> Result<(Vec<u8>, usize), String> {
    let mut inflate = Inflate::new(BufReader::with_capacity(input, bytes));
    inflate.begin();
    let (mut all, mut buffer) = (Vec::new(), vec![0; output]);
    loop {
        let len = inflate.read(&mut buffer).map_err(|error| error.to_string())?;
        all.extend_from_slice(&buffer[..len]);
        if all.len() > MAX_OUTPUT {
            return Err("it is more than is looked at".into());
        }
        if len < output {
            assert_eq!(inflate.total(), all.len() as u64);
            let mut rest = Vec::new();
            inflate.bits.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, bytes[bytes.len() - rest.len()..]);
            return Ok((all, rest.len()));
        }
    }
}

/// Decompresses with zlib; `None` if it refuses.
fn inflate_with_zlib(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut inflate = Decompress::new(false);
    let mut all = Vec::with_capacity(MAX_OUTPUT + 1);
    match inflate.decompress_vec(bytes, &mut all, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => Some((all, bytes.len() - usize::try_from(inflate.total_in()).unwrap())),
        _ => None,
    }
}

fn packed(content: &[u8], level: u32) -> Vec<u8> {
    let mut deflate = Compress::new(Compression::new(level), false);
    let mut packed = Vec::with_capacity(content.len() * 2 + 1000);
    assert_eq!(deflate.compress_vec(content, &mut packed, FlushCompress::Finish).unwrap(), Status::StreamEnd);
    packed
}

/// Generates words that repeat near and far, runs, and noise.
fn content(len: usize, kind: u64) -> Vec<u8> {
    let mut state = kind | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut all = Vec::new();
    while all.len() < len {
        let much = usize::try_from(random() % 300).unwrap();
        match random() % 5 {
            0 => all.extend((0..much).map(|_| random().to_le_bytes()[0])),
            1 => all.resize(all.len() + much, random().to_le_bytes()[0]),
            2 => all.extend((0..much).map(|_| b"etaoin shrdlu\n"[usize::try_from(random() % 14).unwrap()])),
            _ if all.is_empty() => {}
            near_or_far => {
                let reach = all.len().min(if near_or_far == 3 { 40 } else { 33_000 }) as u64;
                let back = usize::try_from(random() % reach).unwrap() + 1;
                (0..much).for_each(|_| all.push(all[all.len() - back]));
            }
        }
    }
    all.truncate(len);
    all
}

/// Writes bits: numbers from their lowest bit on.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    count: usize,
}

impl BitWriter {
    fn bits(mut self, number: u32, count: u32) -> Self {
        for bit in 0..count {
            if self.count.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |=
                u8::from(number.checked_shr(bit).unwrap_or(0) & 1 == 1) << (self.count % 8);
            self.count += 1;
        }
        self
    }

    /// Writes a code: its highest bit first.
    fn code(self, code: u32, count: u32) -> Self {
        (0..count).rev().fold(self, |written, bit| written.bits(code >> bit & 1, 1))
    }

    /// Writes a last block with dynamic codes: the literal/length code and the distance code. Code lengths are written
    /// as they are, four bits each.
    fn dynamic_block(bytes: &[u8], distances: &[u8]) -> Self {
        Self::default().bits(1, 1).dynamic_block_body(bytes, distances)
    }

    /// Writes the block behind the bit that says whether it is the last.
    fn dynamic_block_body(self, bytes: &[u8], distances: &[u8]) -> Self {
        let mut written = self.bits(2, 2);
        written = written.bits(u32::try_from(bytes.len() - 257).unwrap(), 5);
        written = written.bits(u32::try_from(distances.len() - 1).unwrap(), 5).bits(15, 4);
        // Symbols 16 to 18 have no code, and the 16 others one of four bits.
        for symbol in super::CODE_LEN_ORDER {
            written = written.bits(if symbol < 16 { 4 } else { 0 }, 3);
        }
        bytes.iter().chain(distances).fold(written, |written, &len| written.code(len.into(), 4))
    }
}

/// Returns `count` lengths, all 0 but these.
fn lens(count: usize, some: &[(usize, u8)]) -> Vec<u8> {
    let mut all = vec![0; count];
    for &(symbol, len) in some {
        all[symbol] = len;
    }
    all
}

#[test]
fn what_zlib_writes_comes_out_through_buffers_of_any_size() {
    for (kind, len) in [0, 1, 100, 5000, 70_000, 700_000].into_iter().enumerate() {
        let content = content(len, kind as u64 + 5);
        for level in [0, 1, 6, 9] {
            let mut bytes = packed(&content, level);
            bytes.extend_from_slice(b"what follows");
            for (input, output) in [(1 << 18, 1 << 18), (100, 1 << 16), (1 << 16, 300), (31, 1000), (7, 65_537)] {
                assert!(
                    inflate(&bytes, input, output) == Ok((content.clone(), 12)),
                    "{len} bytes at level {level}, {input} and {output} at once"
                );
            }
        }
    }
}

#[test]
fn a_match_that_is_cut_goes_on_in_the_next_buffer() {
    let content = [vec![b'x'; 1000], b"abc".repeat(400), vec![b'y'; 1]].concat();
    for output in 1..300 {
        assert!(inflate(&packed(&content, 9), 64, output) == Ok((content.clone(), 0)), "{output} at once");
    }
}

#[test]
fn no_prefix_of_a_stream_is_one() {
    let content = content(3000, 3);
    for level in [0, 6] {
        let whole = packed(&content, level);
        for len in 0..whole.len() {
            assert!(inflate(&whole[..len], 1 << 16, 1 << 16).is_err(), "{len} of {} bytes", whole.len());
        }
    }
}

#[test]
fn codes_are_judged_as_zlib_does() {
    let ends = (256, 1);
    let cases: Vec<(&str, bool, BitWriter)> = vec![
        ("only an end, of one bit", true, BitWriter::dynamic_block(&lens(257, &[ends]), &[0]).code(0, 1)),
        ("the bit that is no code", false, BitWriter::dynamic_block(&lens(257, &[ends]), &[0]).code(1, 1).bits(0, 30)),
        ("one distance", true, {
            let bytes = lens(258, &[(65, 2), (256, 2), (257, 1)]);
            BitWriter::dynamic_block(&bytes, &[1]).code(2, 2).code(0, 1).code(0, 1).code(3, 2)
        }),
        ("no distance, and none is used", true, {
            BitWriter::dynamic_block(&lens(257, &[(65, 1), ends]), &[0]).code(0, 1).code(1, 1)
        }),
        ("no distance, and one is used", false, {
            let bytes = lens(258, &[(65, 2), (256, 2), (257, 1)]);
            BitWriter::dynamic_block(&bytes, &[0]).code(2, 2).code(0, 1).code(0, 1).code(3, 2).bits(0, 30)
        }),
        ("from before the beginning", false, {
            let bytes = lens(258, &[(65, 2), (256, 2), (257, 1)]);
            BitWriter::dynamic_block(&bytes, &[0, 1]).code(2, 2).code(0, 1).code(0, 1).code(3, 2)
        }),
        ("nothing ends", false, BitWriter::dynamic_block(&lens(257, &[(65, 1), (66, 1)]), &[0]).bits(0, 30)),
        ("too many codes", false, BitWriter::dynamic_block(&lens(257, &[(65, 1), (66, 1), ends]), &[0]).bits(0, 30)),
        ("too few codes", false, BitWriter::dynamic_block(&lens(257, &[(65, 2), ends]), &[0]).bits(0, 30)),
        ("too few distances", false, {
            BitWriter::dynamic_block(&lens(257, &[(65, 1), ends]), &[2, 2]).code(0, 1).code(1, 1)
        }),
        ("all lengths of codes up to the longest", true, {
            let all: Vec<(usize, u8)> = (0..15).map(|n| (usize::from(n), n + 1)).chain([(256, 15)]).collect();
            let mut written = BitWriter::dynamic_block(&lens(257, &all), &[0]);
            for n in 0..15 {
                written = written.code((1 << (n + 1)) - 2, n + 1);
            }
            written.code((1 << 15) - 1, 15)
        }),
        (
            "as many codes as there may not be",
            false,
            BitWriter::dynamic_block(&lens(287, &[(65, 1), ends]), &[0]).bits(0, 30),
        ),
        ("as many distances as there may not be", false, {
            BitWriter::dynamic_block(&lens(257, &[(65, 1), ends]), &lens(31, &[(0, 1), (1, 1)])).code(1, 1)
        }),
        ("a length that means nothing", false, BitWriter::default().bits(1, 1).bits(1, 2).code(0xC6, 8).bits(0, 40)),
        ("a distance that means nothing", false, {
            BitWriter::default().bits(1, 1).bits(1, 2).code(0x30, 8).code(1, 7).code(30, 5).bits(0, 40)
        }),
        ("a kind of block that there is not", false, BitWriter::default().bits(1, 1).bits(3, 2).bits(0, 40)),
        ("a stored block that lies", false, {
            BitWriter::default().bits(1, 1).bits(0, 2).bits(0, 5).bits(1, 16).bits(0xFFFF, 16).bits(0, 8)
        }),
        (
            "an empty stored block",
            true,
            BitWriter::default().bits(1, 1).bits(0, 2).bits(0, 5).bits(0, 16).bits(0xFFFF, 16),
        ),
        ("lengths of codes beyond the last", false, {
            let start = BitWriter::default().bits(1, 1).bits(2, 2).bits(0, 5).bits(0, 5).bits(15, 4);
            // Two codes: 17 and 18, of one bit each.
            let start = super::CODE_LEN_ORDER
                .iter()
                .fold(start, |written, &symbol| written.bits(u32::from(symbol == 17 || symbol == 18), 3));
            start.code(1, 1).bits(127, 7).code(1, 1).bits(127, 7).bits(0, 30)
        }),
        ("a length repeated before there is one", false, {
            let start = BitWriter::default().bits(1, 1).bits(2, 2).bits(0, 5).bits(0, 5).bits(15, 4);
            let start = super::CODE_LEN_ORDER
                .iter()
                .fold(start, |written, &symbol| written.bits(u32::from(symbol == 16 || symbol == 18), 3));
            start.code(0, 1).bits(0, 2).bits(0, 60)
        }),
    ];
    for (what, is_good, BitWriter { bytes, .. }) in cases {
        let (fast, slow) = (inflate(&bytes, 1 << 16, 1 << 16), inflate(&bytes, 1, 1 << 16));
        assert_eq!(fast.is_ok(), is_good, "{what}: {fast:?}");
        assert_eq!(fast, slow, "{what}");
        assert_eq!(inflate_with_zlib(&bytes), fast.ok(), "{what}");
    }
}

proptest! {
    #[test]
    fn any_content_comes_out(len in 0..300_000_usize, kind: u64, level in 0..10_u32, input in 1..100_000_usize, output in 300..300_000_usize) {
        let content = content(len, kind);
        prop_assert!(inflate(&packed(&content, level), input, output) == Ok((content, 0)));
    }

    #[test]
    fn what_is_damaged_is_what_zlib_takes_it_for(
        len in 0..60_000_usize, kind: u64, level in 0..10_u32, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        input in 1..100_000_usize,
    ) {
        let mut bytes = packed(&content(len, kind), level);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(zlibs) = inflate_with_zlib(&bytes) {
            prop_assert!(inflate(&bytes, input, 1 << 16) == Ok(zlibs));
        } else {
            prop_assert!(inflate(&bytes, input, 1 << 16).is_err());
        }
    }

    #[test]
    fn any_bytes_are_what_zlib_takes_them_for(kind in 0..8_u8, mut bytes in prop::collection::vec(any::<u8>(), 1..400)) {
        bytes[0] = bytes[0] & !7 | kind;
        prop_assert_eq!(inflate(&bytes, 64, 1 << 16).ok(), inflate_with_zlib(&bytes));
    }
}
