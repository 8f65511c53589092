//! Turns an ELF file or a bzImage into `vmlinux`, and describes it.

use super::{
    bzimage::{BzImage, MAX_KERNEL},
    config::Findings,
    elf::{Elf, ElfError},
    error::KernelError,
    import::{VMLINUX, io_at},
};
use crate::job::Job;
use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, Write},
    os::unix::fs::FileExt,
    path::Path,
};

/// The unpacked kernel image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) elf: Elf,
    /// Release from its boot header if it had one, else from its banner.
    pub(super) release: Option<String>,
    /// Result of searching it, if that was necessary.
    pub(super) findings: Option<Findings>,
}

impl Image {
    /// Describes an ELF file; `release` comes from its boot header, if it had one.
    pub(super) fn describe(image: &File, mut release: Option<String>) -> Result<Self, ElfError> {
        let elf = Elf::inspect(image)?;
        let mut findings = None;
        if release.is_none() {
            let found = Findings::search(image)?;
            release.clone_from(&found.release);
            findings = Some(found);
        }
        Ok(Self { elf, release, findings })
    }

    /// Writes the kernel in `file`, ELF or bzImage, into `staging` as an ELF.
    pub(super) fn unpack(mut file: File, staging: &Path, job: &Job<'_>) -> Result<Self, KernelError> {
        let path = staging.join(VMLINUX);
        let mut out = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| io_at("create", &path, e))?;
        let mut magic = [0; Elf::MAGIC.len()];
        let is_elf = file.read_exact_at(&mut magic, 0).is_ok() && magic == Elf::MAGIC;
        let mut release = None;
        if is_elf {
            let copied = file.rewind().and_then(|()| io::copy(&mut file.take(MAX_KERNEL), &mut out));
            copied.map_err(|e| io_at("write", &path, e))?;
        } else {
            job.progress.phase("unpacking the kernel image");
            let image = BzImage::open(file)?;
            let mut writer = BufWriter::with_capacity(256 << 10, &mut out);
            image.unpack(&mut writer, job.cancel)?;
            writer.flush().map_err(|e| io_at("write", &path, e))?;
            release = image.version().map(str::to_owned);
        }
        Ok(Self::describe(&out, release)?)
    }
}
