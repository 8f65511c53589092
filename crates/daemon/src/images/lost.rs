//! Images that the disk has lost, and that names and VMs rely on still: what brings one back, and what is not taken for it.

use super::{ImageService, image_offers::ImageOffers, names::in_use};
use crate::store::{Origin, Store, StoreError};
use banger_artifacts::image::Source;
use banger_proto::{
    failure::{Code, Failure},
    name::{ImageId, ImageName},
};

impl ImageService {
    /// Why an image that somebody relies on is not here, where it has a name still: `failure` knows no more than its id.
    pub(super) async fn not_here(&self, id: &ImageId, failure: Failure) -> Failure {
        let name = self.store.names_of_image(id).await.ok().and_then(|names| names.into_iter().next());
        let Some(name) = name else { return failure };
        match self.store.name_origin(&name).await {
            Ok(Some((_, origin))) => lost(&name, &origin),
            _ => failure,
        }
    }
}

/// What to say of a lost image that has this name. What the name led to is told by the reference to that very image, where
/// there is one: pulled by a tag that moved it would be another, and the name would know of the lost one no more.
pub(super) fn lost(name: &ImageName, origin: &Origin) -> Failure {
    // By a reference with a digest it would have that for a name, too.
    let to_be_said = origin.chosen || origin.pinned.is_some();
    let called = if to_be_said { format!(" --name {name}") } else { String::new() };
    let again = match (origin.catalog(), origin.pinned.as_ref().or(origin.source.as_ref())) {
        (Some(entry), _) => {
            format!(
                "`banger image pull {entry}{called}` brings it back from its catalog ([[image_catalog]] in config.toml)"
            )
        }
        (None, Some(source)) => format!("`banger image pull {source}{called}` brings it back"),
        (None, None) => format!("make it again under that name: `banger image build {name} …`"),
    };
    Failure::new(Code::Unavailable, format!("image {name} was lost when this host went down"))
        .hint(again)
        .hint(format!("`banger image delete {name}` gives the name up"))
}

/// What to say of an image that is not here to who has its bytes from the bundles of a catalog's `entry`, beside a word of
/// their own on how they are run; `None` where nobody relies on it who had it from elsewhere.
pub(super) async fn missed(
    store: &Store,
    offers: &ImageOffers,
    id: &ImageId,
    entry: &ImageName,
) -> Result<Option<Failure>, StoreError> {
    let (names, asked) = (store.names_of_image(id).await?, Origin::of_catalog(entry));
    for name in &names {
        if let Some((_, origin)) = store.name_origin(name).await?
            && origin.source.as_ref() != Some(&asked)
            && !is_of_bundles(offers, &origin).await
        {
            return Ok(Some(lost(name, &origin)));
        }
    }
    if !names.is_empty() {
        return Ok(None);
    }
    // No name is left to tell where they had it from.
    let users = store.vms_of_image(id).await?;
    Ok((!users.is_empty()).then(|| {
        let mut failure = in_use(&format!("image {id}"), &users);
        let believed = format!("`banger image pull --force {entry}` takes the bundle's word for how it is run");
        failure.hints.insert(0, believed);
        failure
    }))
}

/// Whether what came from there would come as a bundle again: its word goes before that of no other one.
async fn is_of_bundles(offers: &ImageOffers, origin: &Origin) -> bool {
    let Some(Ok(name)) = origin.catalog().map(str::parse) else { return false };
    // What cannot be read now may say otherwise.
    let Ok(Some(entry)) = offers.find(&name).await else { return false };
    entry.sources.iter().all(|source| matches!(source, Ok(Source::Bundle(_))))
}
