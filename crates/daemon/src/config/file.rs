//! `config.toml` as typed: every key is optional, an unknown key is refused with its line.

use super::Uplink;
use super::{FileSync, LogLevel, catalog_location::CatalogLocation};
use banger_proto::{
    agent::boot::Init,
    api::vm::{MAX_DISK, MAX_VCPU, MIN_DISK, MIN_MEMORY, VmmChoice},
    helper::ALL_PREFIX,
    name::{ImageName, KernelName},
    network::{Cidr, PRIVATE, Rule},
    size::ByteSize,
    span::Span,
};
use serde::{Deserialize, Deserializer, de};
use std::{
    fmt, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Largest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Smallest and largest cap of a console log.
const CONSOLE_CAP: (ByteSize, ByteSize) = (ByteSize(64 << 10), ByteSize::gib(1));

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file exists and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file is not a configuration. The source's text has line and column.
    #[error("{} is not a valid configuration", path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Error with its position.
        source: Box<toml::de::Error>,
    },
    /// An environment variable has an invalid value.
    #[error("{variable}: {rule}")]
    Env {
        /// Name of the variable.
        variable: &'static str,
        /// Rule the value violates.
        rule: String,
    },
}

/// Content of `config.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Level of the log: `off`, `error`, `warn`, `info`, `debug` or `trace`.
    #[serde(deserialize_with = "word")]
    pub log_level: Option<LogLevel>,
    /// Image of a VM that names none.
    pub default_image: Option<ImageName>,
    /// Kernel of a VM that names none and whose image recommends none.
    pub default_kernel: Option<KernelName>,
    /// VMM: `auto`, `firecracker` or `qemu`.
    pub vmm: Option<VmmChoice>,
    /// Absolute path of QEMU.
    #[serde(deserialize_with = "program")]
    pub qemu_bin: Option<PathBuf>,
    /// How long a VM may be unused before it is stopped, at least a second; or `off`.
    #[serde(deserialize_with = "auto_stop")]
    pub auto_stop_after: Option<Option<Span>>,
    /// Absolute path of Firecracker.
    #[serde(deserialize_with = "program")]
    pub firecracker_bin: Option<PathBuf>,
    /// Largest console log of one VM, 64 KiB to 1 GiB.
    #[serde(deserialize_with = "console_cap")]
    pub console_cap: Option<ByteSize>,
    /// Defaults of VMs.
    pub vm_defaults: VmDefaults,
    /// Network of the VMs.
    pub network: Network,
    /// Further catalogs of kernels; a later one takes precedence over an earlier one, and all over the built-in one.
    pub kernel_catalog: Option<Vec<CatalogLocation>>,
    /// Further catalogs of images, each a `url` or a `path`.
    pub image_catalog: Option<Vec<CatalogLocation>>,
    /// Limits of images from registries and archives.
    pub oci: Oci,
    /// Files of the user that every VM gets.
    pub file_sync: Option<Vec<FileSync>>,
}

/// Table `[oci]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Oci {
    /// Most layers.
    pub max_layers: Option<std::num::NonZeroU32>,
    /// Most bytes all layers may unpack to.
    #[serde(deserialize_with = "unpacked")]
    pub max_unpacked: Option<ByteSize>,
    /// Largest factor by which a layer may grow when unpacked.
    pub max_ratio: Option<std::num::NonZeroU32>,
    /// Most entries in all layers.
    pub max_entries: Option<std::num::NonZeroU32>,
}

/// Table `[vm_defaults]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VmDefaults {
    /// Number of virtual processors, 1 to 32.
    #[serde(deserialize_with = "vcpu")]
    pub vcpu: Option<u32>,
    /// Guest memory, at least 128 MiB.
    #[serde(deserialize_with = "memory")]
    pub memory: Option<ByteSize>,
    /// Size of the work disk, 64 MiB to 1 TiB.
    #[serde(deserialize_with = "disk")]
    pub disk_size: Option<ByteSize>,
    /// Which program is PID 1: `auto`, `image` or `agent`.
    pub init: Option<Init>,
    /// Whether the public internet is open.
    pub nat: Option<bool>,
}

/// Table `[network]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// `auto`, `none` (VMs reach each other at most) or `off` (no NICs).
    #[serde(deserialize_with = "uplink")]
    pub uplink: Option<Uplink>,
    /// Block of private addresses for VMs: a /16.
    #[serde(deserialize_with = "block")]
    pub cidr: Option<Cidr>,
    /// Resolvers to ask instead of the host's.
    pub dns: Option<Vec<Ipv4Addr>>,
    /// Destinations open to every VM.
    pub allow: Option<Vec<Rule>>,
    /// Destinations closed to every VM.
    pub deny: Option<Vec<Rule>>,
}

