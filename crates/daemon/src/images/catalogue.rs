//! Images as a user lists and looks at them.

use super::{ImageService, off_thread};
use crate::failures::Explain;
use banger_artifacts::image::Image;
use banger_proto::{
    api::artifact,
    failure::Failure,
    name::{ImageId, ImageName},
    size::ByteSize,
};
use std::collections::BTreeMap;

impl ImageService {
    /// All images, sorted by id.
    pub(crate) async fn list_images(&self) -> Result<Vec<artifact::Image>, Failure> {
        let names = self.names().await?;
        let images = self.images.clone();
        let images = off_thread(move || images.list()).await.map_err(Explain::explain)?;
        let mut shown = Vec::new();
        for image in images {
            shown.push(self.show_one(image, &names).await?);
        }
        Ok(shown)
    }

    /// One image, by name, id or unique prefix of its id.
    pub(crate) async fn show_image(&self, reference: &str) -> Result<artifact::Image, Failure> {
        let id = self.resolve(reference).await?;
        let images = self.images.clone();
        let image = off_thread(move || images.get(&id)).await.map_err(Explain::explain)?;
        self.show_one(image, &self.names().await?).await
    }

    /// An image as the API shows it.
    pub(crate) async fn shown(&self, image: Image) -> Result<artifact::Image, Failure> {
        let names = self.names().await?;
        self.show_one(image, &names).await
    }

    async fn show_one(
        &self,
        image: Image,
        names: &BTreeMap<ImageId, Vec<ImageName>>,
    ) -> Result<artifact::Image, Failure> {
        let managed = image.is_managed();
        let manifest = image.manifest;
        Ok(artifact::Image {
            names: names.get(&manifest.id).cloned().unwrap_or_default(),
            used_by: self.store.vms_of_image(&manifest.id).await?,
            id: manifest.id,
            digest: manifest.digest,
            source: manifest.source.to_string(),
            size: allocated(&image.rootfs).unwrap_or(ByteSize(manifest.size_bytes)),
            managed,
            kernel: manifest.kernel,
            os: manifest.os,
            created_at: manifest.created_at,
        })
    }

    async fn names(&self) -> Result<BTreeMap<ImageId, Vec<ImageName>>, Failure> {
        let mut names = BTreeMap::<_, Vec<_>>::new();
        for (name, id) in self.store.image_names().await? {
            names.entry(id).or_default().push(name);
        }
        Ok(names)
    }
}

/// Bytes the file takes.
fn allocated(path: &std::path::Path) -> Option<ByteSize> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|metadata| ByteSize(metadata.blocks() * 512))
}
