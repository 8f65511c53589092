//! The configuration, put together from the user's file, the environment and the host's size.
//!
//! [`file`] is what was typed, [`Config`] is what it means: every value is set and says which rule gave it. A key whose
//! feature does not exist yet is refused like any unknown key: a setting without an effect would be a lie.

mod catalog_location;
mod defaults;
pub mod file;
mod file_sync;
mod settings;

pub use crate::network::Uplink;
use banger_proto::{
    agent::boot::Init,
    api::host::SettingSource,
    api::vm::VmmChoice,
    name::{ImageName, KernelName},
    network::{Cidr, Rule},
    size::ByteSize,
    span::Span,
};
use std::{ffi::OsString, net::Ipv4Addr, path::PathBuf, str::FromStr};

pub use catalog_location::CatalogLocation;
pub use defaults::Host;
pub(crate) use defaults::{memory_line, parse_memory};
pub use file::{ConfigError, File};
pub use file_sync::FileSync;

/// Value and the rule that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Rule that gave the value.
    pub source: SettingSource,
}

impl<T> Sourced<T> {
    fn new(value: T, source: SettingSource) -> Self {
        Self { value, source }
    }

    /// Replaces the value by the request's own, if there is one.
    pub(crate) fn overridden_by(self, asked: Option<T>) -> Self {
        asked.map_or(self, |value| Self::new(value, SettingSource::Flag))
    }
}

/// Level of the daemon's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogLevel(pub tracing::level_filters::LevelFilter);

impl FromStr for LogLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" | "error" | "warn" | "info" | "debug" | "trace" => {
                Ok(Self(text.parse().map_err(|_| text.to_owned())?))
            }
            _ => Err(format!("{text:?} is none of off, error, warn, info, debug, trace")),
        }
    }
}

/// All settings, resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// Level of the daemon's log.
    pub log_level: Sourced<LogLevel>,
    /// Image of a VM that names none.
    pub default_image: Sourced<ImageName>,
    /// Kernel of a VM that names none and whose image recommends none.
    pub default_kernel: Sourced<KernelName>,
    /// VMM of a VM that names none.
    pub vmm: Sourced<VmmChoice>,
    /// Path of QEMU; `None` looks for it in `PATH`.
    pub qemu_bin: Sourced<Option<PathBuf>>,
    /// How long a VM may be unused before it is stopped; `None` is forever.
    pub auto_stop_after: Sourced<Option<Span>>,
    /// Path of Firecracker; `None` looks for it in `PATH`.
    pub firecracker_bin: Sourced<Option<PathBuf>>,
    /// Largest console log of one VM, in bytes.
    pub console_cap: Sourced<ByteSize>,
    /// Virtual processors of a VM that does not specify them.
    pub vcpu: Sourced<u32>,
    /// Memory of a VM that does not specify it.
    pub memory: Sourced<ByteSize>,
    /// Work disk size of a VM that does not specify it.
    pub disk_size: Sourced<ByteSize>,
    /// PID 1 of a VM that does not specify it.
    pub init: Sourced<Init>,
    /// Whether the public internet is open to a VM that does not specify it.
    pub nat: Sourced<bool>,
    /// How far VMs may reach at most.
    pub uplink: Sourced<Uplink>,
    /// Block of private addresses for VMs.
    pub cidr: Sourced<Cidr>,
    /// Resolvers to ask instead of the host's.
    pub dns: Sourced<Vec<Ipv4Addr>>,
    /// Destinations open to every VM.
    pub allow: Sourced<Vec<Rule>>,
    /// Destinations closed to every VM.
    pub deny: Sourced<Vec<Rule>>,
    /// Further catalogs of kernels, highest precedence last.
    pub kernel_catalog: Sourced<Vec<CatalogLocation>>,
    /// Further catalogs of images, highest precedence last; all take precedence over the built-in one.
    pub image_catalog: Sourced<Vec<CatalogLocation>>,
    /// Most layers of an image.
    pub oci_max_layers: Sourced<u32>,
    /// Most bytes the layers of an image may unpack to.
    pub oci_max_unpacked: Sourced<ByteSize>,
    /// Largest factor by which a layer may grow when unpacked.
    pub oci_max_ratio: Sourced<u32>,
    /// Most entries in the layers of an image.
    pub oci_max_entries: Sourced<u32>,
    /// Files of the user that every VM gets.
    pub file_sync: Sourced<Vec<FileSync>>,
}

