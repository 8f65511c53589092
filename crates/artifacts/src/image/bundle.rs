//! Image bundles: `rootfs.ext4` and `manifest.json` in a `tar.zst`.
//!
//! A bundle is streamed in both directions: download, hash, decompression and writing are one pass, and the result
//! becomes an image only if the bundle's hash and the image's own match. The same image gives the same bundle as long
//! as it recommends the same kernel, which is part of the bundle.

use super::{
    CatalogEntry, ExternalFile, Image, ImageError, ImageManifest, ImageStore, Reliance, Source,
    draft::{Algorithm, ROOTFS, digest},
    manifest::{self, shown},
    store::check_superblock,
    tmpfile::TmpFile,
};
use crate::{
    disk::write_sparse,
    fetch::{Address, BodyLength, Client},
    job::Job,
    rootfs::RootfsError,
    tar::{EntryKind, Limits, Reader},
    timestamp::rfc3339,
};
use banger_proto::name::{ImageId, ImageName};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    time::SystemTime,
};

/// Upper bound of a bundle, in bytes.
const MAX_BUNDLE: u64 = 16 << 30;
/// Upper bound of an image in a bundle, in bytes.
const MAX_IMAGE: u64 = 1 << 40;
/// Upper bound of a manifest in a bundle, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;
/// Compression level: a bundle is published once and downloaded often; higher levels take minutes for a percent.
const LEVEL: i32 = 12;
/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// Bytes between two progress reports.
const REPORT_EVERY: u64 = 32 << 20;
/// Name of every image in its bundle: the name it has here may reveal where it came from.
const NAMELESS: &str = "image";

/// Address and expected content of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleSource {
    /// `https://`, or `http://` to this host.
    pub url: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

/// A bundle that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenBundle {
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Catalog entry for the bundle; the address is to be filled in.
    pub entry: Value,
}

impl WrittenBundle {
    /// Has the catalog entry offer the image under this name, as far as an entry can have it.
    #[must_use]
    pub fn named(mut self, name: &ImageName) -> Self {
        self.entry["name"] = json!(plain(name));
        self
    }
}