impl File {
    /// Reads the file at `path`; a missing file is an empty configuration.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "the file is over 1 MiB")));
            }
            Ok(_) => {}
        }
        Self::parse(&std::fs::read_to_string(path).map_err(failed)?, path)
    }

    /// Parses `text`; `path` is only for the error.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })
    }
}

fn uplink<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Uplink>, D::Error> {
    String::deserialize(input)?.parse().map(Some).map_err(de::Error::custom)
}

fn block<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Cidr>, D::Error> {
    let block = Cidr::deserialize(input)?;
    if block.prefix() == ALL_PREFIX && PRIVATE.iter().any(|private| private.contains(block.first())) {
        Ok(Some(block))
    } else {
        Err(de::Error::custom(format!("{block} is no /{ALL_PREFIX} of private addresses, such as 10.213.0.0/16")))
    }
}

fn word<'de, D: Deserializer<'de>>(input: D) -> Result<Option<LogLevel>, D::Error> {
    String::deserialize(input)?.parse().map(Some).map_err(de::Error::custom)
}

#[expect(clippy::option_option, reason = "absent is not the same as `off`")]
fn auto_stop<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Option<Span>>, D::Error> {
    let text = String::deserialize(input)?;
    if text == "off" {
        return Ok(Some(None));
    }
    let span: Span = text.parse().map_err(|error| de::Error::custom(format!("{error}, or \"off\"")))?;
    if span < Span::seconds(1) {
        return Err(de::Error::custom("a VM is left alone for at least 1s; write \"off\" to never stop it"));
    }
    Ok(Some(Some(span)))
}

fn program<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(input)?;
    // A relative path would mean another program in every directory the daemon is started from.
    if path.is_absolute() { Ok(Some(path)) } else { Err(de::Error::custom("write the program's absolute path")) }
}

fn vcpu<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let n = u32::deserialize(input)?;
    if (1..=MAX_VCPU).contains(&n) {
        Ok(Some(n))
    } else {
        Err(de::Error::custom(format!("{n} is not in 1 to {MAX_VCPU}")))
    }
}

fn memory<'de, D: Deserializer<'de>>(input: D) -> Result<Option<ByteSize>, D::Error> {
    size(input, MIN_MEMORY, ByteSize(u64::MAX))
}

fn disk<'de, D: Deserializer<'de>>(input: D) -> Result<Option<ByteSize>, D::Error> {
    size(input, MIN_DISK, MAX_DISK)
}

fn unpacked<'de, D: Deserializer<'de>>(input: D) -> Result<Option<ByteSize>, D::Error> {
    size(input, ByteSize::mib(1), ByteSize::gib(16 << 10))
}

fn console_cap<'de, D: Deserializer<'de>>(input: D) -> Result<Option<ByteSize>, D::Error> {
    size(input, CONSOLE_CAP.0, CONSOLE_CAP.1)
}

