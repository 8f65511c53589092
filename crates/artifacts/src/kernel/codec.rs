//! Decompressors, chosen by the first bytes of the data.
//!
//! They serve kernel payloads, package members and modules. Every decoder has a limit on its own memory; how much it
//! may output is limited by the reader.

use data_encoding::HEXLOWER;
use std::io::{self, BufReader, Read};

/// Upper bound of a decoder's window, as a power of two. The kernel's own build uses up to 128 MiB (zstd, xz).
const MAX_WINDOW_LOG: u32 = 27;
/// Memory limit of xz and lzma decoders, which count their other tables too.
const MAX_LZMA_MEMORY: u64 = 192 << 20;
/// Memory limit for decoding several blocks of one `.xz` in parallel; above it they are decoded one after the other.
/// `dpkg-deb` on several processors writes such blocks, a kernel's build does not.
const MAX_XZ_AT_ONCE: u64 = 128 << 20;
/// Upper bound of threads for parallel decoding.
const MAX_XZ_THREADS: usize = 4;
/// Largest unpacked block of a legacy lz4 frame, by its definition.
const LZ4_BLOCK: usize = 8 << 20;
/// Bytes that [`Codec::sniff`] needs.
pub(super) const MAGIC_LEN: usize = 6;

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// RFC 1952.
    Gzip,
    /// The `.xz` container.
    Xz,
    /// RFC 8878.
    Zstd,
    /// The frame of `lz4 -l`: what the kernel's build makes. Not the newer `.lz4` frame.
    Lz4Legacy,
    /// The old `.lzma` container.
    Lzma,
    /// bzip2.
    Bzip2,
}

/// A decoder could not be set up, or the data has no format banger knows.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// No known format begins like this.
    #[error("unknown compression (it begins with {})", HEXLOWER.encode(start))]
    Unknown {
        /// The first bytes.
        start: Vec<u8>,
    },
    /// Compressed with LZO, which banger has no decoder for.
    #[error("it is compressed with LZO, which is not supported")]
    Lzo,
    /// The decoder refused.
    #[error("cannot set up the decoder")]
    Setup(#[source] io::Error),
}

impl Codec {
    /// Detects the format of data that begins with `start`.
    pub fn sniff(start: &[u8]) -> Result<Self, CodecError> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Ok(Self::Lz4Legacy),
            [0x5d, 0, 0, ..] => Ok(Self::Lzma),
            [b'B', b'Z', b'h', ..] => Ok(Self::Bzip2),
            [0x89, b'L', b'Z', b'O', ..] => Err(CodecError::Lzo),
            _ => Err(CodecError::Unknown { start: start.iter().copied().take(MAGIC_LEN).collect() }),
        }
    }

    /// Returns a reader that unpacks `input`. It ends after one stream or frame and ignores what follows.
    pub fn decoder<'a>(self, input: impl Read + 'a) -> Result<Box<dyn Read + 'a>, CodecError> {
        use liblzma::{read::XzDecoder, stream::Stream};
        let lzma = |stream: Result<Stream, _>| stream.map_err(|error| CodecError::Setup(io::Error::from(error)));
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::GzDecoder::new(input)),
            Self::Bzip2 => Box::new(bzip2::read::BzDecoder::new(input)),
            Self::Xz => Box::new(XzDecoder::new_stream(input, lzma(on_all_processors())?)),
            Self::Lzma => Box::new(XzDecoder::new_stream(input, lzma(Stream::new_lzma_decoder(MAX_LZMA_MEMORY))?)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(input).map_err(CodecError::Setup)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(CodecError::Setup)?;
                Box::new(decoder.single_frame())
            }
            Self::Lz4Legacy => Box::new(Lz4Legacy::new(BufReader::new(input))),
        })
    }
}

/// A decoder of one `.xz` stream.
fn on_all_processors() -> Result<liblzma::stream::Stream, liblzma::stream::Error> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_XZ_THREADS);
    liblzma::stream::MtStreamBuilder::new()
        .threads(u32::try_from(processors).unwrap_or(1))
        .memlimit_threading(MAX_XZ_AT_ONCE)
        .memlimit_stop(MAX_LZMA_MEMORY)
        .decoder()
}

/// Reads the legacy lz4 frame: a magic number, then blocks of at most 8 MiB, each after its packed length.
struct Lz4Legacy<R> {
    input: R,
    begun: bool,
    packed: Vec<u8>,
    block: Vec<u8>,
    /// Bytes of `block` already read.
    taken: usize,
}

impl<R: Read> Lz4Legacy<R> {
    fn new(input: R) -> Self {
        Self { input, begun: false, packed: Vec::new(), block: Vec::new(), taken: 0 }
    }

