//! `manifest.json` of an image.
//!
//! It is written when the image is published. Later changes are: further sources, the recommended kernel, and metadata
//! that only came from a bundle, once the image's own source provides it. Fields that a later banger adds are ignored
//! when read.

use super::{ImageError, Source};
use crate::{
    failpoint,
    publish::{NameLock, Shelf},
};
use banger_proto::name::{ImageId, ImageName, KernelName};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{File, Permissions},
    io::{self, Read, Write as _},
    iter,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Version of the manifest's schema.
pub const FORMAT: u32 = 1;
/// Name of the file.
pub(super) const FILE: &str = "manifest.json";
/// Upper bound of a manifest, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;

/// Description of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// [`FORMAT`].
    pub version: u32,
    /// Identifies the content; also the directory's name.
    pub id: ImageId,
    /// Name under which it was built. Names move; the daemon knows their targets.
    pub name: ImageName,
    /// BLAKE3 of `rootfs.ext4`, `blake3:<hex>`; SHA-256, `sha256:<hex>`, for images of an earlier banger.
    pub digest: String,
    /// Source of the image.
    pub source: Source,
    /// Further sources of the same image, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Source>,
    /// Length of `rootfs.ext4` in bytes.
    pub size_bytes: u64,
    /// Number of files, directories and other entries.
    pub entries: u64,
    /// Time at which it was made here (RFC 3339, UTC, whole seconds).
    pub created_at: String,
    /// `PRETTY_NAME` of its os-release: untrusted text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Architecture, as printed by `uname -m`.
    pub arch: String,
    /// Path of its init in the guest, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Recommended kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    /// Whether a person chose that kernel, rather than the provider of the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kernel_chosen: bool,
    /// How its commands are run, if the image specifies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
}

/// How an image's commands are run: the content of an OCI image configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Words before the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Default command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
}