/// Parses a size as on the command line: text with a unit, or a whole number of MiB.
fn size<'de, D: Deserializer<'de>>(input: D, least: ByteSize, most: ByteSize) -> Result<Option<ByteSize>, D::Error> {
    struct Size;
    impl de::Visitor<'_> for Size {
        type Value = ByteSize;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size such as \"512M\" or \"4GiB\", or a whole number of MiB")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
            text.parse().map_err(E::custom)
        }
        fn visit_i64<E: de::Error>(self, mib: i64) -> Result<ByteSize, E> {
            u64::try_from(mib)
                .ok()
                .and_then(|mib| mib.checked_mul(1 << 20))
                .map(ByteSize)
                .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(mib), &self))
        }
    }
    let size = input.deserialize_any(Size)?;
    if size < least {
        Err(de::Error::custom(format!("{size} is less than {least}")))
    } else if size > most {
        Err(de::Error::custom(format!("{size} is more than {most}")))
    } else {
        Ok(Some(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        File::parse(text, "/c/config.toml".as_ref()).map_err(|error| match error {
            ConfigError::Syntax { source, .. } => source.to_string(),
            other => other.to_string(),
        })
    }

    #[test]
    fn every_key_is_read() {
        let file = parse(
            "log_level = \"debug\"\ndefault_image = \"alpine:3.20\"\ndefault_kernel = \"generic-6.12\"\nvmm = \"qemu\"\n\
             qemu_bin = \"/opt/qemu\"\nfirecracker_bin = \"/opt/fc\"\nauto_stop_after = \"2h\"\nconsole_cap = \"4M\"\n[vm_defaults]\nvcpu = 4\nmemory = 512\ndisk_size = \"1T\"\ninit = \"agent\"\n",
        )
        .unwrap();
        assert_eq!(file.vmm, Some(VmmChoice::Qemu));
        assert_eq!(file.qemu_bin, Some("/opt/qemu".into()));
        assert_eq!(file.firecracker_bin, Some("/opt/fc".into()));
        assert_eq!(file.vm_defaults.memory, Some(ByteSize::mib(512)));
        assert_eq!(file.vm_defaults.disk_size, Some(MAX_DISK));
        assert_eq!(file.vm_defaults.init, Some(Init::Agent));
        assert_eq!(file.auto_stop_after, Some(Some(Span::seconds(7200))));
        assert_eq!(parse("auto_stop_after = \"off\"").unwrap().auto_stop_after, Some(None));
        assert_eq!(parse("vmm = \"auto\"").unwrap().vmm, Some(VmmChoice::Auto));
        let catalogs = parse(
            "[[kernel_catalog]]\nurl = \"https://kernels.example/c.json\"\n[[kernel_catalog]]\npath = \"/etc/c.json\"\n",
        );
        let files = parse("[[file_sync]]\nhost = \"~/.netrc\"\nguest = \"~/.netrc\"\n").unwrap().file_sync.unwrap();
        assert_eq!((files[0].guest.as_str(), files[0].mode), ("/root/.netrc", 0o600));
        let catalogs: Vec<_> = catalogs.unwrap().kernel_catalog.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(catalogs, ["https://kernels.example/c.json", "/etc/c.json"]);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused_with_their_line() {
        for (text, said) in [
            ("log_level = \"info\"\ncolour = 1\n", "colour"),
            ("\n[networks]\ndns = \"1.1.1.1\"", "networks"),
            ("\nnetwork.cidr = \"10.0.0.0/8\"", "/16"),
            ("\nnetwork.cidr = \"8.8.0.0/16\"", "private"),
            ("\nnetwork.cidr = \"100.1.0.0/16\"", "private"),
            ("\nnetwork.uplink = \"up\"", "auto, none, off"),
            ("\nnetwork.allow = [\"a b\"]", "domain"),
            ("\nlog_level = \"loud\"", "loud"),
            ("\nvmm = \"bochs\"", "bochs"),
            ("\nqemu_bin = \"bin/qemu\"", "absolute"),
            ("\nauto_stop_after = \"0s\"", "at least 1s"),
            ("\nauto_stop_after = \"soon\"", "invalid time"),
            ("\nconsole_cap = 0", "less than 64 KiB"),
            ("\nvm_defaults.vcpu = 0", "1 to 32"),
            ("\nvm_defaults.memory = \"1M\"", "less than 128 MiB"),
            ("\nvm_defaults.memory = -1", "whole number of MiB"),
            ("\nvm_defaults.disk_size = \"2T\"", "more than 1 TiB"),
            ("\ndefault_kernel = \"../x\"", "kernel name"),
            ("\n[[kernel_catalog]]", "either a `url` or a `path`"),
            ("\nkernel_catalog = [{ path = \"/c\", url = \"https://c.example\" }]", "either a `url` or a `path`"),
            ("\nkernel_catalog = [{ path = \"c.json\" }]", "absolute path of the catalog"),
            ("\nkernel_catalog = [{ url = \"http://c.example\" }]", "loopback addresses only"),
            ("\nkernel_catalog = [{ uri = \"/c\" }]", "uri"),
            ("\n[[file_sync]]\nhost = \"/etc/passwd\"\nguest = \"/x\"", "of your home only"),
            ("\n[[file_sync]]\nhost = \"~/../x\"\nguest = \"/x\"", "of your home only"),
            ("\n[[file_sync]]\nhost = \"~/x\"\nguest = \"x\"", "in the guest"),
            ("\n[[file_sync]]\nhost = \"~/x\"\nguest = \"/a/../x\"", "in the guest"),
            ("\n[[file_sync]]\nhost = \"~/x\"\nguest = \"/x\"\nmode = \"888\"", "no mode"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("line 2") && error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing() {
        let temp = tempfile::tempdir().unwrap();
        assert!(File::read(&temp.path().join("config.toml")).unwrap().log_level.is_none());
        assert!(matches!(File::read(temp.path()), Err(ConfigError::Read { .. })));
    }
}
