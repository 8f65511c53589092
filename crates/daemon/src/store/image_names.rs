//! The `image_names` table: which image a name means now. Images themselves are directories of the image store.

use super::{Store, StoreError};
use banger_artifacts::oci::Platform;
use banger_proto::name::{ImageId, ImageName};
use rusqlite::{OptionalExtension as _, params};
use std::fmt;

/// How an image came to a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// Where the image came from; `None` for what was made here.
    pub source: Option<String>,
    /// A person gave the name, rather than the image's source.
    pub chosen: bool,
    /// What leads to the very image, where the source alone may lead to another or to none.
    pub pinned: Option<Pinned>,
}

/// What leads to one image and no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// With a digest, where its source is a registry.
    pub reference: String,
    /// For which machines, where they are not of this host's kind.
    pub platform: Option<Platform>,
}

/// As it is written down: the reference, and the platform behind it where there is one.
impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reference)?;
        self.platform.as_ref().map_or(Ok(()), |platform| write!(f, " {platform}"))
    }
}

impl From<String> for Pinned {
    fn from(text: String) -> Self {
        // Only a file's reference may have a blank in it, and that is not pinned but for its platform.
        let parts = text.rsplit_once(' ').and_then(|(reference, platform)| Some((reference, platform.parse().ok()?)));
        match parts {
            Some((reference, platform)) => Self { reference: reference.to_owned(), platform: Some(platform) },
            None => Self { reference: text, platform: None },
        }
    }
}

/// What the source of a catalog's image begins with, before the entry's name.
const CATALOG: &str = "catalog ";

impl Origin {
    /// The source of what a catalog offers under this name.
    pub(crate) fn of_catalog(entry: &ImageName) -> String {
        format!("{CATALOG}{entry}")
    }

    /// The catalog's entry it came from, if it came from one.
    pub(crate) fn catalog(&self) -> Option<&str> {
        self.source.as_deref()?.strip_prefix(CATALOG)
    }
}

impl Store {
    /// Points `name` at an image, wherever it pointed before. What a person gave once to what comes from one source stays
    /// given while it comes from there.
    pub async fn name_image(&self, name: &ImageName, id: &ImageId, origin: Origin) -> Result<(), StoreError> {
        let (name, id) = (name.to_string(), id.to_string());
        let pinned = origin.pinned.map(|pinned| pinned.to_string());
        self.call(move |connection| {
            connection.execute(
                "INSERT INTO image_names (name, image_id, source, chosen, pinned) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id, source = excluded.source,
                     chosen = excluded.chosen OR (source IS excluded.source AND chosen), pinned = excluded.pinned",
                params![name, id, origin.source, origin.chosen, pinned],
            )?;
            Ok(())
        })
        .await
    }

    /// What `name` points at, and how that came to it; `None` when there is no such name.
    pub async fn name_origin(&self, name: &ImageName) -> Result<Option<(ImageId, Origin)>, StoreError> {
        let name = name.to_string();
        self.call(move |connection| {
            let row = connection
                .query_row("SELECT image_id, source, chosen, pinned FROM image_names WHERE name = ?1", [&name], |row| {
                    let pinned = row.get::<_, Option<String>>(3)?.map(Pinned::from);
                    let origin = Origin { source: row.get(1)?, chosen: row.get(2)?, pinned };
                    Ok((row.get::<_, String>(0)?, origin))
                })
                .optional()?;
            row.map(|(id, origin)| Ok((id.parse().map_err(|error| garbled(&name, error))?, origin))).transpose()
        })
        .await
    }

    /// Points every name of one image at another.
    pub async fn rename_image(&self, from: &ImageId, to: &ImageId) -> Result<(), StoreError> {
        let (from, to) = (from.to_string(), to.to_string());
        self.call(move |connection| {
            connection.execute("UPDATE image_names SET image_id = ?2 WHERE image_id = ?1", params![from, to])?;
            Ok(())
        })
        .await
    }

    /// What `name` points at.
    pub async fn image_named(&self, name: &ImageName) -> Result<Option<ImageId>, StoreError> {
        Ok(self.name_origin(name).await?.map(|(id, _)| id))
    }

