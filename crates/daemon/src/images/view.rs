//! Images as the API shows them.

use super::{ImageService, off_thread};
use crate::failures::Explain;
use banger_artifacts::image::{Image, ImageConfig, ImageError, ImageManifest, ListedImage};
use banger_proto::{
    api::artifact::{self, ImageState},
    failure::Failure,
    name::{ImageId, ImageName},
    size::ByteSize,
};
use std::collections::BTreeMap;

impl ImageService {
    /// Lists all images, damaged ones included, sorted by id.
    pub(crate) async fn list_images(&self) -> Result<Vec<artifact::Image>, Failure> {
        let names = self.names().await?;
        let images = self.images.clone();
        let looks = off_thread(move || images.list_with_problems()).await.map_err(Explain::explain)?;
        let mut shown = Vec::new();
        for look in looks {
            let image = self.show_one(look, &names).await?;
            // Half a megabyte of each, if it comes to the worst.
            shown.push(artifact::Image { config: None, ..image });
        }
        Ok(shown)
    }

    /// Shows one image, by name, id or unique prefix of its id.
    pub(crate) async fn show_image(&self, reference: &str) -> Result<artifact::Image, Failure> {
        let id = self.resolve(reference).await?;
        self.show_id(id).await
    }

    /// Converts an image to its API form.
    pub(crate) async fn shown(&self, image: Image) -> Result<artifact::Image, Failure> {
        self.show_id(image.manifest.id).await
    }

    async fn show_id(&self, id: ImageId) -> Result<artifact::Image, Failure> {
        let images = self.images.clone();
        let look = off_thread(move || images.quick_check(&id)).await.map_err(Explain::explain)?;
        self.show_one(look, &self.names().await?).await
    }

    async fn show_one(
        &self,
        look: ListedImage,
        names: &BTreeMap<ImageId, Vec<ImageName>>,
    ) -> Result<artifact::Image, Failure> {
        let ListedImage { id, image, rootfs, since, problem, doubtful } = look;
        let managed = image.as_ref().is_none_or(Image::is_managed);
        let manifest = image.map(|image| image.manifest);
        let known = |of: fn(&ImageManifest) -> String| manifest.as_ref().map_or_else(|| "unknown".to_owned(), of);
        let (digest, source) = (known(|it| it.digest.clone()), known(|it| it.source.to_string()));
        let size = allocated(&rootfs).or(manifest.as_ref().map(|it| ByteSize(it.size_bytes)));
        let (state, problem, hints) = condition(&id, problem, doubtful);
        Ok(artifact::Image {
            names: names.get(&id).cloned().unwrap_or_default(),
            used_by: self.store.vms_of_image(&id).await?,
            digest,
            source,
            size: size.unwrap_or(ByteSize(0)),
            managed,
            kernel: manifest.as_ref().and_then(|manifest| manifest.kernel.clone()),
            os: manifest.as_ref().and_then(|manifest| manifest.os.clone()),
            arch: manifest.as_ref().map(|manifest| manifest.arch.clone()),
            init: manifest.as_ref().and_then(|manifest| manifest.init.clone()),
            config: manifest.and_then(|manifest| manifest.config).map(shown_config),
            created_at: since,
            state,
            problem,
            hints,
            id,
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

fn shown_config(config: ImageConfig) -> artifact::ImageConfig {
    let ImageConfig { env, workdir, user, entrypoint, cmd } = config;
    artifact::ImageConfig { env, workdir, user, entrypoint, cmd }
}

/// State of an image, the reason for it, and hints.
fn condition(id: &ImageId, problem: Option<ImageError>, doubtful: bool) -> (ImageState, Option<String>, Vec<String>) {
    // An image not verified as a whole is not called damaged unless a quick check shows it.
    if doubtful && problem.is_none() {
        let why = "made shortly before this host went down, and not read as a whole since";
        let wait = format!("what needs it waits for that; `banger image delete {id}` gives it up");
        return (ImageState::Unread, Some(why.to_owned()), vec![wait]);
    }
    let Some(problem) = problem else { return (ImageState::Ready, None, Vec::new()) };
    let Failure { message, causes, hints, .. } = problem.explain();
    // The state already says that the image is damaged.
    let why = if causes.is_empty() { message } else { causes.join(": ") };
    (ImageState::Damaged, Some(why), hints)
}

/// Bytes allocated for the file.
fn allocated(path: &std::path::Path) -> Option<ByteSize> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|metadata| ByteSize(metadata.blocks() * 512))
}
