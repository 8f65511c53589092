//! Turns a draft into a kernel that can be published: indexed, described and hashed, with the image of its modules.

use super::{
    super::{
        config::Findings,
        error::{KernelError, Unusable},
        manifest::{self, KernelManifest, Provenance, is_release},
        modules::{self, BootModules},
        stage::Stage,
        tree::{self, Hashes},
    },
    Draft, INITRD, LIMITS, MODULES, MODULES_IMAGE, TREE, VMLINUX, io_at,
};
use crate::{job::Job, timestamp::rfc3339};
use banger_proto::name::KernelName;
use std::{
    fs::{self, File},
    io,
    panic::resume_unwind,
    path::Path,
    thread,
    time::SystemTime,
};

impl Draft<'_> {
    /// Checks and describes the kernel, and leaves in the staging directory what is published.
    pub(in crate::kernel) fn finish(
        self,
        name: &KernelName,
        source: Provenance,
    ) -> Result<KernelManifest, KernelError> {
        let image = self.image.ok_or(Unusable::NoKernel)?;
        let arch = std::env::consts::ARCH;
        if let Some(other) = self.description.arch.as_deref().filter(|other| *other != arch) {
            return Err(Unusable::Arch(other.to_owned()).into());
        }
        let vmlinux = self.staging.join(VMLINUX);
        // Searching costs a pass over the file; the configuration shipped beside the kernel usually makes it
        // unnecessary.
        let findings = match (image.findings, &self.config) {
            (Some(findings), _) => findings,
            (None, Some(_)) => Findings::default(),
            (None, None) => {
                let file = File::open(&vmlinux).map_err(|e| io_at("open", &vmlinux, e))?;
                Findings::search(&file).map_err(|e| io_at("read", &vmlinux, e))?
            }
        };
        let description = self.description;
        let said = [("the module tree", self.modules.as_deref()), ("the user", description.kernel_version.as_deref())];
        let release = settled(image.release.as_deref(), &said)?;
        let initrd = self.staging.join(INITRD);
        let tree = self.modules.is_some().then_some(self.staging);
        let files: &[&Path] = if self.syncing.is_empty() { &[&vmlinux, &initrd] } else { &[] };
        let (boot, boots, made) = meanwhile_on_the_disk(tree, files, || {
            let mut boot = Self::finish_modules(self.work, self.staging, self.modules.as_deref(), self.job)?;
            if self.modules.is_none() {
                // Without a module tree no index lists the built-in drivers.
                boot.missing = findings.missing_drivers(self.config.as_deref());
            }
            let boots = findings
                .boots(image.elf.pvh, self.config.as_deref(), boot.virtio_mmio.as_deref())
                .map_err(|e| io_at("read", &vmlinux, e))?;
            let made = image_and_hashes(self.staging, self.modules.is_some(), &self.hashes, self.job)?;
            Ok::<_, KernelError>((boot, boots, made))
        })?;
        let (hashes, modules_image) = made;
        for (file, syncing) in self.syncing {
            joined(syncing.join()).map_err(|e| io_at("sync", &self.staging.join(file), e))?;
        }
        let manifest = KernelManifest {
            name: name.clone(),
            distro: description.distro.clone().unwrap_or_else(|| "unknown".to_owned()),
            arch: arch.to_owned(),
            kernel_version: release,
            sha256: hashes.of(VMLINUX).ok_or(Unusable::NoKernel)?.to_owned(),
            tree_sha256: hashes.tree,
            modules_image_sha256: modules_image,
            source,
            imported_at: rfc3339(SystemTime::now()),
            boot_modules: boot.all(),
            missing_drivers: boot.missing,
            boots,
        };
        let path = self.staging.join(manifest::FILE);
        fs::write(&path, manifest.to_json()).map_err(|e| io_at("write", &path, e))?;
        Ok(manifest)
    }

    /// Moves the module tree to its final place, indexes it, and determines which modules a guest loads.
    fn finish_modules(
        mut work: Stage,
        staging: &Path,
        release: Option<&str>,
        job: &Job<'_>,
    ) -> Result<BootModules, KernelError> {
        let root = work.root().to_owned();
        let remove = || fs::remove_dir_all(&root).map_err(|e| io_at("remove", &root, e));
        let Some(release) = release else {
            remove()?;
            return Ok(BootModules::default());
        };
        let below = Path::new("lib/modules").join(release);
        work.finish(&below)?;
        modules::depmod(&root, release, job)?;
        let tree = staging.join(MODULES);
        fs::rename(root.join(below), &tree).map_err(|e| io_at("create", &tree, e))?;
        remove()?;
        Ok(modules::boot_modules(&tree)?)
    }
}

