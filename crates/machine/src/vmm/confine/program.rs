//! The files a program needs in order to be executed: its loader and its library directories.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Directories a program's libraries may be in, of those that exist: the multiarch directories where there are any
/// (Debian), else the generic ones; and those beside a program that is installed outside `/usr`.
pub(super) fn library_dirs(program: &Path) -> Vec<PathBuf> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let system = ["/usr/lib", "/lib"].map(PathBuf::from);
    let own: Vec<PathBuf> = system.iter().map(|dir| dir.join(&triplet)).filter(|dir| dir.is_dir()).collect();
    let mut dirs = if own.is_empty() { system.to_vec() } else { own };
    dirs.extend(["/usr/lib64", "/lib64"].map(PathBuf::from));
    if let Some(prefix) = program.parent().and_then(Path::parent).filter(|prefix| *prefix != Path::new("/usr")) {
        dirs.extend(["lib", "lib64"].map(|name| prefix.join(name)));
    }
    dirs.retain(|dir| dir.is_dir());
    dirs
}

/// The loader named by an ELF program (`PT_INTERP`); `None` for a static program, or a file that is not a 64-bit
/// little-endian ELF.
pub(super) fn interpreter(program: &Path) -> io::Result<Option<PathBuf>> {
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    const PT_INTERP: u32 = 3;
    const LOOKED_AT: u64 = 64 << 10;
    let mut bytes = Vec::new();
    File::open(program)?.take(LOOKED_AT).read_to_end(&mut bytes)?;
    let number = |at: usize, length: usize| {
        let field = bytes.get(at..at.checked_add(length)?)?;
        Some(field.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let offset_at = |at: usize| number(at, 8).and_then(|offset| usize::try_from(offset).ok());
    let find = || {
        let elf_64_little = bytes.len() >= HEADER && bytes.starts_with(b"\x7fELF\x02\x01");
        let (table, count) = (offset_at(32).filter(|_| elf_64_little)?, number(56, 2)?);
        let mut headers =
            (0..count).filter_map(|index| table.checked_add(PROGRAM_HEADER.checked_mul(usize::try_from(index).ok()?)?));
        let header = headers.find(|at| number(*at, 4) == Some(u64::from(PT_INTERP)))?;
        let (offset, size) = (offset_at(header.checked_add(8)?)?, offset_at(header.checked_add(32)?)?);
        let name = bytes.get(offset..offset.checked_add(size)?)?;
        std::str::from_utf8(name.strip_suffix(b"\0")?).ok().map(PathBuf::from)
    };
    Ok(find())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_loader_of_a_program_is_read_and_nothing_of_a_script() {
        let shell = fs::canonicalize("/bin/sh").unwrap();
        let loader = interpreter(&shell).unwrap().unwrap();
        assert!(loader.is_absolute() && loader.exists(), "{}", loader.display());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        for content in [&b"#!/bin/sh\n"[..], b"", b"\x7fELF\x02\x01", &[&b"\x7fELF\x02\x01"[..], &[0xff; 100]].concat()]
        {
            fs::write(&path, content).unwrap();
            assert_eq!(interpreter(&path).unwrap(), None);
        }
    }
}
