//! Kernel bundles: one zstd-packed tar, unpacked while it arrives.
//!
//! Bytes go from the network through a hash, the decompressor and the tar reader into a staging directory, once, with
//! nothing kept in between; the large files are hashed, searched and brought to the disk beside it. Decides what may stand in a bundle and how far it may unpack. What came out is made a kernel
//! only after the whole was seen and its hash matched: until then nobody but this module looks at it.

use super::{
    archive::{self, ArchiveError, Member},
    bzimage::MAX_KERNEL,
    config::Findings,
    elf::{Elf, ElfError},
    error::KernelError,
    hashing_write,
    image::Image,
    import::{Description, Draft, INITRD, LIMITS, MAX_INITRD, MODULES, MODULES_IMAGE, VMLINUX, is_build_link},
    manifest,
    manifest::Provenance,
};
use crate::{
    fetch::{Address, BodyLength, Client, FetchError},
    job::Job,
};
use std::{
    cell::Cell,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

/// Largest bundle.
pub(super) const MAX_BUNDLE: u64 = 1 << 30;
/// Most memory for the decompressor's window, as a power of two: 32 MiB. `zstd -19`, which bundles are packed with, asks
/// for 8.
const MAX_WINDOW_LOG: u32 = 25;
/// How many times its own size a bundle may unpack to, past the first [`FREE`] bytes. Kernels and modules reach 6.
const MAX_RATIO: u64 = 100;
/// Bytes that may always come out, whatever went in.
const FREE: u64 = 16 << 20;
/// Most zeros after the last member; tar fills its last record.
const MAX_PADDING: u64 = 1 << 20;

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The archive is at fault, after (or in) this member.
    #[error("the bundle is damaged or incomplete after member {}", path.display())]
    After {
        /// The last member that was begun.
        path: PathBuf,
        /// Cause.
        source: ArchiveError,
    },
    /// Its `vmlinux` is no kernel for this host.
    #[error("member vmlinux cannot be used")]
    Kernel(#[from] ElfError),
    /// It has no `vmlinux`.
    #[error("there is no member vmlinux in it")]
    NoKernel,
    /// A member that belongs in no bundle.
    #[error("member {} has no place in a kernel bundle", path.display())]
    Stray {
        /// File or directory.
        path: PathBuf,
    },
    /// One member is larger than any of its name.
    #[error("member {} has more than {max} bytes", path.display())]
    Member {
        /// File or directory.
        path: PathBuf,
        /// Most it may have.
        max: u64,
    },
    /// It unpacks to far more than what was sent.
    #[error("it unpacks to more than {MAX_RATIO} times its size, in member {}", path.display())]
    Ratio {
        /// Where that was noticed.
        path: PathBuf,
    },
    /// Something follows the archive.
    #[error("there is something after its last member {}", path.display())]
    Trailing {
        /// The last one.
        path: PathBuf,
    },
    /// It is not what the catalog describes.
    #[error("it has SHA-256 {found}, and the catalog says {expected}")]
    Hash {
        /// In the catalog.
        expected: String,
        /// Of what was downloaded.
        found: String,
    },
    /// It could not be downloaded.
    #[error("cannot download {address}")]
    Fetch {
        /// Address asked.
        address: Address,
        /// Cause.
        source: FetchError,
    },
    /// What was downloaded is refused.
    #[error("cannot use {address}")]
    Refused {
        /// Where it came from.
        address: Address,
        /// Cause.
        source: Box<KernelError>,
    },
}

/// A bundle as a catalog describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Where it is.
    pub address: Address,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

impl Bundle {
    /// Downloads it into `draft`. When this returns without an error, the hash has matched.
    pub(super) fn receive(&self, client: &Client, draft: &mut Draft<'_>) -> Result<Provenance, KernelError> {
        let job = draft.job;
        let address = || self.address.clone();
        let failed = |source| BundleError::Fetch { address: address(), source };
        job.progress.phase(&format!("downloading {}", self.address));
        let mut body = client.open(&self.address, BodyLength::Exactly(self.size), job).map_err(failed)?;
        let unpacked = draft.add_bundle(&mut body);
        // From inside, a download that ended looks like a damaged archive.
        if let Some(failure) = body.failure() {
            return Err(failed(failure).into());
        }
        let refused = |source| BundleError::Refused { address: address(), source: Box::new(source) };
        unpacked.map_err(refused)?;
        let received = body.finish().map_err(failed)?;
        if received.sha256 != self.sha256 {
            let hash = BundleError::Hash { expected: self.sha256.clone(), found: received.sha256 };
            return Err(refused(hash.into()).into());
        }
        Ok(Provenance::Bundle { url: self.address.to_string(), sha256: received.sha256 })
    }
}

/// Unpacks `stream` into `into`, an empty directory, as a pull does before it looks at the hash. Publishes nothing.
pub fn unpack_bundle(stream: impl Read, into: &Path, job: &Job<'_>) -> Result<(), KernelError> {
    Draft::new(into, &Description::default(), job)?.add_bundle(BufReader::with_capacity(128 << 10, stream))
}

impl Draft<'_> {
    /// Takes `vmlinux`, `initrd.img` and `modules/` out of a bundle.
    pub(super) fn add_bundle(&mut self, stream: impl BufRead) -> Result<(), KernelError> {
        let packed = Cell::new(0);
        let mut inflated = Inflation::new(Counted { inner: stream, count: &packed })?;
        let (mut parts, mut last) = (Parts::default(), PathBuf::new());
        let visited = archive::each(&mut inflated, LIMITS, self.job.cancel, |path, member| {
            path.clone_into(&mut last);
            parts.add(self, path, member)
        });
        if inflated.is_bomb {
            return Err(BundleError::Ratio { path: last }.into());
        }
        visited.map_err(|error: KernelError| match error {
            // The others name their member themselves.
            KernelError::Archive(
                source @ (ArchiveError::Io(_)
                | ArchiveError::Header(_)
                | ArchiveError::TooLarge(_)
                | ArchiveError::TooManyEntries(_)),
            ) => BundleError::After { path: last.clone(), source }.into(),
            error => error,
        })?;
        inflated.end(&last)?;
        parts.finish(self)
    }
}

