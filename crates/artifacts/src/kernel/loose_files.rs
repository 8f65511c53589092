//! A kernel whose files are in different places, as given to `image register --kernel-file`.

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

/// Paths of a kernel's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LooseFiles {
    /// An ELF file or a bzImage.
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: Option<PathBuf>,
    /// Its modules: the content of `lib/modules/<release>`, or a directory that contains such a tree.
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

/// Opens a file that must exist.
fn open(path: &Path, limit: u64) -> Result<File, KernelError> {
    open_given(path, limit)?.ok_or_else(|| io_at("read", path, io::ErrorKind::NotFound.into()))
}
