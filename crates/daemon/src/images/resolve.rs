//! What a text means that is typed for an image here: a name, a reference in whatever form, an id or the beginning of one.

use super::{ImageService, missing::lost};
use crate::store::Origin;
use banger_artifacts::oci::Reference;
use banger_proto::{
    failure::Failure,
    name::{ImageId, ImageName},
};

impl ImageService {
    /// The name an image is known by here: a reference in its familiar form, any other name as it is.
    pub(crate) async fn proper_name(&self, typed: &ImageName) -> Result<ImageName, Failure> {
        // What has a name or an id here is known without a catalog, whose server may be down; an id's beginning is not.
        if let Some((name, _)) = self.known(typed).await? {
            return Ok(name);
        }
        if self.image_offers.find(typed).await?.is_some() {
            return Ok(typed.clone());
        }
        Ok(familiar(typed.as_str()).unwrap_or_else(|| typed.clone()))
    }

    /// What was typed as it is known here, and the id it means, where something is there: a damaged image is, too. An id, or
    /// what begins the id of one image only, means that image, which may have no name, unless it is a name too.
    pub(super) async fn known(&self, typed: &ImageName) -> Result<Option<(ImageName, ImageId)>, Failure> {
        if let Some(named) = self.named_or_lost(typed).await? {
            return Ok(Some(named));
        }
        let begins_an_id = typed.as_str().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !begins_an_id {
            return Ok(None);
        }
        let found = self.of_prefix(typed.as_str()).await;
        let is_whole = matches!(&found, Ok(Some(id)) if id.as_str() == typed.as_str());
        // A name that is nobody's here may be a catalog's; a whole id is no chance.
        if !matches!(found, Ok(None)) && !is_whole && self.image_offers.find(typed).await?.is_some() {
            return Ok(None);
        }
        let Some(id) = found? else { return Ok(None) };
        let whole = id.as_str().parse().expect("an id can be a name");
        Ok(Some((whole, id)))
    }

    /// The name as it is known here, whether or not anything is there, the id it points at, and how it came to the name.
    pub(super) async fn noted(&self, typed: &ImageName) -> Result<Option<(ImageName, ImageId, Origin)>, Failure> {
        let mut found = self.store.name_origin(typed).await?.map(|(id, origin)| (typed.clone(), id, origin));
        if found.is_none()
            && let Some(familiar) = familiar(typed.as_str())
        {
            found = self.store.name_origin(&familiar).await?.map(|(id, origin)| (familiar, id, origin));
        }
        Ok(found)
    }

    /// The name as it is known here, and the id it points at, where something is there. Fails for a name that a person gave
    /// to an image the disk has lost: whatever a catalog or a registry has under it is somebody else's. A name that its
    /// source gave leads to the same image again, unless that was a catalog which has no such name any more.
    pub(super) async fn named_or_lost(&self, typed: &ImageName) -> Result<Option<(ImageName, ImageId)>, Failure> {
        let Some((name, id, origin)) = self.noted(typed).await? else { return Ok(None) };
        if self.is_here(&id).await? {
            return Ok(Some((name, id)));
        }
        let leads_elsewhere =
            origin.chosen || (origin.catalog().is_some() && self.image_offers.find(&name).await?.is_none());
        if leads_elsewhere { Err(lost(&name, &origin)) } else { Ok(None) }
    }
}

/// A reference's familiar form; `None` for what is none.
pub(super) fn familiar(text: &str) -> Option<ImageName> {
    text.parse::<Reference>().ok()?.familiar().parse().ok()
}