/// Error of a bundle that is no image.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Its address is not allowed.
    #[error("{url:?} is not used")]
    Address {
        /// The address.
        url: String,
        /// Cause.
        source: crate::fetch::AddressError,
    },
    /// The download failed.
    #[error(transparent)]
    Fetch(#[from] crate::fetch::FetchError),
    /// It has another hash.
    #[error("the bundle has the SHA-256 {is}, not {should}")]
    Hash {
        /// Actual hash.
        is: String,
        /// Expected hash.
        should: String,
    },
    /// Its content is not that of an image bundle.
    #[error("the bundle is not an image: {0}")]
    Content(String),
    /// It is no archive.
    #[error(transparent)]
    Archive(#[from] crate::rootfs::RootfsError),
    /// Its content cannot be written.
    #[error("cannot write the image")]
    Write(#[source] io::Error),
}

impl BundleSource {
    /// Whether an image from `other` is the one in this bundle.
    pub(super) fn is(&self, other: &Source) -> bool {
        matches!(other, Source::Bundle(bundle) if bundle.sha256 == self.sha256)
    }

    /// Checks address, hash and size.
    pub(super) fn check(&self) -> Result<(), String> {
        self.url.parse::<Address>().map_err(|error| error.to_string())?;
        if self.size > MAX_BUNDLE {
            return Err(format!("{} bytes are more than 16 GiB", self.size));
        }
        let hex = self.sha256.len() == 64 && self.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex { Ok(()) } else { Err("its sha256 is not 64 hexadecimal digits".into()) }
    }
}

impl ImageStore {
    /// Pulls the bundle of a catalog entry.
    pub(super) fn pull_bundle(
        &self,
        entry: &CatalogEntry,
        source: &BundleSource,
        client: &Client,
        relied_on: &dyn Reliance,
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let lock = format!("bundle-{}", &source.sha256[..16]);
        let lock = self.shelf.lock_saying(&lock, "waiting for another pull of this bundle", job)?;
        // Another pull may have finished while this one waited.
        let same =
            |image: &Image| image.manifest.sources().any(|from| source.is(from)) && check_superblock(image).is_ok();
        if let Some(image) = self.find_whole(same, job)? {
            return Ok(image);
        }
        job.progress.phase("downloading the image");
        let staging = self.shelf.stage()?;
        let mut manifest = receive(source, staging.path(), client, job)?;
        job.progress.phase("hashing the image");
        let rootfs = staging.path().join(ROOTFS);
        let algorithm = Algorithm::of(&manifest.digest);
        let digits = digest(&rootfs, algorithm, job)?;
        let is = algorithm.name(&digits);
        if manifest.digest != is || manifest.id.as_str() != &digits[..16] {
            return Err(BundleError::Content(format!("its rootfs.ext4 has the digest {is}")).into());
        }
        manifest.name = entry.name.clone();
        manifest.kernel = entry.kernel.clone().or(manifest.kernel);
        manifest.kernel_chosen = entry.kernel_chosen;
        manifest.source = Source::Bundle(source.clone());
        // The sources other hosts know do not count here.
        manifest.also.clear();
        manifest.created_at = rfc3339(SystemTime::now());
        manifest.os = manifest.os.as_deref().and_then(shown);
        if manifest.init.as_ref().is_some_and(|init| !is_path(init)) {
            return Err(BundleError::Content("its init is no absolute path".to_owned()).into());
        }
        if let Some(config) = &manifest.config {
            config.check().map_err(|why| BundleError::Content(why.to_owned()))?;
        }
        manifest.write(staging.path())?;
        let image = Image { manifest, rootfs };
        check_superblock(&image).map_err(|error| BundleError::Content(error.to_string()))?;
        let Image { manifest, rootfs } = image;
        ExternalFile::inspect(&rootfs).map_err(|unfit| BundleError::Content(format!("its rootfs.ext4: {unfit}")))?;
        let read_only = fs::Permissions::from_mode(0o444);
        fs::set_permissions(&rootfs, read_only).map_err(ImageError::io("write", &rootfs))?;
        let image = self.publish_unless(staging, &manifest, relied_on, job);
        drop(lock);
        image
    }

    /// Writes the image as a bundle to `output`. An existing file is only replaced when the bundle is complete; nothing
    /// else is ever replaced.
    pub fn bundle(&self, id: &ImageId, output: &Path, job: &Job<'_>) -> Result<WrittenBundle, ImageError> {
        check_place(output)?;
        let image = self.verify(id, super::Depth::Full, job)?;
        // Its id and digest identify a file on this host; a pull could compare nothing.
        if !image.is_managed() {
            return Err(ImageError::Unmanaged { id: id.clone() });
        }
        let directory = output.parent().unwrap_or(Path::new("/"));
        let staged = TmpFile::create_in(directory).map_err(ImageError::io("write to", directory))?;
        let write = |source| ImageError::Io { what: "write", path: output.to_owned(), source };
        job.progress.phase("packing the image");
        let (size, sha256) = pack(&image, staged.file(), job).map_err(write)?;
        job.cancel.check()?;
        staged.file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(write)?;
        staged.file().sync_all().map_err(write)?;
        // Checked again, because packing took minutes.
        check_place(output)?;
        staged.persist(output).map_err(write)?;
        let manifest = image.manifest;
        let entry = json!({
            "name": plain(&manifest.name),
            "description": manifest.os.unwrap_or_default(),
            "arch": manifest.arch,
            "kernel": manifest.kernel,
            "sources": [{"type": "bundle", "url": format!("https://…/{}.tar.zst", &sha256[..16]), "sha256": sha256, "size": size}],
        });
        Ok(WrittenBundle { size, sha256, entry })
    }
}

/// Refuses a path at which there is something other than a regular file.
fn check_place(output: &Path) -> Result<(), ImageError> {
    match fs::symlink_metadata(output) {
        Ok(there) if !there.is_file() => Err(ImageError::Output { path: output.to_owned() }),
        _ => Ok(()),
    }
}

/// Returns the name without registry, path and digest.
fn plain(name: &ImageName) -> ImageName {
    let mut parts = name.as_str().rsplit('/').map(|part| part.split('@').next().unwrap_or(part));
    parts.find_map(|part| part.parse().ok()).unwrap_or_else(|| name.clone())
}

/// Writes a bundle; returns its length and SHA-256.
fn pack(image: &Image, out: &File, job: &Job<'_>) -> io::Result<(u64, String)> {
    let mut sink = HashingWriter { out, hash: Sha256::new(), bytes: 0 };
    let mut encoder = zstd::Encoder::new(BufWriter::with_capacity(CHUNK, &mut sink), LEVEL)?;
    encoder.include_checksum(true)?;
    let mut archive = tar::Builder::new(encoder);
    let header = |size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o444);
        header.set_mtime(0);
        header
    };
    // Data about this host, above all its paths, is removed; whoever pulls the bundle has the image from there.
    let mut manifest = image.manifest.clone();
    manifest.name = NAMELESS.parse().expect("a valid name");
    manifest.kernel_chosen = false;
    "1970-01-01T00:00:00Z".clone_into(&mut manifest.created_at);
    manifest.source = Source::Bundle(BundleSource { url: String::new(), sha256: String::new(), size: 0 });
    manifest.also.clear();
    let json = manifest.to_json();
    archive.append_data(&mut header(json.len() as u64), manifest::FILE, json.as_slice())?;
    let file = File::open(&image.rootfs)?;
    let size = file.metadata()?.len();
    let reader = ProgressReader { input: file, done: 0, reported: 0, total: size, job };
    archive.append_data(&mut header(size), ROOTFS, reader)?;
    archive.into_inner()?.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok((sink.bytes, HEXLOWER.encode(&sink.hash.finalize())))
}

