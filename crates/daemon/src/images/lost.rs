//! Images that the disk has lost, and that names and VMs rely on still: what brings one back.

use super::ImageService;
use crate::store::Origin;
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
    let called = if origin.chosen { format!(" --name {name}") } else { String::new() };
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