/// What was found in a bundle so far.
#[derive(Debug, Default)]
struct Parts {
    /// The kernel, and the search for what it says of itself.
    kernel: Option<(Elf, JoinHandle<io::Result<Findings>>)>,
    modules: bool,
}

impl Parts {
    fn add(&mut self, draft: &mut Draft<'_>, path: &Path, member: Member<'_>) -> Result<(), KernelError> {
        let refused = |kind| KernelError::from(ArchiveError::Kind { path: path.to_owned(), kind });
        if let Ok(inside) = path.strip_prefix(MODULES) {
            self.modules = true;
            return match member {
                // They lead to where the kernel was built, and are left out.
                Member::Symlink(_) if is_build_link(inside) => Ok(()),
                Member::Directory => Ok(draft.work.directory(path)?),
                Member::Other(kind) => Err(refused(kind)),
                _ if inside.as_os_str().is_empty() => Err(refused("file or link, and should be a directory")),
                Member::File(content) => Ok(draft.work.file(path, content).map(drop)?),
                Member::Symlink(target) => Ok(draft.work.symlink(path, target)?),
                // The work directory holds modules only, so there is nothing else to find.
                Member::HardLink(target) => Ok(draft.work.hard_link(path, &target)?),
            };
        }
        let name = path.to_str().unwrap_or_default();
        let known = [VMLINUX, INITRD, manifest::FILE, MODULES_IMAGE].contains(&name);
        match member {
            _ if !known => Err(BundleError::Stray { path: path.to_owned() }.into()),
            Member::File(content) => match name {
                VMLINUX => {
                    let image = top(draft, VMLINUX, content, MAX_KERNEL)?;
                    let elf = Elf::inspect(&image).map_err(BundleError::from)?;
                    let search = thread::Builder::new().name("search".into());
                    let search = search.spawn(move || Findings::search(&image)).map_err(ElfError::from);
                    self.kernel = Some((elf, search.map_err(BundleError::from)?));
                    Ok(())
                }
                INITRD => top(draft, INITRD, content, MAX_INITRD).map(drop),
                // Made here, from what is really there.
                _ => Ok(()),
            },
            Member::Directory => Err(refused("directory")),
            Member::Symlink(_) | Member::HardLink(_) => Err(refused("link")),
            Member::Other(kind) => Err(refused(kind)),
        }
    }

