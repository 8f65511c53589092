//! Images as a user lists, looks at and deletes them.

use super::{ImageService, no_image, off_thread};
use crate::failures::Explain;
use banger_artifacts::{
    image::{Image, ImageError},
    job::Cancel,
};
use banger_proto::{
    api::artifact,
    failure::{Code, Failure},
    name::{ImageId, ImageName, VmName},
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

    /// Deletes an image and its names. Refused while a VM uses it.
    pub(crate) async fn delete_image(&self, reference: &str) -> Result<(), Failure> {
        let id = self.resolve(reference).await?;
        let users = self.store.vms_of_image(&id).await?;
        if !users.is_empty() {
            return Err(in_use(&format!("image {reference:?}"), &users));
        }
        let (images, gone) = (self.images.clone(), id.clone());
        off_thread(move || images.delete(&gone, &Cancel::default())).await.map_err(Explain::explain)?;
        self.store.unname_image(&id).await?;
        Ok(())
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

    /// The id a name, an id or a unique prefix of one means.
    pub(super) async fn resolve(&self, reference: &str) -> Result<ImageId, Failure> {
        if let Ok(name) = reference.parse::<ImageName>()
            && let Some(image) = self.local_image(&name).await?
        {
            return Ok(image.manifest.id);
        }
        let images = self.images.clone();
        let ids: Result<Vec<ImageId>, ImageError> =
            off_thread(move || Ok(images.list()?.into_iter().map(|image| image.manifest.id).collect())).await;
        let ids = ids.map_err(Explain::explain)?;
        let mut matching = ids.into_iter().filter(|id| !reference.is_empty() && id.as_str().starts_with(reference));
        match (matching.next(), matching.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => {
                Err(Failure::new(Code::Invalid, format!("{reference:?} begins the ids of several images")))
            }
            (None, _) => Err(no_image(reference)),
        }
    }
}

/// `what` cannot go because these VMs use it.
fn in_use(what: &str, users: &[VmName]) -> Failure {
    let names: Vec<&str> = users.iter().take(10).map(VmName::as_str).collect();
    let more = if users.len() > 10 { ", …" } else { "" };
    Failure::new(Code::Conflict, format!("{what} is in use by {}{more}", names.join(", ")))
        .hint(format!("`banger vm delete {}` deletes what uses it", names.join(" ")))
}

/// Bytes the file takes.
fn allocated(path: &std::path::Path) -> Option<ByteSize> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|metadata| ByteSize(metadata.blocks() * 512))
}
