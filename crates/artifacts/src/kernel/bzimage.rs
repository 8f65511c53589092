//! Extracts the ELF from a bzImage.
//!
//! It follows the boot protocol's header (Documentation/arch/x86/boot.rst in the kernel's source) to the packed payload
//! instead of searching for magic numbers. It needs protocol 2.08 (Linux 2.6.26) or later.

use super::codec::{Codec, CodecError, MAGIC_LEN};
use crate::job::Cancel;
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
};

/// Upper bound of an unpacked kernel, in bytes.
pub(super) const MAX_KERNEL: u64 = 512 << 20;
/// Offsets of the first sector's signature and of the protocol's fields.
const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const PROTOCOL: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const HEADER_LEN: usize = 0x250;
/// Protocol 2.08, the first that locates the payload.
const FIRST_WITH_PAYLOAD: u16 = 0x0208;
/// Upper bound of the version text, in bytes.
const MAX_VERSION: usize = 256;

/// A bzImage with a valid header.
#[derive(Debug)]
pub struct BzImage {
    file: File,
    payload: u64,
    length: u64,
    codec: Codec,
    version: Option<String>,
}

/// Error of extracting the ELF.
#[derive(Debug, thiserror::Error)]
pub enum BzImageError {
    /// It could not be read or unpacked.
    #[error("cannot unpack it")]
    Io(#[from] io::Error),
    /// The ELF could not be written.
    #[error("cannot write what it unpacks to")]
    Write(#[source] io::Error),
    /// There is no boot protocol header.
    #[error("it is not a bzImage")]
    NotBzImage,
    /// Its protocol is too old to locate the payload.
    #[error("its boot protocol {}.{:02} does not say where the payload is", .0 >> 8, .0 & 0xff)]
    Protocol(u16),
    /// The header points outside the file.
    #[error("its payload is not inside the file")]
    Payload,
    /// The payload's compression is not supported.
    #[error("cannot unpack its payload")]
    Codec(#[from] CodecError),
    /// The payload's length differs from its trailer.
    #[error("its payload unpacks to {found} bytes and not to {announced}")]
    Size {
        /// Length in the trailer.
        announced: u64,
        /// Length after unpacking.
        found: u64,
    },
    /// Larger than any kernel.
    #[error("it unpacks to more than {} MiB", MAX_KERNEL >> 20)]
    TooLarge,
}

impl BzImage {
    /// Reads the header of `file`.
    pub fn open(file: File) -> Result<Self, BzImageError> {
        let len = file.metadata()?.len();
        if len < HEADER_LEN as u64 {
            return Err(BzImageError::NotBzImage);
        }
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0)?;
        if header[BOOT_FLAG..BOOT_FLAG + 2] != [0x55, 0xaa] || header[HEADER_MAGIC..HEADER_MAGIC + 4] != *b"HdrS" {
            return Err(BzImageError::NotBzImage);
        }
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let protocol = u16_at(PROTOCOL);
        if protocol < FIRST_WITH_PAYLOAD {
            return Err(BzImageError::Protocol(protocol));
        }
        // "If the field contains 0, the real value is 4."
        let setup_sectors = if header[SETUP_SECTS] == 0 { 4 } else { u64::from(header[SETUP_SECTS]) };
        let payload = (setup_sectors + 1) * 512 + u64::from(u32_at(PAYLOAD_OFFSET));
        let length = u64::from(u32_at(PAYLOAD_LENGTH));
        if length < (MAGIC_LEN + 4) as u64 || payload + length > len {
            return Err(BzImageError::Payload);
        }
        let mut magic = [0; MAGIC_LEN];
        file.read_exact_at(&mut magic, payload)?;
        let codec = Codec::sniff(&magic)?;
        let version = version(&file, len, u16_at(KERNEL_VERSION), setup_sectors)?;
        Ok(Self { file, payload, length, codec, version })
    }

    /// How the payload is packed.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Version text of the header, which `uname -r` will print.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Writes the ELF to `out` and returns its length. It is only a candidate, which [`super::Elf`] checks.
    pub fn unpack(&self, out: &mut dyn Write, cancel: &Cancel) -> Result<u64, BzImageError> {
        let announced = {
            let mut word = [0; 4];
            self.file.read_exact_at(&mut word, self.payload + self.length - 4)?;
            u64::from(u32::from_le_bytes(word))
        };
        // The last word is the unpacked length: in gzip it is part of the format, for other formats the kernel's build
        // appends it.
        let packed = if self.codec == Codec::Gzip { self.length } else { self.length - 4 };
        let input = Section { file: &self.file, at: self.payload, left: packed };
        let mut reader = self.codec.decoder(io::BufReader::with_capacity(256 << 10, input))?;
        let mut buffer = vec![0; 256 << 10];
        let mut found = 0;
        loop {
            cancel.check().map_err(io::Error::other)?;
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    found += n as u64;
                    if found > MAX_KERNEL {
                        return Err(BzImageError::TooLarge);
                    }
                    if found > announced {
                        return Err(BzImageError::Size { announced, found });
                    }
                    out.write_all(&buffer[..n]).map_err(BzImageError::Write)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if found == announced { Ok(found) } else { Err(BzImageError::Size { announced, found }) }
    }
}

/// Reads the text at `pointer` (relative to the end of the boot sector), up to its first blank.
fn version(file: &File, len: u64, pointer: u16, setup_sectors: u64) -> io::Result<Option<String>> {
    let at = u64::from(pointer) + 0x200;
    // The text is in the set-up code; a zero pointer means there is none.
    let end = len.min((setup_sectors + 1) * 512);
    if pointer == 0 || at >= end {
        return Ok(None);
    }
    let mut text = vec![0; usize::try_from(end - at).unwrap_or(MAX_VERSION).min(MAX_VERSION)];
    file.read_exact_at(&mut text, at)?;
    let word = text.split(|byte| *byte == b' ' || *byte == 0).next().unwrap_or_default();
    Ok(std::str::from_utf8(word).ok().filter(|word| !word.is_empty()).map(str::to_owned))
}

/// A range of a file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
