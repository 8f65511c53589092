//! `manifest.json` of a kernel on this host.
//!
//! It is written once, when the kernel is published, with a hash over itself: a manifest that was changed is invalid.
//! Unknown fields are kept when it is read, so that a newer banger can add some. Everything read is checked like any
//! other input, because paths are made from it.

use banger_proto::name::KernelName;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Component, Path},
};

/// Name of the file.
pub(super) const FILE: &str = "manifest.json";
/// Name of the field with the hash over all other fields.
const SEAL: &str = "manifest_sha256";
/// Upper bound of a manifest, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;
/// Upper bound of modules loaded before there are disks.
const MAX_BOOT_MODULES: usize = 256;

/// Description of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    /// Name of the kernel and of its directory.
    pub name: KernelName,
    /// Distribution that makes it: `debian`, `generic`, `unknown`.
    pub distro: String,
    /// Architecture, as printed by `uname -m`.
    pub arch: String,
    /// Output of `uname -r` in the guest; its modules are in `/lib/modules/<this>`.
    pub kernel_version: String,
    /// SHA-256 of `vmlinux`, hexadecimal.
    pub sha256: String,
    /// SHA-256 over names and contents of `vmlinux`, `initrd.img` and `modules/`, hexadecimal.
    pub tree_sha256: String,
    /// SHA-256 of `modules.ext4`, hexadecimal, if it exists. Kernels of an earlier banger have a `modules.ext4` without
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules_image_sha256: Option<String>,
    /// Source of the kernel.
    pub source: Provenance,
    /// Time of the import (RFC 3339, UTC, whole seconds).
    pub imported_at: String,
    /// Modules a guest loads before it has disks, in this order; paths below `modules/`.
    pub boot_modules: Vec<String>,
    /// Drivers a guest needs that are neither built in nor modules: a VMM that relies on one cannot use the kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_drivers: Vec<String>,
    /// How it can be booted.
    pub boots: Boots,
}

/// How a kernel can be booted. A VMM that needs a property that is false refuses the kernel with that reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boots {
    /// It has a PVH entry: QEMU starts the ELF directly.
    pub pvh: bool,
    /// It finds devices through ACPI tables.
    pub acpi: bool,
    /// It takes virtio-mmio devices from its command line.
    pub mmio_cmdline: bool,
    /// Ticks of its timer in a second (`CONFIG_HZ`), when that is known: what a delay loop is counted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hz: Option<u32>,
}

