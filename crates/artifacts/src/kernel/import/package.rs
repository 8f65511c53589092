//! Adds the content of a kernel package to a draft.

use super::{
    super::{
        archive::{ArchiveError, Member},
        bzimage::MAX_KERNEL,
        deb::Deb,
        error::{KernelError, Unusable},
        image::Image,
        stage::fill,
    },
    Draft, LIMITS, io_at, is_build_link,
};
use std::{io::Read, panic::resume_unwind, path::Path, thread};

impl Draft<'_> {
    /// Adds the kernel and the modules of a package.
    pub(in crate::kernel) fn add_deb(&mut self, deb: &Deb) -> Result<(), KernelError> {
        if deb.architecture != deb_arch() {
            return Err(Unusable::Arch(deb.architecture.clone()).into());
        }
        self.job.progress.phase(&format!("unpacking {} {}", deb.package, deb.version));
        let (staging, job) = (self.staging, self.job);
        // The kernel precedes its modules in a package and is compressed itself: it is unpacked concurrently with them.
        let image = thread::scope(|scope| {
            let mut unpacking = None;
            deb.each(LIMITS, job.cancel, |path, member| match member {
                Member::File(content) if is_kernel(path) => {
                    if unpacking.is_some() {
                        return Err(Unusable::TwoKernels.into());
                    }
                    let mut file = tempfile::tempfile_in(staging).map_err(|e| io_at("write to", staging, e))?;
                    fill(&mut file, path, &mut content.take(MAX_KERNEL))?;
                    unpacking = Some(scope.spawn(move || Image::unpack(file, staging, job)));
                    Ok(())
                }
                member => self.add_member(path, member),
            })?;
            let unpacked = unpacking.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            unpacked.transpose()
        })?;
        self.image = image;
        Ok(())
    }

    fn add_member(&mut self, path: &Path, member: Member<'_>) -> Result<(), KernelError> {
        // Packages are moving from /lib to /usr/lib.
        let path = path.strip_prefix("usr").ok().filter(|path| path.starts_with("lib/modules")).unwrap_or(path);
        if let Ok(name) = path.strip_prefix("boot") {
            return match member {
                Member::File(content) if name.to_string_lossy().starts_with("config-") => self.add_config(content),
                _ => Ok(()),
            };
        }
        let Ok(below) = path.strip_prefix("lib/modules") else { return Ok(()) };
        let mut parts = below.components();
        let Some(release) = parts.next() else { return Ok(()) };
        self.set_modules(&release.as_os_str().to_string_lossy())?;
        let inside = parts.as_path();
        if inside.as_os_str().is_empty() || is_build_link(inside) {
            return Ok(());
        }
        match member {
            Member::Directory => self.work.directory(path)?,
            Member::File(content) => {
                self.work.file(path, content)?;
            }
            Member::Symlink(target) => self.work.symlink(path, target)?,
            Member::HardLink(target) => {
                let target = target.strip_prefix("usr").unwrap_or(&target);
                self.work.hard_link(path, target)?;
            }
            Member::Other(kind) => return Err(ArchiveError::Kind { path: path.to_owned(), kind }.into()),
        }
        Ok(())
    }
}

/// Whether the path is that of the kernel in a package.
fn is_kernel(path: &Path) -> bool {
    let name = path.strip_prefix("boot").ok().and_then(Path::to_str);
    name.is_some_and(|name| name.starts_with("vmlinuz-") || name.starts_with("vmlinux-"))
}

/// The host's architecture under Debian's name.
fn deb_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
