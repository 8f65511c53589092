//! Location of a further catalog: `url` or `path` in a `[[…_catalog]]` table.

use banger_artifacts::fetch::Address;
use serde::{Deserialize, Serialize, Serializer, de};
use std::{fmt, path::PathBuf};

/// Location of a further catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogLocation {
    /// Address on a web server: `https://`, or `http://` to this host.
    Url(Address),
    /// Path of a file, read anew each time.
    Path(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    url: Option<String>,
    path: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for CatalogLocation {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        match Typed::deserialize(input)? {
            Typed { url: Some(url), path: None } => match url.parse() {
                Ok(address) => Ok(Self::Url(address)),
                Err(why) => Err(de::Error::custom(format!("the catalog's url {url:?} cannot be used: {why}"))),
            },
            // A relative path would mean another file in every directory the daemon is started from.
            Typed { url: None, path: Some(path) } if !path.is_absolute() => {
                Err(de::Error::custom(format!("write the absolute path of the catalog, not {}", path.display())))
            }
            Typed { url: None, path: Some(path) } => Ok(Self::Path(path)),
            _ => Err(de::Error::custom("a catalog has either a `url` or a `path`")),
        }
    }
}

/// The same table as in the file.
impl Serialize for CatalogLocation {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        let (key, value) = match self {
            Self::Url(_) => ("url", self.to_string()),
            Self::Path(_) => ("path", self.to_string()),
        };
        output.collect_map([(key, value)])
    }
}

impl fmt::Display for CatalogLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(address) => address.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}