    /// The names of one image, sorted.
    pub async fn names_of_image(&self, id: &ImageId) -> Result<Vec<ImageName>, StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            let mut query =
                connection.prepare_cached("SELECT name FROM image_names WHERE image_id = ?1 ORDER BY name")?;
            let rows = query.query_map([&id], |row| row.get::<_, String>(0))?;
            rows.map(|name| name?.parse().map_err(|source| garbled(&id, source))).collect()
        })
        .await
    }

    /// Every name with what it points at, sorted by name.
    pub async fn image_names(&self) -> Result<Vec<(ImageName, ImageId)>, StoreError> {
        self.call(|connection| {
            let mut query = connection.prepare_cached("SELECT name, image_id FROM image_names ORDER BY name")?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            rows.map(|row| {
                let (name, id) = row?;
                let id = id.parse().map_err(|source| garbled(&name, source))?;
                Ok((name.parse().map_err(|source| garbled(&name, source))?, id))
            })
            .collect()
        })
        .await
    }

    /// Forgets a name.
    pub async fn unname(&self, name: &ImageName) -> Result<(), StoreError> {
        let name = name.to_string();
        self.call(move |connection| {
            connection.execute("DELETE FROM image_names WHERE name = ?1", [name])?;
            Ok(())
        })
        .await
    }

    /// Forgets every name of an image.
    pub async fn unname_image(&self, id: &ImageId) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection.execute("DELETE FROM image_names WHERE image_id = ?1", [id])?;
            Ok(())
        })
        .await
    }
}

fn garbled(name: &str, source: banger_proto::name::InvalidName) -> StoreError {
    StoreError::Garbled { what: format!("image {name}"), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::{Origin, Pinned};
    use crate::store::tests::store;

    #[tokio::test]
    async fn a_name_moves_and_goes_with_its_image() {
        let (_temp, store) = store();
        let name = "alpine:3.20".parse().unwrap();
        let (old, new) = ("0".repeat(16).parse().unwrap(), "1".repeat(16).parse().unwrap());
        store.name_image(&name, &old, Origin::default()).await.unwrap();
        assert_eq!(store.name_origin(&name).await.unwrap(), Some((old.clone(), Origin::default())));
        let pulled = |source: &str, chosen: bool| {
            let pinned = chosen.then(|| Pinned { reference: format!("{source}@sha256:00"), platform: None });
            Origin { source: Some(source.into()), chosen, pinned }
        };
        for (given, found) in [
            (pulled("a:1", false), pulled("a:1", false)),
            (pulled("a:1", true), pulled("a:1", true)),
            (pulled("a:1", false), Origin { pinned: None, ..pulled("a:1", true) }),
            (pulled("b:1", false), pulled("b:1", false)),
        ] {
            store.name_image(&name, &new, given).await.unwrap();
            assert_eq!(store.name_origin(&name).await.unwrap(), Some((new.clone(), found)));
        }
        assert_eq!(store.image_named(&"none".parse().unwrap()).await.unwrap(), None);
        assert_eq!(store.image_named(&name).await.unwrap(), Some(new.clone()));
        let other = "also".parse().unwrap();
        store.name_image(&other, &new, Origin::default()).await.unwrap();
        assert_eq!(store.names_of_image(&new).await.unwrap(), [name.clone(), other.clone()]);
        assert_eq!(store.names_of_image(&old).await.unwrap(), []);
        store.unname(&other).await.unwrap();
        store.unname_image(&old).await.unwrap();
        assert_eq!(store.image_names().await.unwrap().len(), 1);
        store.unname_image(&new).await.unwrap();
        assert_eq!(store.image_named(&name).await.unwrap(), None);
    }

    #[test]
    fn what_is_pinned_is_read_as_it_was_written() {
        for (text, reference, platform) in [
            ("a.example/app:v1@sha256:00", "a.example/app:v1@sha256:00", None),
            ("a.example/app:v1@sha256:00 linux/arm/v7", "a.example/app:v1@sha256:00", Some("linux/arm/v7")),
            ("oci:/my layout:app linux/arm64", "oci:/my layout:app", Some("linux/arm64")),
        ] {
            let platform = platform.map(|platform: &str| platform.parse().unwrap());
            let pinned = Pinned { reference: reference.into(), platform };
            assert_eq!((pinned.to_string(), Pinned::from(text.to_owned())), (text.to_owned(), pinned));
        }
    }
}