impl ImageConfig {
    /// Checks that a process can be run with these settings.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let Self { env, workdir, user, entrypoint, cmd } = self;
        let mut words = env.keys().chain(env.values()).chain(workdir).chain(user).chain(entrypoint).chain(cmd);
        if words.any(|word| word.contains('\0')) {
            return Err("a word of its environment or command has a zero byte");
        }
        if env.keys().any(|name| name.is_empty() || name.contains('=')) {
            return Err("its environment has a name that is none");
        }
        if workdir.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err("its working directory is not an absolute path");
        }
        Ok(())
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("cannot read it")]
    Io(#[from] io::Error),
    /// Larger than any manifest.
    #[error("it is larger than {} KiB", MAX_MANIFEST >> 10)]
    TooLarge,
    /// Not the JSON it should be.
    #[error("it is malformed")]
    Json(#[from] serde_json::Error),
    /// Its schema version is not supported.
    #[error("it has version {0}, not {FORMAT}")]
    Version(u32),
    /// It describes another image than the one in whose directory it is.
    #[error("it belongs to image {0}")]
    Id(ImageId),
}

impl ImageManifest {
    /// Reads the manifest in `directory`, which must be that of image `id`.
    pub(super) fn load(directory: &Path, id: &ImageId) -> Result<Self, ManifestError> {
        let mut bytes = Vec::new();
        File::open(directory.join(FILE))?.take(MAX_MANIFEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::TooLarge);
        }
        let manifest = Self::parse(&bytes)?;
        if manifest.id == *id { Ok(manifest) } else { Err(ManifestError::Id(manifest.id)) }
    }

    /// Parses a manifest.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        // The version first: another one may mean another shape.
        let Version { version } = serde_json::from_slice(bytes)?;
        if version != FORMAT {
            return Err(ManifestError::Version(version));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Writes the manifest into `directory`, where there is none.
    pub(super) fn write(&self, directory: &Path) -> Result<(), ImageError> {
        let path = directory.join(FILE);
        let json = self.readable()?;
        File::create_new(&path)
            .and_then(|mut file| {
                file.write_all(&json)?;
                file.set_permissions(Permissions::from_mode(0o444))
            })
            .map_err(ImageError::io("write", &path))
    }

    /// Writes the manifest into `directory`, which nobody else uses, replacing the one there.
    pub(super) fn write_over(&self, directory: &Path) -> Result<(), ImageError> {
        let path = directory.join(FILE);
        std::fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
        self.write(directory)
    }

    /// Replaces the manifest of the locked entry; readers always find a complete one.
    pub(super) fn rewrite(&self, shelf: &Shelf, entry: &NameLock) -> Result<(), ImageError> {
        let json = self.readable()?;
        let mut staged = shelf.stage_file()?;
        let written = staged.file_mut().write_all(&json);
        let read_only = Permissions::from_mode(0o444);
        written
            .and_then(|()| staged.file().set_permissions(read_only))
            .map_err(ImageError::io("write", staged.path()))?;
        failpoint::hit_and_block("manifest.staged");
        Ok(shelf.publish_within(staged, entry, FILE)?)
    }

    /// Formats the manifest, and checks that it can be read again: otherwise the image would be damaged.
    fn readable(&self) -> Result<Vec<u8>, ImageError> {
        let json = self.to_json();
        let unfit = |source| ImageError::Manifest { name: self.name.clone(), source };
        if json.len() as u64 > MAX_MANIFEST {
            return Err(unfit(ManifestError::TooLarge));
        }
        Self::parse(&json).map_err(unfit)?;
        Ok(json)
    }

    /// Drops further sources, the oldest first, until the manifest can be read again.
    pub(super) fn fit(&mut self) {
        while !self.also.is_empty() && self.to_json().len() as u64 > MAX_MANIFEST {
            self.also.remove(0);
        }
    }

    /// Returns all known sources.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Source> {
        iter::once(&self.source).chain(&self.also)
    }

    /// Formats the manifest as indented JSON.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("a manifest holds nothing JSON cannot");
        json.push(b'\n');
        json
    }
}

/// Extracts `PRETTY_NAME` from the text of an os-release file, if it is fit to be shown: one line of at most 128
/// characters.
pub(super) fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    let quote = value.chars().next().filter(|first| ['"', '\''].contains(first));
    let value = match quote {
        Some(quote) => value.strip_prefix(quote)?.strip_suffix(quote)?,
        None => value,
    };
    shown(&value.replace('\\', ""))
}

