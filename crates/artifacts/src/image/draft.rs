//! Turns a filled rootfs builder into a directory that can be published.

use super::{
    ImageConfig, ImageError, ImageManifest, Source,
    manifest::{self, pretty_name},
};
use crate::{
    job::Job,
    rootfs::{Format, RootfsBuilder},
    timestamp::rfc3339,
};
use banger_proto::name::{ImageId, ImageName, KernelName};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::SystemTime,
};

/// Name of an image's file.
pub(super) const ROOTFS: &str = "rootfs.ext4";
/// Volume label of every image.
const LABEL: &str = "rootfs";
/// Paths of an image's init, best first.
const INITS: [&str; 3] = ["/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd"];
/// Upper bound of an os-release file that is read, in bytes.
const MAX_OS_RELEASE: usize = 64 << 10;
/// Bytes read at once for hashing.
const CHUNK: usize = 1 << 20;
/// Bytes between two progress reports of hashing.
const REPORT_EVERY: u64 = 64 << 20;

/// Metadata of an image that is about to be written.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) name: ImageName,
    pub(super) source: Source,
    pub(super) kernel: Option<KernelName>,
    /// Whether a person chose that kernel.
    pub(super) kernel_chosen: bool,
    pub(super) config: Option<ImageConfig>,
    /// Modification time of entries to which the source gives none, in seconds since 1970.
    pub(super) epoch: u32,
    /// Architecture, as printed by `uname -m`.
    pub(super) arch: String,
}

impl Draft {
    /// Writes the image and its manifest into `directory`, read-only.
    pub(super) fn write(
        self,
        mut builder: RootfsBuilder,
        directory: &Path,
        job: &Job<'_>,
    ) -> Result<ImageManifest, ImageError> {
        let os_release = match builder.read(b"etc/os-release", MAX_OS_RELEASE)? {
            Some(text) => Some(text),
            None => builder.read(b"usr/lib/os-release", MAX_OS_RELEASE)?,
        };
        let os = os_release.and_then(|text| pretty_name(&String::from_utf8_lossy(&text)));
        let init = INITS.into_iter().find(|path| builder.is_executable(path.as_bytes())).map(str::to_owned);

        job.progress.phase("writing the image");
        let path = directory.join(ROOTFS);
        let format = Format { label: LABEL.into(), epoch: self.epoch, salt: self.salt() };
        let (written, digest) = builder.finish_hashed(&path, &format, job)?;
        let digest = HEXLOWER.encode(&digest);
        let id: ImageId = digest[..16].parse().expect("16 hexadecimal digits are an image id");

        let manifest = ImageManifest {
            version: manifest::FORMAT,
            id,
            name: self.name,
            digest: Algorithm::Blake3.name(&digest),
            source: self.source,
            also: Vec::new(),
            size_bytes: written.size_bytes,
            entries: written.entries,
            created_at: rfc3339(SystemTime::now()),
            os,
            arch: self.arch,
            init,
            kernel: self.kernel,
            kernel_chosen: self.kernel_chosen,
            config: self.config,
        };
        manifest.write(directory)?;
        // Nobody writes to a managed image, not even by mistake.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).map_err(ImageError::io("write", &path))?;
        Ok(manifest)
    }

    /// Bytes that distinguish images with the same files: the id covers the metadata that is stored outside the files
    /// too.
    fn salt(&self) -> Vec<u8> {
        serde_json::to_vec(&(&self.arch, &self.config)).expect("a configuration holds nothing JSON cannot")
    }
}

/// Hash function of an image's digest. Images made here use BLAKE3; an image made by an earlier banger names SHA-256 in
/// its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Blake3,
    Sha256,
}

enum Hash {
    Blake3(Box<blake3::Hasher>),
    Sha256(Sha256),
}

impl Algorithm {
    /// Returns the hash function a digest names; a digest of an unknown kind matches nothing.
    pub(super) fn of(digest: &str) -> Self {
        if digest.starts_with("sha256:") { Self::Sha256 } else { Self::Blake3 }
    }

    /// Formats a digest with these hexadecimal digits.
    pub(super) fn name(self, digits: &str) -> String {
        match self {
            Self::Blake3 => format!("blake3:{digits}"),
            Self::Sha256 => format!("sha256:{digits}"),
        }
    }

    fn hash(self) -> Hash {
        match self {
            Self::Blake3 => Hash::Blake3(Box::default()),
            Self::Sha256 => Hash::Sha256(Sha256::new()),
        }
    }
}

impl Hash {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hash) => drop(hash.update(bytes)),
            Self::Sha256(hash) => hash.update(bytes),
        }
    }

    fn digits(self) -> String {
        match self {
            Self::Blake3(hash) => HEXLOWER.encode(hash.finalize().as_bytes()),
            Self::Sha256(hash) => HEXLOWER.encode(&hash.finalize()),
        }
    }
}

/// Hashes a file; returns the hexadecimal digits.
pub(super) fn digest(path: &Path, algorithm: Algorithm, job: &Job<'_>) -> Result<String, ImageError> {
    let read = |source| ImageError::Io { what: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let mut hash = algorithm.hash();
    let mut chunk = vec![0; CHUNK];
    let (mut done, mut reported) = (0, 0);
    loop {
        job.cancel.check()?;
        match file.read(&mut chunk).map_err(read)? {
            0 => break,
            got => {
                hash.update(&chunk[..got]);
                done += got as u64;
            }
        }
        if done - reported >= REPORT_EVERY {
            job.progress.advance(done, Some(size));
            reported = done;
        }
    }
    Ok(hash.digits())
}
