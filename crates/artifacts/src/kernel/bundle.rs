//! Kernel bundles: one zstd-compressed tar, unpacked while it is downloaded.
//!
//! Bytes go once from the network through a hash, the decompressor and the tar reader into a staging directory; the
//! large files are hashed, searched and synced concurrently. Decides what a bundle may contain and how much it may
//! unpack to. Its content becomes a kernel only after the whole bundle was read and its hash matched; until then only
//! this module uses it.

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

/// Upper bound of a bundle, in bytes.
pub(super) const MAX_BUNDLE: u64 = 1 << 30;
/// Upper bound of the decompressor's window, as a power of two: 32 MiB. `zstd -19`, with which bundles are packed,
/// needs 8 MiB.
const MAX_WINDOW_LOG: u32 = 25;
/// Upper bound of the compression ratio, applied past the first [`FREE`] bytes. Kernels and modules reach 6.
const MAX_RATIO: u64 = 100;
/// Bytes that any bundle may unpack to.
const FREE: u64 = 16 << 20;
/// Upper bound of the zeros after the last member; tar fills its last record.
const MAX_PADDING: u64 = 1 << 20;

/// Error of a bundle that is refused.
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
    /// It has a member that belongs in no bundle.
    #[error("member {} has no place in a kernel bundle", path.display())]
    Stray {
        /// File or directory.
        path: PathBuf,
    },
    /// A member exceeds the limit for its name.
    #[error("member {} has more than {max} bytes", path.display())]
    Member {
        /// File or directory.
        path: PathBuf,
        /// Limit in bytes.
        max: u64,
    },
    /// Its compression ratio is too high.
    #[error("it unpacks to more than {MAX_RATIO} times its size, in member {}", path.display())]
    Ratio {
        /// Member in which the limit was exceeded.
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
        /// Hash in the catalog.
        expected: String,
        /// Hash of the download.
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
    /// The downloaded bundle is refused.
    #[error("cannot use {address}")]
    Refused {
        /// Address of the bundle.
        address: Address,
        /// Cause.
        source: Box<KernelError>,
    },
}

/// A bundle as a catalog describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Address to download it from.
    pub address: Address,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

impl Bundle {
    /// Downloads the bundle into `draft`. On success the hash has matched.
    pub(super) fn receive(&self, client: &Client, draft: &mut Draft<'_>) -> Result<Provenance, KernelError> {
        let job = draft.job;
        let address = || self.address.clone();
        let failed = |source| BundleError::Fetch { address: address(), source };
        job.progress.phase(&format!("downloading {}", self.address));
        let mut body = client.open(&self.address, BodyLength::Exactly(self.size), job).map_err(failed)?;
        let unpacked = draft.add_bundle(&mut body);
        // To the archive reader, an interrupted download looks like a damaged archive.
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

/// Unpacks `stream` into the empty directory `into`, as a pull does before it checks the hash. Publishes nothing.
pub fn unpack_bundle(stream: impl Read, into: &Path, job: &Job<'_>) -> Result<(), KernelError> {
    Draft::new(into, &Description::default(), job)?.add_bundle(BufReader::with_capacity(128 << 10, stream))
}

impl Draft<'_> {
    /// Extracts `vmlinux`, `initrd.img` and `modules/` from a bundle.
    pub(super) fn add_bundle(&mut self, stream: impl BufRead) -> Result<(), KernelError> {
        let packed = Cell::new(0);
        let mut inflated = RatioLimit::new(CountingReader { inner: stream, count: &packed })?;
        let (mut parts, mut last) = (Parts::default(), PathBuf::new());
        let visited = archive::each(&mut inflated, LIMITS, self.job.cancel, |path, member| {
            path.clone_into(&mut last);
            parts.add(self, path, member)
        });
        if inflated.is_bomb {
            return Err(BundleError::Ratio { path: last }.into());
        }
        visited.map_err(|error: KernelError| match error {
            // The other errors name their member themselves.
            KernelError::Archive(
                source @ (ArchiveError::Io(_)
                | ArchiveError::Damaged { .. }
                | ArchiveError::TooLarge(_)
                | ArchiveError::TooManyEntries(_)),
            ) => BundleError::After { path: last.clone(), source }.into(),
            error => error,
        })?;
        inflated.end(&last)?;
        parts.finish(self)
    }
}

/// Contents of a bundle found so far.
#[derive(Debug, Default)]
struct Parts {
    /// The kernel image and the running search for its release and configuration.
    kernel: Option<(Elf, JoinHandle<io::Result<Findings>>)>,
    modules: bool,
}

impl Parts {
    fn add(&mut self, draft: &mut Draft<'_>, path: &Path, member: Member<'_>) -> Result<(), KernelError> {
        let refused = |kind| KernelError::from(ArchiveError::Kind { path: path.to_owned(), kind });
        if let Ok(inside) = path.strip_prefix(MODULES) {
            self.modules = true;
            return match member {
                // These links lead to where the kernel was built and are left out.
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
                // Indexes are left out: they are generated here from the modules that exist.
                _ => Ok(()),
            },
            Member::Directory => Err(refused("directory")),
            Member::Symlink(_) | Member::HardLink(_) => Err(refused("link")),
            Member::Other(kind) => Err(refused(kind)),
        }
    }

    /// Adds the modules to the draft in the same place as those of other kernels.
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

/// Extracts a file at the root of the bundle to the root of the kernel's directory.
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

/// Reader that counts bytes.
struct CountingReader<'a, R> {
    inner: R,
    count: &'a Cell<u64>,
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for CountingReader<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.inner.consume(n);
        self.count.set(self.count.get() + n as u64);
    }
}

/// Decompressor that limits the compression ratio.
struct RatioLimit<'a, R: BufRead> {
    decoder: zstd::stream::read::Decoder<'static, CountingReader<'a, R>>,
    packed: &'a Cell<u64>,
    unpacked: u64,
    is_bomb: bool,
}

impl<'a, R: BufRead> RatioLimit<'a, R> {
    fn new(stream: CountingReader<'a, R>) -> Result<Self, ArchiveError> {
        let packed = stream.count;
        let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        Ok(Self { decoder, packed, unpacked: 0, is_bomb: false })
    }

    /// Reads from the end of the archive to the end of the stream, which may only hold padding.
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

impl<R: BufRead> Read for RatioLimit<'_, R> {
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
