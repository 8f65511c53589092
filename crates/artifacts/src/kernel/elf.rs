//! Inspects a kernel's ELF file without trusting a single offset in it.
//!
//! Decides whether a file is a complete kernel image for the right machine, and finds the note that lets a VMM start it
//! without a boot loader (PVH). It does not know where the file came from.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Upper bound of program headers; a kernel has four or five.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Upper bound of the notes, in bytes; a kernel has under 1 KiB.
const MAX_NOTES: u64 = 64 << 10;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry point of the PVH boot protocol.
const XEN_PHYS32_ENTRY: u32 = 18;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// A kernel's ELF file, as far as banger cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elf {
    /// Whether it has a PVH entry.
    pub pvh: bool,
}

/// Why a file is not a kernel image.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It could not be read.
    #[error("cannot read it")]
    Io(#[from] io::Error),
    /// It has no ELF magic.
    #[error("it is not an ELF file")]
    NotElf,
    /// 32-bit or big-endian.
    #[error("it is not a 64-bit little-endian ELF file")]
    Class,
    /// It is an object file or a core dump.
    #[error("it is not an executable (ELF type {0})")]
    Type(u16),
    /// It is for another processor.
    #[error("it is for another machine ({})", machine(*.0))]
    Machine(u16),
    /// Its headers are invalid.
    #[error("its program headers make no sense ({0})")]
    Headers(&'static str),
    /// It is truncated.
    #[error("it is cut off: {end} bytes are described and {len} are there")]
    Truncated {
        /// End of the last segment.
        end: u64,
        /// Length of the file.
        len: u64,
    },
}

fn machine(number: u16) -> String {
    match number {
        3 => "i386".into(),
        EM_AARCH64 => "aarch64".into(),
        other => format!("ELF machine {other}"),
    }
}

impl Elf {
    /// The first bytes of every ELF file.
    pub const MAGIC: [u8; 4] = *b"\x7fELF";

    /// Reads the headers and notes of `file`, at most some 70 KiB, and checks that every segment is there.
    pub fn inspect(file: &File) -> Result<Self, ElfError> {
        let len = file.metadata()?.len();
        let header: [u8; 64] = read(file, 0, len)?.ok_or(ElfError::NotElf)?;
        if header[..4] != Self::MAGIC {
            return Err(ElfError::NotElf);
        }
        if header[4..6] != [2, 1] {
            return Err(ElfError::Class);
        }
        let (kind, machine) = (u16_at(&header, 16), u16_at(&header, 18));
        if machine != EM_X86_64 {
            return Err(ElfError::Machine(machine));
        }
        if kind != ET_EXEC && kind != ET_DYN {
            return Err(ElfError::Type(kind));
        }
        let (table, entry_size, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
        if entry_size != 56 {
            return Err(ElfError::Headers("their size"));
        }
        if !(1..=MAX_PROGRAM_HEADERS).contains(&count) {
            return Err(ElfError::Headers("their number"));
        }
        let mut elf = Self { pvh: false };
        let mut loads = 0;
        for index in 0..u64::from(count) {
            let at = table.checked_add(index * 56).ok_or(ElfError::Headers("their place"))?;
            let entry: [u8; 56] =
                read(file, at, len)?.ok_or(ElfError::Truncated { end: at.saturating_add(56), len })?;
            let (offset, size) = (u64_at(&entry, 8), u64_at(&entry, 32));
            let end = offset.checked_add(size).ok_or(ElfError::Headers("a segment's end"))?;
            match u32_at(&entry, 0) {
                PT_LOAD => {
                    loads += 1;
                    if end > len {
                        return Err(ElfError::Truncated { end, len });
                    }
                }
                PT_NOTE if end <= len => elf.pvh |= has_pvh_note(file, offset, size)?,
                _ => {}
            }
        }
        if loads == 0 {
            return Err(ElfError::Headers("nothing is loaded"));
        }
        Ok(elf)
    }
}

/// Looks for the PVH entry among the notes at `offset`.
fn has_pvh_note(file: &File, offset: u64, size: u64) -> io::Result<bool> {
    let mut notes = vec![0; usize::try_from(size.min(MAX_NOTES)).expect("64 KiB fit")];
    file.read_exact_at(&mut notes, offset)?;
    let mut rest = &notes[..];
    while let Some((header, body)) = rest.split_first_chunk::<12>() {
        let aligned = |at: usize| (u32_at(header, at) as usize).checked_next_multiple_of(4);
        let (Some(name), Some(description)) = (aligned(0), aligned(4)) else { return Ok(false) };
        let Some(end) = name.checked_add(description).filter(|end| *end <= body.len()) else { return Ok(false) };
        if body.starts_with(b"Xen\0") && u32_at(header, 0) == 4 && u32_at(header, 8) == XEN_PHYS32_ENTRY {
            return Ok(description >= 4);
        }
        rest = &body[end..];
    }
    Ok(false)
}

/// Reads `N` bytes at `at`; `None` where the file ends before.
fn read<const N: usize>(file: &File, at: u64, len: u64) -> io::Result<Option<[u8; N]>> {
    if at.checked_add(N as u64).is_none_or(|end| end > len) {
        return Ok(None);
    }
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(Some(bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// A minimal kernel image: one loaded segment that holds `content`, and the PVH note when asked for.
    pub(in crate::kernel) fn kernel(content: &[u8], pvh: bool) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4_u32, 4, 1] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"GNU\0abcd");
        if pvh {
            for word in [4_u32, 8, XEN_PHYS32_ENTRY] {
                note.extend(word.to_le_bytes());
            }
            note.extend(b"Xen\0");
            note.extend(0x100_0000_u64.to_le_bytes());
        }
        let data = 64 + 2 * 56;
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16..18].copy_from_slice(&ET_EXEC.to_le_bytes());
        elf[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        elf[32..40].copy_from_slice(&64_u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56_u16.to_le_bytes());
        elf[56..58].copy_from_slice(&2_u16.to_le_bytes());
        for (kind, offset, size) in [(PT_LOAD, data + note.len(), content.len()), (PT_NOTE, data, note.len())] {
            let mut entry = [0; 56];
            entry[..4].copy_from_slice(&kind.to_le_bytes());
            entry[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
            entry[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend(entry);
        }
        elf.extend(note);
        elf.extend(content);
        elf
    }

    fn inspect(bytes: &[u8]) -> Result<Elf, ElfError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Elf::inspect(&file)
    }

    #[test]
    fn the_pvh_note_is_found() {
        assert!(inspect(&kernel(b"code", true)).unwrap().pvh);
        assert!(!inspect(&kernel(b"code", false)).unwrap().pvh);
    }

    #[test]
    fn what_is_not_a_kernel_is_named() {
        let changed = |at: usize, byte: u8| {
            let mut elf = kernel(b"code", true);
            elf[at] = byte;
            inspect(&elf).unwrap_err()
        };
        assert!(matches!(inspect(b"").unwrap_err(), ElfError::NotElf));
        assert!(matches!(changed(0, b'M'), ElfError::NotElf));
        assert!(matches!(changed(4, 1), ElfError::Class));
        assert_eq!(changed(18, 183).to_string(), "it is for another machine (aarch64)");
        assert!(matches!(changed(16, 1), ElfError::Type(1)));
        assert!(matches!(changed(56, 0), ElfError::Headers(_)));
        assert!(matches!(changed(57, 0xff), ElfError::Headers(_)));
        assert!(matches!(changed(64, 0), ElfError::Headers("nothing is loaded")));
    }

    #[test]
    fn a_cut_file_is_noticed() {
        let elf = kernel(&[1; 1000], true);
        for cut in [63, 100, 300, elf.len() - 1] {
            assert!(inspect(&elf[..cut]).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(changes in prop::collection::vec((0_usize..280, any::<u8>()), 1..20)) {
            let mut elf = kernel(&[9; 100], true);
            for (at, byte) in changes {
                let len = elf.len();
                elf[at % len] = byte;
            }
            let _ = inspect(&elf);
        }
    }
}