/// Source of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Provenance {
    /// A package downloaded and verified by the host's apt.
    Apt {
        /// The package with the kernel (not the meta-package).
        package: String,
        /// Its version.
        version: String,
        /// SHA-256 of the package file, hexadecimal.
        sha256: String,
    },
    /// A bundle whose hash is in a catalog.
    Bundle {
        /// Address it was downloaded from.
        url: String,
        /// SHA-256 of the bundle, hexadecimal.
        sha256: String,
    },
    /// A package file given by the user.
    Deb {
        /// Its path when it was imported.
        path: String,
        /// The package's name.
        package: String,
        /// Its version.
        version: String,
    },
    /// A directory given by the user.
    Directory {
        /// Its path when it was imported.
        path: String,
    },
    /// A kernel file given by the user.
    File {
        /// Its path when it was imported.
        path: String,
    },
    /// A source only a newer banger knows.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apt { package, version, .. } => write!(f, "apt {package} {version}"),
            Self::Bundle { url, .. } => write!(f, "bundle {}", url.escape_debug()),
            Self::Deb { path, package, version } => write!(f, "deb {package} {version} ({})", path.escape_debug()),
            Self::Directory { path } => write!(f, "directory {}", path.escape_debug()),
            Self::File { path } => write!(f, "file {}", path.escape_debug()),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It could not be read.
    #[error("cannot read {FILE}")]
    Io(#[from] io::Error),
    /// It is not the JSON it should be.
    #[error("{FILE} is malformed")]
    Json(#[from] serde_json::Error),
    /// It exceeds the size limit.
    #[error("{FILE} is larger than {MAX_MANIFEST} bytes")]
    TooLarge,
    /// It was changed after it was written.
    #[error("{FILE} was changed: it has SHA-256 {found}, and says {stated}")]
    Changed {
        /// Hash it states.
        stated: String,
        /// Actual hash of the other fields.
        found: String,
    },
    /// Its hash over itself was removed.
    #[error("{FILE} has no {SEAL}, which every one with a hash of the modules' image has")]
    Unsealed,
    /// A field has an unsafe or wrong value.
    #[error("{FILE} has a bad {field}: {value:?}")]
    Value {
        /// The field.
        field: &'static str,
        /// The value, cut.
        value: String,
    },
}

impl KernelManifest {
    /// Reads and checks the manifest of the kernel `name` in `directory`.
    pub fn read(directory: &Path, name: &KernelName) -> Result<Self, ManifestError> {
        let mut text = Vec::new();
        File::open(directory.join(FILE))?.take(MAX_MANIFEST + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::TooLarge);
        }
        let mut json: serde_json::Value = serde_json::from_slice(&text)?;
        let seal_of = json.as_object_mut().and_then(|fields| fields.remove(SEAL));
        let sealed = seal_of.is_some();
        if let Some(stated) = seal_of {
            let (stated, found) = (stated.as_str().unwrap_or_default().chars().take(80).collect(), seal(&json));
            if found != stated {
                return Err(ManifestError::Changed { stated, found });
            }
        }
        let manifest: Self = serde_json::from_value(json)?;
        manifest.check(name)?;
        // Manifests of an earlier banger have neither field; both were added in one release.
        if !sealed && manifest.modules_image_sha256.is_some() {
            return Err(ManifestError::Unsealed);
        }
        Ok(manifest)
    }

    /// Formats the manifest for its file; the same manifest gives the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        const PLAIN: &str = "strings and booleans become JSON";
        #[derive(Serialize)]
        struct Sealed<'a> {
            #[serde(flatten)]
            manifest: &'a KernelManifest,
            manifest_sha256: String,
        }
        let manifest_sha256 = seal(&serde_json::to_value(self).expect(PLAIN));
        let mut text = serde_json::to_vec_pretty(&Sealed { manifest: self, manifest_sha256 }).expect(PLAIN);
        text.push(b'\n');
        text
    }

    fn check(&self, name: &KernelName) -> Result<(), ManifestError> {
        let bad = |field, value: &str| Err(ManifestError::Value { field, value: value.chars().take(80).collect() });
        if self.name != *name {
            return bad("name", self.name.as_str());
        }
        if !is_release(&self.kernel_version) {
            return bad("kernel_version", &self.kernel_version);
        }
        let image = self.modules_image_sha256.as_ref().map(|hash| ("modules_image_sha256", hash));
        for (field, hash) in [("sha256", &self.sha256), ("tree_sha256", &self.tree_sha256)].into_iter().chain(image) {
            if hash.len() != 64 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return bad(field, hash);
            }
        }
        if self.boot_modules.len() > MAX_BOOT_MODULES {
            return bad("boot_modules", &format!("{} modules", self.boot_modules.len()));
        }
        for module in &self.boot_modules {
            let plain = Path::new(module).components().all(|part| matches!(part, Component::Normal(_)));
            if module.is_empty() || module.len() > 4096 || !plain {
                return bad("boot_modules", module);
            }
        }
        Ok(())
    }
}

/// Computes the SHA-256 over a manifest without its hash field, independent of its layout.
fn seal(manifest: &serde_json::Value) -> String {
    HEXLOWER.encode(&Sha256::digest(manifest.to_string()))
}

