//! Images that the catalogs offer, as the API shows them.

use super::{ImageService, catalogs::Snapshot};
use banger_artifacts::image::{CatalogEntry, Source};
use banger_proto::{
    api::artifact::{ImageCatalog, OfferedImage},
    failure::Failure,
    name::{ImageId, ImageName},
    size::ByteSize,
};
use std::collections::{BTreeMap, HashSet};

impl ImageService {
    /// Lists the image catalogs with what they offer, highest precedence first, and says which cannot be read.
    pub(crate) async fn image_catalogs(&self) -> Result<Vec<ImageCatalog>, Failure> {
        let named = self.store.image_names().await?.into_iter().collect();
        Ok(catalogs(self.image_offers.read().await, &named))
    }
}

fn catalogs(snapshot: Snapshot<CatalogEntry>, named: &BTreeMap<ImageName, ImageId>) -> Vec<ImageCatalog> {
    let mut seen = HashSet::new();
    let list = snapshot.into_iter().map(|(place, catalog)| {
        let failure = catalog.as_ref().err().cloned();
        let entries = catalog.iter().flat_map(|catalog| catalog.entries());
        let entries = entries.filter(|entry| entry.arch == std::env::consts::ARCH);
        let mut images: Vec<_> = entries.filter(|entry| seen.insert(entry.name.clone())).map(offered).collect();
        for image in &mut images {
            image.id = named.get(&image.name).cloned();
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        ImageCatalog { place, images, failure }
    });
    list.collect()
}

fn offered(entry: &CatalogEntry) -> OfferedImage {
    let usable = || entry.sources.iter().flatten();
    OfferedImage {
        name: entry.name.clone(),
        description: Some(entry.description.clone()).filter(|text| !text.is_empty()),
        kernel: entry.kernel.clone(),
        sources: usable().map(ToString::to_string).collect(),
        download: usable().find_map(|source| match source {
            Source::Bundle(bundle) => Some(ByteSize(bundle.size)),
            _ => None,
        }),
        id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_artifacts::image::Catalog;
    use banger_proto::{failure::Code, name::KernelName};
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn each_name_is_listed_where_a_pull_finds_it() {
        let catalog = |entries: &serde_json::Value| {
            let json = json!({"version": 1, "entries": entries}).to_string();
            Ok(Arc::new(Catalog::parse(json.as_bytes()).unwrap()))
        };
        let oci = |reference: &str| json!({"type": "oci", "ref": reference});
        let bundle =
            json!({"type": "bundle", "url": "https://x.example/b.tar.zst", "sha256": "0".repeat(64), "size": 7});
        let here = std::env::consts::ARCH;
        let above = catalog(&json!([
            {"name": "two", "arch": here, "kernel": "k-1", "sources": [{"type": "teleport"}, oci("two"), bundle]},
            {"name": "one", "arch": here, "description": "the first", "sources": [oci("one")]},
            {"name": "elsewhere", "arch": "vax", "sources": [oci("vax")]},
        ]));
        let below = catalog(&json!([
            {"name": "two", "arch": here, "sources": [oci("hidden")]},
            {"name": "three", "arch": here, "sources": [{"type": "teleport"}]},
        ]));
        let broken = Failure::new(Code::Unavailable, "no such file");
        let id: ImageId = "0123456789abcdef".parse().unwrap();
        let named = BTreeMap::from([("three".parse().unwrap(), id.clone())]);
        let snapshot = [("a", above), ("b", Err(broken.clone())), ("c", below)].map(|(place, it)| (place.into(), it));
        let listed = catalogs(snapshot.into(), &named);
        let names = |n: usize| listed[n].images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>();
        assert_eq!([names(0), names(1), names(2)], [vec!["one", "two"], vec![], vec!["three"]]);
        assert_eq!(listed.iter().map(|it| it.failure.clone()).collect::<Vec<_>>(), [None, Some(broken), None]);
        let [one, two] = &listed[0].images[..] else { panic!("{listed:?}") };
        assert_eq!((one.description.as_deref(), &one.id, one.download), (Some("the first"), &None, None));
        assert_eq!(two.sources, ["two", "https://x.example/b.tar.zst"], "in order, those that can be used");
        assert_eq!((two.kernel.as_ref().map(KernelName::as_str), two.download), (Some("k-1"), Some(ByteSize(7))));
        let three = &listed[2].images[0];
        assert_eq!((&three.id, three.sources.len()), (&Some(id), 0));
    }
}