impl Config {
    /// Resolves all settings from the file, the environment, which overrides it, and the size of the host.
    pub fn resolve(file: File, env: impl Fn(&str) -> Option<OsString>, host: Host) -> Result<Self, ConfigError> {
        let (defaults, network) = (file.vm_defaults, file.network);
        Ok(Self {
            log_level: match log_level_from(&env)? {
                Some(level) => Sourced::new(level, SettingSource::Env),
                None => from_file(file.log_level, || {
                    Sourced::new(LogLevel(tracing::level_filters::LevelFilter::INFO), SettingSource::Default)
                }),
            },
            default_image: from_file(file.default_image, || {
                Sourced::new("debian-bookworm".parse().expect("a valid built-in name"), SettingSource::Default)
            }),
            default_kernel: from_file(file.default_kernel, || {
                Sourced::new("debian-6.1".parse().expect("a valid built-in name"), SettingSource::Default)
            }),
            vmm: from_file(file.vmm, || Sourced::new(VmmChoice::Auto, SettingSource::Default)),
            qemu_bin: from_file(file.qemu_bin.map(Some), || Sourced::new(None, SettingSource::Default)),
            firecracker_bin: from_file(file.firecracker_bin.map(Some), || Sourced::new(None, SettingSource::Default)),
            auto_stop_after: from_file(file.auto_stop_after, || Sourced::new(None, SettingSource::Default)),
            console_cap: from_file(file.console_cap, || Sourced::new(ByteSize::mib(8), SettingSource::Default)),
            vcpu: from_file(defaults.vcpu, || host.vcpu()),
            memory: from_file(defaults.memory, || host.memory()),
            disk_size: from_file(defaults.disk_size, || Sourced::new(ByteSize::gib(8), SettingSource::Default)),
            init: from_file(defaults.init, || Sourced::new(Init::Auto, SettingSource::Default)),
            image_catalog: from_file(file.image_catalog, || Sourced::new(Vec::new(), SettingSource::Default)),
            oci_max_layers: number(file.oci.max_layers, 127),
            oci_max_unpacked: from_file(file.oci.max_unpacked, || {
                Sourced::new(ByteSize::gib(64), SettingSource::Default)
            }),
            oci_max_ratio: number(file.oci.max_ratio, 1000),
            oci_max_entries: number(file.oci.max_entries, 4_000_000),
            nat: from_file(defaults.nat, || Sourced::new(true, SettingSource::Default)),
            uplink: match uplink_from(&env)? {
                Some(uplink) => Sourced::new(uplink, SettingSource::Env),
                None => from_file(network.uplink, || Sourced::new(Uplink::Auto, SettingSource::Default)),
            },
            cidr: from_file(network.cidr, || Sourced::new(DEFAULT_CIDR, SettingSource::Default)),
            dns: from_file(network.dns, || Sourced::new(Vec::new(), SettingSource::Default)),
            allow: from_file(network.allow, || Sourced::new(Vec::new(), SettingSource::Default)),
            deny: from_file(network.deny, || Sourced::new(Vec::new(), SettingSource::Default)),
            kernel_catalog: from_file(file.kernel_catalog, || Sourced::new(Vec::new(), SettingSource::Default)),
            file_sync: from_file(file.file_sync, || Sourced::new(Vec::new(), SettingSource::Default)),
        })
    }
}

impl Config {
    /// Limits of images from registries and archives.
    pub(crate) fn oci_limits(&self) -> banger_artifacts::oci::Limits {
        banger_artifacts::oci::Limits {
            max_layers: usize::try_from(self.oci_max_layers.value).unwrap_or(usize::MAX),
            max_unpacked: self.oci_max_unpacked.value.bytes(),
            max_ratio: self.oci_max_ratio.value.into(),
            max_entries: self.oci_max_entries.value.into(),
            ..banger_artifacts::oci::Limits::default()
        }
    }
}

fn number(value: Option<std::num::NonZeroU32>, otherwise: u32) -> Sourced<u32> {
    from_file(value.map(Into::into), || Sourced::new(otherwise, SettingSource::Default))
}

/// Default block of VM addresses: rarely used in homes and offices.
const DEFAULT_CIDR: Cidr = Cidr::new(Ipv4Addr::new(10, 213, 0, 0), 16).expect("a /16 begins there");

/// Reads `BANGER_LOG_LEVEL`, if it is set and not empty.
fn log_level_from(env: impl Fn(&str) -> Option<OsString>) -> Result<Option<LogLevel>, ConfigError> {
    from_env("BANGER_LOG_LEVEL", env)
}

/// Reads `BANGER_UPLINK`, if it is set and not empty.
fn uplink_from(env: impl Fn(&str) -> Option<OsString>) -> Result<Option<Uplink>, ConfigError> {
    from_env("BANGER_UPLINK", env)
}

fn from_env<T: FromStr<Err = String>>(
    variable: &'static str,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<T>, ConfigError> {
    let Some(text) = env(variable).filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text.to_string_lossy();
    text.parse().map(Some).map_err(|rule| ConfigError::Env { variable, rule })
}

fn from_file<T>(value: Option<T>, otherwise: impl FnOnce() -> Sourced<T>) -> Sourced<T> {
    value.map_or_else(otherwise, |value| Sourced::new(value, SettingSource::File))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Host = Host { cpus: 2, memory: ByteSize::gib(24) };

    fn resolve(text: &str, level: Option<&str>) -> Result<Config, ConfigError> {
        let file = File::parse(text, "/c/config.toml".as_ref())?;
        Config::resolve(file, |key| level.filter(|_| key == "BANGER_LOG_LEVEL").map(Into::into), SMALL)
    }

    #[test]
    fn the_environment_beats_the_file_and_the_file_beats_the_host() {
        let config =
            resolve("log_level = \"warn\"\n[vm_defaults]\nvcpu = 3\nmemory = \"1G\"\n", Some("debug")).unwrap();
        assert_eq!(config.log_level.source, SettingSource::Env);
        assert_eq!((config.vcpu.value, config.vcpu.source), (3, SettingSource::File));
        assert_eq!((config.memory.value, config.memory.source), (ByteSize::gib(1), SettingSource::File));
        assert_eq!((config.disk_size.value, config.disk_size.source), (ByteSize::gib(8), SettingSource::Default));
        let config = resolve("", None).unwrap();
        assert_eq!((config.memory.value, config.memory.source), (ByteSize::gib(3), SettingSource::Host));
        assert_eq!((config.vcpu.value, config.vcpu.source), (2, SettingSource::Default));
    }

    #[test]
    fn a_bad_variable_is_named() {
        let error = resolve("", Some("loud")).unwrap_err().to_string();
        assert!(error.contains("BANGER_LOG_LEVEL") && error.contains("loud"), "{error}");
    }
}
