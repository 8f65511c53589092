//! The `image_names` table: the image that each name points at. Images themselves are directories in the image store.

use super::{Store, StoreError};
use banger_artifacts::oci::Platform;
use banger_proto::name::{ImageId, ImageName};
use rusqlite::{OptionalExtension as _, params};
use std::fmt;

/// Origin of a name: how it came to point at its image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// Source of the image; `None` for an image made on this host.
    pub source: Option<String>,
    /// Whether a user chose the name, and not the image's source.
    pub chosen: bool,
    /// Reference to exactly this image, where the source alone may lead to another image or to none.
    pub pinned: Option<Pinned>,
}

/// Reference to exactly one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The reference, with a digest if the source is a registry.
    pub reference: String,
    /// Platform of the image, if it is not this host's.
    pub platform: Option<Platform>,
}

/// Formats the value as it is stored: the reference, and the platform if there is one.
impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reference)?;
        self.platform.as_ref().map_or(Ok(()), |platform| write!(f, " {platform}"))
    }
}

impl From<String> for Pinned {
    fn from(text: String) -> Self {
        // Only a file's reference may contain a space, and it is pinned only for its platform.
        let parts = text.rsplit_once(' ').and_then(|(reference, platform)| Some((reference, platform.parse().ok()?)));
        match parts {
            Some((reference, platform)) => Self { reference: reference.to_owned(), platform: Some(platform) },
            None => Self { reference: text, platform: None },
        }
    }
}

/// Prefix of the source of a catalog's image; the entry's name follows.
const CATALOG: &str = "catalog ";

impl Origin {
    /// Returns the source of a catalog's entry.
    pub(crate) fn of_catalog(entry: &ImageName) -> String {
        format!("{CATALOG}{entry}")
    }

    /// Returns the name of the catalog's entry that the image came from, if it came from a catalog.
    pub(crate) fn catalog(&self) -> Option<&str> {
        self.source.as_deref()?.strip_prefix(CATALOG)
    }
}

impl Store {
    /// Points `name` at an image, wherever it pointed before. A name that a user chose remains chosen as long as the
    /// source stays the same.
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

    /// Returns the image that `name` points at and the name's origin.
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

    /// Points every name of one image at another image.
    pub async fn rename_image(&self, from: &ImageId, to: &ImageId) -> Result<(), StoreError> {
        let (from, to) = (from.to_string(), to.to_string());
        self.call(move |connection| {
            connection.execute("UPDATE image_names SET image_id = ?2 WHERE image_id = ?1", params![from, to])?;
            Ok(())
        })
        .await
    }

    /// Returns the image that `name` points at.
    pub async fn image_named(&self, name: &ImageName) -> Result<Option<ImageId>, StoreError> {
        Ok(self.name_origin(name).await?.map(|(id, _)| id))
    }

    /// Lists the names of one image, sorted.
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

    /// Lists all names with their images, sorted by name.
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

    /// Deletes a name.
    pub async fn unname(&self, name: &ImageName) -> Result<(), StoreError> {
        let name = name.to_string();
        self.call(move |connection| {
            connection.execute("DELETE FROM image_names WHERE name = ?1", [name])?;
            Ok(())
        })
        .await
    }

    /// Deletes all names of an image.
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