    /// Reads four bytes; `None` at a clean end.
    fn word(&mut self) -> io::Result<Option<u32>> {
        let mut word = [0; 4];
        let mut have = 0;
        while have < word.len() {
            match self.input.read(&mut word[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(u32::from_le_bytes(word)))
    }

    /// Unpacks the next block; false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        const MAGIC: u32 = 0x184c_2102;
        if !self.begun {
            if self.word()? != Some(MAGIC) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not a legacy lz4 frame"));
            }
            self.begun = true;
        }
        let Some(length) = self.word()? else { return Ok(false) };
        let length = length as usize;
        if length > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an lz4 block is too long"));
        }
        self.packed.resize(length, 0);
        self.input.read_exact(&mut self.packed)?;
        self.block.resize(LZ4_BLOCK, 0);
        let unpacked = lz4_flex::block::decompress_into(&self.packed, &mut self.block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.block.truncate(unpacked);
        self.taken = 0;
        Ok(true)
    }
}

impl<R: Read> Read for Lz4Legacy<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let n = buffer.len().min(self.block.len() - self.taken);
        buffer[..n].copy_from_slice(&self.block[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn packed(codec: Codec, data: &[u8]) -> Vec<u8> {
        use liblzma::stream::{LzmaOptions, Stream};
        match codec {
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Codec::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Codec::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Codec::Lzma => {
                let stream = Stream::new_lzma_encoder(&LzmaOptions::new_preset(6).unwrap()).unwrap();
                let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Codec::Zstd => zstd::encode_all(data, 3).unwrap(),
            Codec::Lz4Legacy => {
                let mut out = 0x184c_2102_u32.to_le_bytes().to_vec();
                for chunk in data.chunks(LZ4_BLOCK) {
                    let block = lz4_flex::block::compress(chunk);
                    out.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
                    out.extend(block);
                }
                out
            }
        }
    }

    const ALL: [Codec; 6] = [Codec::Gzip, Codec::Xz, Codec::Zstd, Codec::Lz4Legacy, Codec::Lzma, Codec::Bzip2];

    #[test]
    fn every_format_is_recognised_and_unpacked() {
        let data: Vec<u8> = (0..=250).flat_map(|byte| vec![byte; 33_900]).collect();
        for codec in ALL {
            let packed = packed(codec, &data);
            assert_eq!(Codec::sniff(&packed).unwrap(), codec);
            let mut out = Vec::new();
            codec.decoder(&packed[..]).unwrap().read_to_end(&mut out).unwrap_or_else(|e| panic!("{codec:?}: {e}"));
            assert!(out == data, "{codec:?}");
        }
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        for codec in ALL {
            let whole = packed(codec, &vec![7; 100_000]);
            for cut in [1, 5, whole.len() / 2, whole.len() - 1] {
                let result = codec.decoder(&whole[..cut]).unwrap().read_to_end(&mut Vec::new());
                assert!(result.is_err(), "{codec:?} cut at {cut} of {}", whole.len());
            }
        }
        // A block that claims to be longer than any block can be is refused before it is allocated.
        let huge = [&0x184c_2102_u32.to_le_bytes()[..], &u32::MAX.to_le_bytes()].concat();
        assert!(Codec::Lz4Legacy.decoder(&huge[..]).unwrap().read_to_end(&mut Vec::new()).is_err());
    }

    /// What packs a few bytes with a header that asks for a window of `2^log` bytes. The formats not named here have no
    /// say in it: gzip's window is 32 KiB, a bzip2 block at most 900 KB, one of lz4 8 MiB.
    fn asking_for(codec: Codec, log: u8) -> Vec<u8> {
        match codec {
            // RFC 8878, 3.1.1: no sizes, the window, one raw block that is the last.
            Codec::Zstd => [&[0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 3 << 3 | 1, 0, 0], &b"abc"[..]].concat(),
            Codec::Lzma => {
                let mut bytes = packed(codec, b"abc");
                bytes[1..5].copy_from_slice(&(1_u32 << log).to_le_bytes());
                bytes
            }
            Codec::Xz => {
                // The block's header: its length, flags, the filter LZMA2 with one byte of properties, padding, CRC-32.
                let mut bytes = packed(codec, b"abc");
                assert_eq!(bytes[12..16], [2, 0, 0x21, 1]);
                bytes[16] = (log - 12) * 2;
                let mut crc = flate2::Crc::new();
                crc.update(&bytes[12..20]);
                bytes[20..24].copy_from_slice(&crc.sum().to_le_bytes());
                bytes
            }
            other => panic!("{other:?} does not ask"),
        }
    }

    #[test]
    fn no_header_is_given_all_the_memory_it_asks_for() {
        for codec in [Codec::Zstd, Codec::Lzma, Codec::Xz] {
            let unpack = |log| {
                let mut out = Vec::new();
                codec.decoder(&asking_for(codec, log)[..]).unwrap().read_to_end(&mut out).map(|_| out)
            };
            assert_eq!(unpack(27).unwrap(), b"abc", "{codec:?}: the most a kernel's build asks for");
            for log in [28, 30, 31] {
                assert!(unpack(log).is_err(), "{codec:?}: a window of 2^{log}");
            }
        }
    }

    #[test]
    fn unknown_beginnings_are_shown() {
        assert_eq!(
            Codec::sniff(b"\x7fELFxx").unwrap_err().to_string(),
            "unknown compression (it begins with 7f454c467878)"
        );
        assert!(Codec::sniff(b"").is_err());
        assert!(matches!(Codec::sniff(b"\x89LZO\0"), Err(CodecError::Lzo)));
    }
}
