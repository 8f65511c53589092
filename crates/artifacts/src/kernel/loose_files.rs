//! A kernel whose files lie in different places: what `image register --kernel-file` is given.

use super::{
    bzimage::MAX_KERNEL,
    error::KernelError,
    import::{Draft, MAX_INITRD, io_at, open_given},
    manifest::Provenance,
};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// Where the files of a kernel are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LooseFiles {
    /// An ELF file or a bzImage.
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: Option<PathBuf>,
    /// Its modules: the content of `lib/modules/<release>`, or a directory in which that stands.
    pub modules: Option<PathBuf>,
}

impl LooseFiles {
    pub(super) fn gather(&self, draft: &mut Draft<'_>) -> Result<Provenance, KernelError> {
        draft.add_image(open(&self.kernel, MAX_KERNEL)?)?;
        if let Some(initrd) = &self.initrd {
            draft.add_initrd(&mut open(initrd, MAX_INITRD)?)?;
        }
        if let Some(modules) = &self.modules {
            draft.job.progress.phase(&format!("copying {}", modules.display()));
            let trees = modules.join("lib/modules");
            let release = modules.join(draft.release()?);
            if trees.is_dir() {
                draft.add_trees(&trees)?;
            } else if release.is_dir() {
                draft.add_tree(&release)?;
            } else {
                draft.add_tree(modules)?;
            }
        }
        Ok(Provenance::File { path: self.kernel.to_string_lossy().into_owned() })
    }
}

/// A file that has to be there.
fn open(path: &Path, limit: u64) -> Result<File, KernelError> {
    open_given(path, limit)?.ok_or_else(|| io_at("read", path, io::ErrorKind::NotFound.into()))
}
