//! Resolves what is typed for an image: a name, a reference in any form, an id or a prefix of one.

use super::{ImageService, missing::lost};
use crate::store::Origin;
use banger_artifacts::oci::{ImageSource, Reference};
use banger_proto::{
    failure::Failure,
    name::{ImageId, ImageName},
};

impl ImageService {
    /// Returns the name an image is known by here: the familiar form of a reference, any other name as it is.
    pub(crate) async fn proper_name(&self, typed: &ImageName) -> Result<ImageName, Failure> {
        // Names and whole ids are resolved without a catalog, whose server may be down; a prefix of an id is not.
        if let Some((name, _)) = self.find_local(typed).await? {
            return Ok(name);
        }
        if file(typed.as_str()).is_some() {
            return Ok(typed.clone());
        }
        if self.image_offers.find(typed).await?.is_some() {
            return Ok(typed.clone());
        }
        Ok(familiar(typed.as_str()).unwrap_or_else(|| typed.clone()))
    }

    /// Returns the local name and the id of an existing image, damaged ones included. An id, or a prefix of exactly one
    /// id, means that image, which may have no name, unless it is also a name.
    pub(super) async fn find_local(&self, typed: &ImageName) -> Result<Option<(ImageName, ImageId)>, Failure> {
        if let Some(named) = self.find_named(typed).await? {
            return Ok(Some(named));
        }
        let begins_an_id = typed.as_str().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !begins_an_id {
            return Ok(None);
        }
        let found = self.find_by_prefix(typed.as_str()).await;
        let is_whole = matches!(&found, Ok(Some(id)) if id.as_str() == typed.as_str());
        // A prefix may also be a catalog's name; a whole id is never one by chance.
        if !matches!(found, Ok(None)) && !is_whole && self.image_offers.find(typed).await?.is_some() {
            return Ok(None);
        }
        let Some(id) = found? else { return Ok(None) };
        let whole = id.as_str().parse().expect("an id can be a name");
        Ok(Some((whole, id)))
    }

    /// Returns the local name as recorded, the id it points at and how it got the name, whether or not the image is
    /// here.
    pub(super) async fn recorded_name(
        &self,
        typed: &ImageName,
    ) -> Result<Option<(ImageName, ImageId, Origin)>, Failure> {
        let mut found = self.store.name_origin(typed).await?.map(|(id, origin)| (typed.clone(), id, origin));
        if found.is_none()
            && let Some(familiar) = familiar(typed.as_str())
        {
            found = self.store.name_origin(&familiar).await?.map(|(id, origin)| (familiar, id, origin));
        }
        Ok(found)
    }

    /// Returns the local name and the id of an image that is here. Fails for a name the user gave to an image that the
    /// disk has lost: a catalog or registry has another image under it. A name given by its source leads to the same
    /// image again, unless the source was a catalog that no longer has the name.
    pub(super) async fn find_named(&self, typed: &ImageName) -> Result<Option<(ImageName, ImageId)>, Failure> {
        let Some((name, id, origin)) = self.recorded_name(typed).await? else { return Ok(None) };
        if self.is_here(&id).await? {
            return Ok(Some((name, id)));
        }
        let leads_elsewhere =
            origin.chosen || (origin.catalog().is_some() && self.image_offers.find(&name).await?.is_none());
        if leads_elsewhere { Err(lost(&name, &origin)) } else { Ok(None) }
    }
}

/// File or directory of images that a text means by its prefix. No catalog, and no server of one, is asked about it.
pub(super) fn file(text: &str) -> Option<ImageSource> {
    text.parse().ok().filter(|source| !matches!(source, ImageSource::Registry(_)))
}

/// Familiar form of a reference; `None` if the text is not a reference.
pub(super) fn familiar(text: &str) -> Option<ImageName> {
    text.parse::<Reference>().ok()?.familiar().parse().ok()
}