/// Runs `work` while final files are being synced: the files `paths`, or a `tree` of many files together with
/// everything else in its file system.
fn meanwhile_on_the_disk<T>(
    tree: Option<&Path>,
    paths: &[&Path],
    work: impl FnOnce() -> Result<T, KernelError>,
) -> Result<T, KernelError> {
    let whole = |path: &Path| File::open(path).and_then(|file| Ok(rustix::fs::syncfs(file)?));
    let one = |path: &Path| match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        file => file.and_then(|file| file.sync_data()),
    };
    thread::scope(|scope| {
        let syncing = scope.spawn(|| match tree {
            Some(tree) => whole(tree).map_err(|e| io_at("sync the file system of", tree, e)),
            None => paths.iter().try_for_each(|path| one(path).map_err(|e| io_at("sync", path, e))),
        });
        let done = work()?;
        // The kernel reports a failed write to one sync only, which is this one.
        joined(syncing.join())?;
        Ok(done)
    })
}

/// Returns the result of a thread, or resumes its panic.
fn joined<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Reads the whole kernel twice concurrently: to hash it, and to write the image of its modules, whose hash is the
/// second result.
fn image_and_hashes(
    staging: &Path,
    has_modules: bool,
    known: &[(&str, String)],
    job: &Job<'_>,
) -> Result<(Hashes, Option<String>), KernelError> {
    let (modules, image) = (staging.join(MODULES), staging.join(MODULES_IMAGE));
    thread::scope(|scope| {
        let writing = has_modules.then(|| {
            job.progress.phase("writing the image of the modules");
            scope.spawn(|| {
                tree::image(&modules, &image, LIMITS, job)?;
                tree::file_sha256(&image, job.cancel)
            })
        });
        job.progress.phase("checking the kernel's files");
        let hashes = tree::hash(staging, &TREE, known, LIMITS, job.cancel);
        let image = writing.map(|writing| joined(writing.join())).transpose()?;
        Ok((hashes?, image))
    })
}

/// Returns the release on which all sources agree.
fn settled(kernel: Option<&str>, others: &[(&'static str, Option<&str>)]) -> Result<String, KernelError> {
    let first = kernel.or_else(|| others.iter().find_map(|(_, release)| *release)).ok_or(Unusable::NoRelease)?;
    for (what, other) in others {
        if let Some(other) = other.filter(|other| *other != first) {
            return Err(Unusable::Release { kernel: first.to_owned(), what, other: other.to_owned() }.into());
        }
    }
    if is_release(first) {
        return Ok(first.to_owned());
    }
    Err(Unusable::BadRelease(first.chars().take(80).collect()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        job::{Cancel, Silent},
        kernel::{Description, elf::tests::kernel},
    };

    /// What finishing a kernel comes to whose early sync of `vmlinux` came to `synced`.
    fn finished(synced: io::Result<()>) -> Result<KernelManifest, KernelError> {
        let (dir, from, cancel) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Cancel::default());
        let job = Job { progress: &Silent, cancel: &cancel };
        fs::write(from.path().join(VMLINUX), kernel(b"code", true)).unwrap();
        let description = Description { kernel_version: Some("6.1".into()), ..Description::default() };
        let mut draft = Draft::new(dir.path(), &description, &job).unwrap();
        draft.add_directory(from.path()).unwrap();
        draft.syncing.push((VMLINUX, thread::spawn(|| synced)));
        draft.finish(&"test-6.1".parse().unwrap(), Provenance::Unknown)
    }

    #[test]
    fn a_write_that_an_early_sync_finds_lost_is_heard_of() {
        finished(Ok(())).unwrap();
        let lost = finished(Err(io::Error::other("lost"))).unwrap_err();
        assert!(matches!(&lost, KernelError::Io { what: "sync", .. }), "{lost:?}");
        // What can be opened and not synced.
        let null = Path::new("/dev/null");
        let lost = meanwhile_on_the_disk(None, &[null], || Ok(())).unwrap_err();
        assert!(matches!(&lost, KernelError::Io { what: "sync", path, .. } if path == null), "{lost:?}");
    }
}
