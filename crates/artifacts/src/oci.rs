//! Container images: from a reference to the layers of one platform, verified and merged into a [`RootfsBuilder`].
//!
//! Decides what a reference means, which documents a registry may answer with, how a layer is verified while it
//! arrives, and how layers are stacked. Refuses to know where images are kept and what they are called on this host.
//! The registry client is our own, on the transport of every download of banger: a registry needs five requests and two
//! ways to authenticate, and an asynchronous client beside it would bring a second HTTP stack, a second TLS set-up and
//! a runtime into a crate that blocks on purpose.
//!
//! Nothing is unpacked into directories, and nothing is written twice: the contents of a layer's files are written to
//! their final blocks in the image while the layer arrives, its headers are kept in memory. [`RootfsBuilder`] combines
//! the layers by path and writes the rest of the file system.
//!
//! [`RootfsBuilder`]: crate::rootfs::RootfsBuilder

mod archive;
mod blob;
mod cache;
mod chunks;
mod compression;
mod credentials;
mod digest;
mod document;
mod error;
mod gunzip;
mod hashing;
mod inflate;
mod layer;
mod limits;
mod merge;
mod origin;
mod platform;
mod pull;
mod reference;
mod registry;

pub use cache::{BlobCache, Pruned};
pub use credentials::{CredentialError, Credentials};
pub use digest::{Digest, InvalidDigest};
pub use document::{DocumentError, RunConfig};
pub use error::{LayerError, LayerName, OciError, RegistryError};
pub use limits::Limits;
pub use origin::{ArchivePath, ImageSource, InvalidSource};
pub use platform::{InvalidPlatform, Platform};
pub use pull::{ImageConfig, OpenedImage, Registries};
pub use reference::{InvalidReference, Reference};

/// Decompresses gzip as layers are decompressed; public for benchmarks.
pub fn gunzip(input: impl std::io::BufRead) -> impl std::io::Read {
    gunzip::Gunzip::new(input)
}

/// Entry points for fuzz targets and their replay: the parsers that hostile bytes reach.
#[doc(hidden)]
pub mod fuzzing {
    use crate::{
        job::{Cancel, Job, Silent},
        rootfs::{self, RootfsBuilder},
    };

    /// Parses `bytes` as every kind of document and returns those that succeed. A manifest of something other than an
    /// image is `unfit`.
    pub fn documents(bytes: &[u8]) -> Vec<&'static str> {
        use super::document::{ConfigFile, Descriptor, Document};
        let unfit = |layer: &Descriptor| layer.unfit_as_layer().is_some();
        let document = Document::parse(bytes, None).ok().map(|document| match document {
            Document::Index(_) => "list",
            Document::Manifest(manifest) if manifest.layers.iter().any(unfit) => "unfit",
            Document::Manifest(_) => "manifest",
        });
        let configuration = ConfigFile::parse(bytes).ok().map(|_| "configuration");
        let saved = super::archive::saved_manifest(bytes).ok().map(|_| "saved");
        [document, configuration, saved].into_iter().flatten().collect()
    }

    /// Decompresses `bytes` as gzip, up to 8 MiB.
    pub fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        use std::io::Read as _;
        let mut all = Vec::new();
        super::gunzip::Gunzip::new(bytes).take(8 << 20).read_to_end(&mut all)?;
        Ok(all)
    }

    /// Reads `bytes`, which it writes into `work`, as a tar with images, compressed or not: an OCI layout or the output
    /// of `docker save`. Returns the number of members of the image that was found.
    pub fn archive(bytes: &[u8], work: &std::path::Path) -> Result<usize, super::OciError> {
        use super::{OciError, archive::blob_name};
        let path = work.join("archive.tar");
        std::fs::write(&path, bytes).map_err(OciError::io("write", &path))?;
        let limits = super::Limits { max_unpacked: 8 << 20, ratio_exempt: 8 << 20, ..super::Limits::default() };
        let cancel = Cancel::default();
        let files = super::archive::ArchiveFiles::tar(path, work, limits, &Job { progress: &Silent, cancel: &cancel })?;
        let platform = super::Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let layout = files.find(None, &platform).map(|found| {
            let manifest = found.manifest;
            let blobs = manifest.layers.iter().map(|layer| layer.digest).chain([manifest.config.digest]);
            blobs.map(|digest| blob_name(&digest)).collect::<Vec<_>>()
        });
        let members = match layout {
            Ok(members) => members,
            Err(error) => {
                let saved = files.saved(None).map_err(|_| error)?;
                saved.layers().iter().chain([&saved.config]).cloned().collect()
            }
        };
        members.iter().try_for_each(|member| files.open(member).map(drop))?;
        Ok(members.len())
    }

    /// Merges layers, uncompressed archives, from one input: each is preceded by its length, four bytes little-endian.
    pub fn stack(mut bytes: &[u8], work: &std::path::Path) -> Result<RootfsBuilder, super::OciError> {
        let limits = super::Limits { max_unpacked: 8 << 20, max_entries: 10_000, ..super::Limits::default() };
        let cancel = Cancel::default();
        let job = Job { progress: &Silent, cancel: &cancel };
        let caps = rootfs::Limits { entries: limits.max_entries, content_bytes: 8 << 20, metadata_bytes: 8 << 20 };
        let used = std::sync::atomic::AtomicU64::new(0);
        let (pool, tally) = (super::hashing::HashPool::default(), super::layer::Tally::default());
        let mut builder = RootfsBuilder::new(work, caps, &cancel)?;
        let mut layers = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX).min(rest.len());
            let (layer, rest) = rest.split_at(length);
            layers.push(layer);
            bytes = rest;
        }
        let image = builder.begin_image(0..layers.len(), 1)?;
        for (number, layer) in layers.into_iter().enumerate() {
            let name = super::error::LayerName { number: number + 1, of: number + 1, digest: "in memory".into() };
            let context = super::layer::LayerContext {
                limits,
                used: &used,
                tally: &tally,
                compressed_size: None,
                diff_id: None,
                pool: &pool,
            };
            super::layer::read(&mut { layer }, context, image.content_writer(number, &cancel), &job)
                .and_then(|layer| {
                    builder.add_written(layer.written);
                    super::merge::apply(&mut builder, &layer.entries)
                })
                .map_err(|source| super::OciError::Layer { name, source: Box::new(source) })?;
        }
        Ok(builder)
    }
}