/// Whether `text` is possible output of `uname -r` and a safe directory name.
pub(super) fn is_release(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+~-".contains(&b))
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> KernelManifest {
        KernelManifest {
            name: "debian-6.1".parse().unwrap(),
            distro: "debian".into(),
            arch: "x86_64".into(),
            kernel_version: "6.1.0-56-cloud-amd64".into(),
            sha256: "0".repeat(64),
            tree_sha256: "a".repeat(64),
            modules_image_sha256: Some("b".repeat(64)),
            source: Provenance::Apt {
                package: "linux-image-6.1.0-56-cloud-amd64".into(),
                version: "6.1.192-2".into(),
                sha256: "f".repeat(64),
            },
            imported_at: "2026-11-23T14:45:23Z".into(),
            boot_modules: vec!["kernel/drivers/virtio/virtio.ko".into()],
            missing_drivers: vec![],
            boots: Boots { pvh: true, acpi: true, mmio_cmdline: false, hz: None },
        }
    }

    fn read(text: &[u8]) -> Result<KernelManifest, ManifestError> {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(FILE), text).unwrap();
        KernelManifest::read(temp.path(), &"debian-6.1".parse().unwrap())
    }

    #[test]
    fn the_file_is_stable() {
        insta::assert_snapshot!(String::from_utf8(sample().to_json()).unwrap(), @r#"
        {
          "name": "debian-6.1",
          "distro": "debian",
          "arch": "x86_64",
          "kernel_version": "6.1.0-56-cloud-amd64",
          "sha256": "0000000000000000000000000000000000000000000000000000000000000000",
          "tree_sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
          "modules_image_sha256": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
          "source": {
            "type": "apt",
            "package": "linux-image-6.1.0-56-cloud-amd64",
            "version": "6.1.192-2",
            "sha256": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
          },
          "imported_at": "2026-11-23T14:45:23Z",
          "boot_modules": [
            "kernel/drivers/virtio/virtio.ko"
          ],
          "boots": {
            "pvh": true,
            "acpi": true,
            "mmio_cmdline": false
          },
          "manifest_sha256": "3c429cae8d631a66e8e7d25fb6ee7985f8874c082d2144ddbfed628e3749d0bf"
        }
        "#);
        assert_eq!(read(&sample().to_json()).unwrap(), sample());
    }

    #[test]
    fn a_changed_one_is_noticed_and_one_of_an_earlier_banger_is_read() {
        let whole: serde_json::Value = serde_json::from_slice(&sample().to_json()).unwrap();
        for (field, value) in [
            ("boots", serde_json::json!({"pvh": true, "acpi": false, "mmio_cmdline": true})),
            ("boot_modules", serde_json::json!([])),
            ("missing_drivers", serde_json::json!(["vmw_vsock_virtio_transport"])),
            ("kernel_version", "6.1.0".into()),
            ("added", true.into()),
            (SEAL, "f".repeat(64).into()),
            (SEAL, 7.into()),
        ] {
            let mut json = whole.clone();
            json[field] = value;
            let error = read(&serde_json::to_vec(&json).unwrap()).unwrap_err();
            assert!(matches!(error, ManifestError::Changed { .. }), "{field}: {error}");
        }
        assert_eq!(read(&serde_json::to_vec(&whole).unwrap()).unwrap(), sample(), "laid out another way");
        let mut unsealed = whole.clone();
        unsealed.as_object_mut().unwrap().remove(SEAL);
        let error = read(&serde_json::to_vec(&unsealed).unwrap()).unwrap_err();
        assert!(matches!(error, ManifestError::Unsealed), "{error}");
        let mut earlier = whole;
        earlier.as_object_mut().unwrap().retain(|field, _| field != SEAL && field != "modules_image_sha256");
        assert_eq!(read(&serde_json::to_vec(&earlier).unwrap()).unwrap().modules_image_sha256, None);
    }

    #[test]
    fn additions_of_a_newer_banger_are_read_over() {
        let mut json = serde_json::to_value(sample()).unwrap();
        json["signed_by"] = "someone".into();
        json["source"] = serde_json::json!({"type": "carrier-pigeon", "url": "https://example.org"});
        let stated = seal(&json);
        json[SEAL] = stated.into();
        let read = read(&serde_json::to_vec(&json).unwrap()).unwrap();
        assert_eq!(read.source, Provenance::Unknown);
        assert_eq!(read.boots, sample().boots);
    }

    #[test]
    fn a_manifest_cannot_name_files_outside() {
        for (field, value) in [
            ("name", "other-6.1".into()),
            ("kernel_version", "../../etc".into()),
            ("kernel_version", "".into()),
            ("sha256", "zz".into()),
            ("modules_image_sha256", "zz".into()),
            ("boot_modules", serde_json::json!(["/etc/passwd"])),
            ("boot_modules", serde_json::json!(["a/../../b.ko"])),
            ("boot_modules", serde_json::json!([""])),
            ("boot_modules", serde_json::json!(vec!["a.ko"; 300])),
        ] {
            let mut json = serde_json::to_value(sample()).unwrap();
            json[field] = value;
            let error = read(&serde_json::to_vec(&json).unwrap()).unwrap_err();
            assert!(error.to_string().starts_with(&format!("manifest.json has a bad {field}: ")), "{error}");
        }
        assert!(matches!(read(b"{").unwrap_err(), ManifestError::Json(_)));
        assert!(matches!(read(&vec![b' '; 2 << 20]).unwrap_err(), ManifestError::TooLarge));
    }
}