/// Downloads a bundle and unpacks it into `directory`.
fn receive(
    source: &BundleSource,
    directory: &Path,
    client: &Client,
    job: &Job<'_>,
) -> Result<ImageManifest, BundleError> {
    let address: Address =
        source.url.parse().map_err(|error| BundleError::Address { url: source.url.clone(), source: error })?;
    let mut body = client.open(&address, BodyLength::Exactly(source.size), job)?;
    let outcome = unpack(&mut body, directory, job);
    // On a full disk the rest of the download is useless.
    if let Err(full @ BundleError::Write(_)) = outcome {
        return Err(full);
    }
    // A network error explains more than the archive error it caused; and half a bundle has no hash to compare.
    let received = match body.failure() {
        Some(failure) => return Err(failure.into()),
        None => body.finish()?,
    };
    if received.sha256 != source.sha256 {
        return Err(BundleError::Hash { is: received.sha256, should: source.sha256.clone() });
    }
    outcome
}

/// Unpacks `stream` into the empty directory `into`, as a pull does before it checks the hash. Publishes nothing.
pub fn unpack_image_bundle(mut stream: impl Read, into: &Path, job: &Job<'_>) -> Result<ImageManifest, BundleError> {
    unpack(&mut stream, into, job)
}

fn unpack(input: &mut dyn Read, directory: &Path, job: &Job<'_>) -> Result<ImageManifest, BundleError> {
    let content = |why: &str| BundleError::Content(why.to_owned());
    let decoder = zstd::Decoder::new(input).map_err(|error| BundleError::Content(error.to_string()))?;
    let limits = Limits { entries: 8, bytes: MAX_IMAGE };
    let mut archive = Reader::new(decoder, limits);
    let (mut manifest, mut rootfs) = (None, false);
    while let Some(entry) = archive.next_entry().map_err(RootfsError::from)? {
        let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path).to_vec();
        match (name.as_slice(), &entry.kind) {
            (b"manifest.json", EntryKind::File) if manifest.is_none() && entry.size <= MAX_MANIFEST => {
                let mut json = Vec::new();
                archive.read_to_end(&mut json).map_err(|error| BundleError::Content(error.to_string()))?;
                manifest = Some(ImageManifest::parse(&json).map_err(|error| BundleError::Content(error.to_string()))?);
            }
            (b"rootfs.ext4", EntryKind::File) if !rootfs => {
                rootfs = true;
                let path = directory.join(ROOTFS);
                let file = File::options().write(true).create_new(true).mode(0o600).open(path);
                let mut content = ReadErrorFlag { input: &mut archive, failed: false };
                let written = write_sparse(&mut content, &file.map_err(BundleError::Write)?, entry.size, job.cancel);
                let (cut, at_fault) = (io::ErrorKind::UnexpectedEof, content.failed);
                written.map_err(|error| match error {
                    error if at_fault || error.kind() == cut => BundleError::Content(error.to_string()),
                    error => BundleError::Write(error),
                })?;
            }
            (b"." | b"", EntryKind::Dir) => {}
            _ => return Err(content("there is something else in it, or something twice")),
        }
    }
    match (manifest, rootfs) {
        (Some(manifest), true) => Ok(manifest),
        _ => Err(content("it has no manifest.json or no rootfs.ext4")),
    }
}

struct HashingWriter<'a> {
    out: &'a File,
    hash: Sha256,
    bytes: u64,
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reader that records whether reading, rather than writing, failed during a copy.
struct ReadErrorFlag<'a> {
    input: &'a mut dyn Read,
    failed: bool,
}

impl Read for ReadErrorFlag<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer);
        self.failed |= read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        read
    }
}

/// Reader that reports progress and checks for cancellation.
struct ProgressReader<'a> {
    input: File,
    done: u64,
    reported: u64,
    total: u64,
    job: &'a Job<'a>,
}

impl Read for ProgressReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.job.cancel.check().map_err(io::Error::other)?;
        let got = self.input.read(buffer)?;
        self.done += got as u64;
        if self.done - self.reported >= REPORT_EVERY {
            self.reported = self.done;
            self.job.progress.advance(self.done, Some(self.total));
        }
        Ok(got)
    }
}

/// Whether the text is an absolute path that a program can be at (`PATH_MAX`).
fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() < 4096 && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_is_and_not_where_it_came_from() {
        for (name, says) in [
            ("app", "app"),
            ("alpine:3.20", "alpine:3.20"),
            ("registry.corp:5000/secret/app:v1", "app:v1"),
            ("registry.corp:5000/secret/app:v1@sha256:00", "app:v1"),
            ("team/app//", "app"),
            ("team/app/@x", "app"),
        ] {
            assert_eq!(plain(&name.parse().unwrap()).as_str(), says, "{name}");
        }
    }
}