    /// Puts the modules where those of every other kernel are by now.
    fn finish(self, draft: &mut Draft<'_>) -> Result<(), KernelError> {
        let (elf, search) = self.kernel.ok_or(BundleError::NoKernel)?;
        let findings = search.join().unwrap_or_else(|panic| resume_unwind(panic));
        let findings = findings.map_err(|error| BundleError::Kernel(error.into()))?;
        draft.set_image(Image { elf, release: findings.release.clone(), findings: Some(findings) });
        if !self.modules {
            return Ok(());
        }
        let gathered = Path::new(MODULES);
        draft.work.directory(gathered)?;
        draft.work.finish(gathered)?;
        let release = draft.release()?;
        draft.set_modules(&release)?;
        let (from, to) = (draft.work.root().join(MODULES), draft.work.root().join("lib/modules").join(release));
        std::fs::rename(&from, &to).map_err(|source| KernelError::Io { what: "create", path: to, source })
    }
}

/// A file at the root of the bundle, which is one at the root of the kernel's directory too.
fn top(draft: &mut Draft<'_>, name: &'static str, content: &mut dyn Read, max: u64) -> Result<Arc<File>, KernelError> {
    let (target, path) = (draft.staging.join(name), Path::new(name));
    let file = match File::options().read(true).write(true).create_new(true).open(&target) {
        Ok(file) => Arc::new(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(ArchiveError::Duplicate { path: path.to_owned() }.into());
        }
        Err(source) => return Err(KernelError::Io { what: "create", path: target, source }),
    };
    let written = hashing_write::write(&file, path, &mut content.take(max + 1))?;
    if written.length > max {
        return Err(BundleError::Member { path: path.to_owned(), max }.into());
    }
    draft.written(name, written);
    Ok(file)
}

/// Counts what is read through it.
struct Counted<'a, R> {
    inner: R,
    count: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.inner.consume(n);
        self.count.set(self.count.get() + n as u64);
    }
}

/// The decompressor, with an eye on how much comes out of how little.
struct Inflation<'a, R: BufRead> {
    decoder: zstd::stream::read::Decoder<'static, Counted<'a, R>>,
    packed: &'a Cell<u64>,
    unpacked: u64,
    is_bomb: bool,
}

impl<'a, R: BufRead> Inflation<'a, R> {
    fn new(stream: Counted<'a, R>) -> Result<Self, ArchiveError> {
        let packed = stream.count;
        let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        Ok(Self { decoder, packed, unpacked: 0, is_bomb: false })
    }

    /// Reads on behind the archive to the end of the stream: only padding may follow.
    fn end(&mut self, last: &Path) -> Result<(), BundleError> {
        let mut buffer = [0; 16 << 10];
        let mut padding = 0;
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    padding += n as u64;
                    if padding > MAX_PADDING || buffer[..n].iter().any(|byte| *byte != 0) {
                        return Err(BundleError::Trailing { path: last.to_owned() });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BundleError::After { path: last.to_owned(), source: error.into() }),
            }
        }
    }
}

impl<R: BufRead> Read for Inflation<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.decoder.read(buffer)?;
        self.unpacked += n as u64;
        if self.unpacked > FREE + self.packed.get().saturating_mul(MAX_RATIO) {
            self.is_bomb = true;
            return Err(io::Error::other("it unpacks to too much"));
        }
        Ok(n)
    }
}
