//! Table `[[file_sync]]`: a user's file that every VM gets a copy of.

use serde::{Deserialize, Serialize, de};
use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

/// Longest path in a guest, in bytes.
const MAX_PATH: usize = 4000;

/// One file of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSync {
    /// Path below the user's home; written as `~/…`.
    #[serde(serialize_with = "below_home")]
    pub host: PathBuf,
    /// Absolute path in the guest.
    pub guest: String,
    /// Permission bits, in octal.
    #[serde(serialize_with = "octal")]
    pub mode: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    host: String,
    guest: String,
    #[serde(default)]
    mode: Option<String>,
}

impl<'de> Deserialize<'de> for FileSync {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let Typed { host, guest, mode } = Typed::deserialize(input)?;
        let wrong = |message: String| Err(de::Error::custom(message));
        // Only a file in the user's home, by a path that does not climb out of it.
        let below = host.strip_prefix("~/").map(PathBuf::from).filter(|below| is_plain(below));
        let Some(below) = below else {
            return wrong(format!("file_sync copies files of your home only: write ~/…, not {host:?}"));
        };
        let guest = guest.strip_prefix("~/").map_or(guest.clone(), |below| format!("/root/{below}"));
        let inside = guest.strip_prefix('/').is_some_and(|inside| is_plain(Path::new(inside)));
        if !inside || guest.ends_with('/') || guest.len() > MAX_PATH || guest.contains('\0') {
            return wrong(format!("write the absolute path of the file in the guest, not {guest:?}"));
        }
        let mode = match mode.as_deref() {
            None => 0o600,
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o777 => mode,
                _ => return wrong(format!("{text:?} is no mode such as \"0600\"")),
            },
        };
        Ok(Self { host: below, guest, mode })
    }
}

/// Whether a path has only normal components: no `..`, no root, and not empty.
fn is_plain(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

fn below_home<S: serde::Serializer>(path: &Path, output: S) -> Result<S::Ok, S::Error> {
    output.serialize_str(&format!("~/{}", path.display()))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn octal<S: serde::Serializer>(mode: &u32, output: S) -> Result<S::Ok, S::Error> {
    output.serialize_str(&format!("{mode:04o}"))
}

impl fmt::Display for FileSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "~/{}", self.host.display())
    }
}
