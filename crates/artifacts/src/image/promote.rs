//! Copies an unmanaged image, which is a file of the user's, into the store.

use super::{
    FileIdentity, Image, ImageError, ImageStore, Source,
    draft::{Algorithm, ROOTFS, digest},
};
use crate::{disk::clone_sparse, job::Job, timestamp::rfc3339};
use banger_proto::name::ImageId;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::PathBuf,
    time::SystemTime,
};

/// Source of a promoted image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotedFile {
    /// The file it was copied from.
    pub path: PathBuf,
}

impl ImageStore {
    /// Copies an unmanaged image into the store. The copy's id is that of its content, and the file may change or go
    /// afterwards.
    pub fn promote(&self, id: &ImageId, job: &Job<'_>) -> Result<Image, ImageError> {
        let image = self.verify(id, super::Depth::Quick, job)?;
        let Some(external) = image.external() else { return Err(ImageError::Managed { id: id.clone() }) };
        let external = external.clone();
        let staging = self.shelf.stage()?;
        let rootfs = staging.path().join(ROOTFS);
        let from = File::open(&external.path).map_err(ImageError::io("open", &external.path))?;
        let to = File::options().read(true).write(true).create_new(true).mode(0o600).open(&rootfs);
        let to = to.map_err(ImageError::io("create", &rootfs))?;
        job.progress.phase("copying the image");
        clone_sparse(&from, &to, job)
            .map_err(|error| ImageError::io("copy", &external.path)(error).or_cancelled(job.cancel))?;
        // A file that changes while it is copied is in no consistent state.
        if FileIdentity::of(&external.path).ok() != Some(external.identity) {
            self.verify(id, super::Depth::Quick, job)?;
        }
        job.progress.phase("hashing the image");
        let digest = digest(&rootfs, Algorithm::Blake3, job)?;
        let mut manifest = image.manifest;
        manifest.id = digest[..16].parse().expect("16 hexadecimal digits are an image id");
        manifest.digest = Algorithm::Blake3.name(&digest);
        manifest.size_bytes = external.identity.size;
        manifest.source = Source::Promoted(PromotedFile { path: external.path });
        manifest.created_at = rfc3339(SystemTime::now());
        manifest.write(staging.path())?;
        let read_only = fs::Permissions::from_mode(0o444);
        fs::set_permissions(&rootfs, read_only).map_err(ImageError::io("write", &rootfs))?;
        self.publish(staging, &manifest, job)
    }
}