/// Returns the text as one line of at most 128 characters, if it has any.
pub(super) fn shown(text: &str) -> Option<String> {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(128).collect();
    (!shown.is_empty()).then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::DebianRecipe;

    fn manifest() -> ImageManifest {
        ImageManifest {
            version: FORMAT,
            id: "0123456789abcdef".parse().unwrap(),
            name: "debian-bookworm".parse().unwrap(),
            digest: "sha256:0123456789abcdef00".into(),
            source: Source::Mmdebstrap(DebianRecipe::new("bookworm", vec!["git".into()]).unwrap()),
            also: Vec::new(),
            size_bytes: 4096,
            entries: 1,
            created_at: "2026-11-23T14:45:23Z".into(),
            os: Some("Debian GNU/Linux 12 (bookworm)".into()),
            arch: "x86_64".into(),
            init: Some("/sbin/init".into()),
            kernel: Some("debian-6.1".parse().unwrap()),
            kernel_chosen: false,
            config: None,
        }
    }

    #[test]
    fn what_else_it_comes_from_makes_it_no_larger_than_what_is_read() {
        let mut manifest = manifest();
        manifest.fit();
        let bundle = |n: usize| {
            let url = format!("https://example.org/{n}-{}", "x".repeat(64 << 10));
            Source::Bundle(crate::image::BundleSource { url, sha256: String::new(), size: 1 })
        };
        manifest.also = (0..20).map(bundle).collect();
        manifest.fit();
        assert!(manifest.to_json().len() as u64 <= MAX_MANIFEST);
        assert!(manifest.also.len() > 10 && manifest.also.last() == Some(&bundle(19)), "the oldest go");
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = manifest();
        manifest.os = Some("x".repeat(1 << 20));
        let refused = manifest.write(dir.path()).unwrap_err();
        assert!(matches!(refused, ImageError::Manifest { source: ManifestError::TooLarge, .. }), "{refused:?}");
        let platform = crate::oci::Platform { os: "linux".into(), architecture: "a-b".into(), variant: None };
        let (reference, digest) = ("x".to_owned(), None);
        manifest.source = Source::Oci(crate::image::OciSource { reference, digest, platform: Some(platform) });
        manifest.os = None;
        let refused = manifest.write(dir.path()).unwrap_err();
        assert!(matches!(refused, ImageError::Manifest { source: ManifestError::Json(_), .. }), "{refused:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_no_process_can_be_run_like() {
        let env = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let good = ImageConfig { env: env("A", "b=c"), workdir: Some("/srv".into()), ..ImageConfig::default() };
        assert_eq!(good.check(), Ok(()));
        for bad in [
            ImageConfig { env: env("A", "\0"), ..good.clone() },
            ImageConfig { env: env("", "x"), ..good.clone() },
            ImageConfig { env: env("A=B", "x"), ..good.clone() },
            ImageConfig { cmd: vec!["a\0".into()], ..good.clone() },
            ImageConfig { workdir: Some("srv".into()), ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_format_is_stable() {
        insta::assert_snapshot!(String::from_utf8(manifest().to_json()).unwrap(), @r#"
        {
          "version": 1,
          "id": "0123456789abcdef",
          "name": "debian-bookworm",
          "digest": "sha256:0123456789abcdef00",
          "source": {
            "type": "mmdebstrap",
            "suite": "bookworm",
            "include": [
              "git"
            ],
            "epoch": 1686355200
          },
          "size_bytes": 4096,
          "entries": 1,
          "created_at": "2026-11-23T14:45:23Z",
          "os": "Debian GNU/Linux 12 (bookworm)",
          "arch": "x86_64",
          "init": "/sbin/init",
          "kernel": "debian-6.1"
        }
        "#);
    }

    #[test]
    fn what_is_written_is_read_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let load = |id: &str| ImageManifest::load(dir.path(), &id.parse().unwrap());
        let write = |text: &[u8]| std::fs::write(dir.path().join(FILE), text).unwrap();
        assert!(matches!(load("0123456789abcdef"), Err(ManifestError::Io(_))));
        write(&manifest().to_json());
        assert_eq!(load("0123456789abcdef").unwrap(), manifest());
        assert!(matches!(load("ffffffffffffffff"), Err(ManifestError::Id(_))));
        write(br#"{"version": 2, "other": "shape"}"#);
        assert!(matches!(load("0123456789abcdef"), Err(ManifestError::Version(2))));
        write(b"{");
        assert!(matches!(load("0123456789abcdef"), Err(ManifestError::Json(_))));
        write(&vec![b' '; (1 << 20) + 1]);
        assert!(matches!(load("0123456789abcdef"), Err(ManifestError::TooLarge)));
    }

    #[test]
    fn pretty_names() {
        for (text, name) in [
            ("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n", Some("Debian GNU/Linux 12 (bookworm)")),
            ("PRETTY_NAME='It'", Some("It")),
            ("PRETTY_NAME=Alpine", Some("Alpine")),
            ("PRETTY_NAME=\"\u{1b}[31mred\"", Some("[31mred")),
            ("PRETTY_NAME=\"", None),
            ("PRETTY_NAME=", None),
            ("ID=x", None),
        ] {
            assert_eq!(pretty_name(text).as_deref(), name, "{text:?}");
        }
    }
}
