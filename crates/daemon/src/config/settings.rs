//! The configuration in the form `config show` prints.

use super::{Config, Sourced};
use banger_proto::{api::host::Setting, size::ByteSize};
use serde_json::Value;

impl Config {
    /// Settings of the network.
    pub(crate) fn network(&self) -> crate::network::Settings {
        crate::network::Settings {
            uplink: self.uplink.value,
            block: self.cidr.value,
            dns: self.dns.value.clone(),
            deny: self.deny.value.clone(),
            allow: self.allow.value.clone(),
        }
    }

    /// All keys with their values as in `config.toml` and the rules that gave them.
    pub fn settings(&self) -> Vec<Setting> {
        let size = |size: &ByteSize| exact(*size).into();
        vec![
            setting("log_level", &self.log_level, |level| level.0.to_string().into()),
            setting("default_image", &self.default_image, |name| name.as_str().into()),
            setting("default_kernel", &self.default_kernel, |name| name.as_str().into()),
            setting("vmm", &self.vmm, |vmm| vmm.to_string().into()),
            setting("qemu_bin", &self.qemu_bin, |path| path.as_ref().map(|path| path.to_string_lossy()).into()),
            setting("firecracker_bin", &self.firecracker_bin, |path| {
                path.as_ref().map(|path| path.to_string_lossy()).into()
            }),
            setting("auto_stop_after", &self.auto_stop_after, |span| {
                span.map_or_else(|| "off".into(), |span| span.to_string()).into()
            }),
            setting("console_cap", &self.console_cap, size),
            setting("vm_defaults.vcpu", &self.vcpu, |n| (*n).into()),
            setting("vm_defaults.memory", &self.memory, size),
            setting("vm_defaults.disk_size", &self.disk_size, size),
            setting("vm_defaults.init", &self.init, |init| init.to_string().into()),
            setting("vm_defaults.nat", &self.nat, |nat| (*nat).into()),
            setting("network.uplink", &self.uplink, |uplink| uplink.to_string().into()),
            setting("network.cidr", &self.cidr, |cidr| cidr.to_string().into()),
            setting("network.dns", &self.dns, |dns| texts(dns)),
            setting("network.allow", &self.allow, |rules| texts(rules)),
            setting("network.deny", &self.deny, |rules| texts(rules)),
            setting("oci.max_layers", &self.oci_max_layers, |n| (*n).into()),
            setting("oci.max_unpacked", &self.oci_max_unpacked, size),
            setting("oci.max_ratio", &self.oci_max_ratio, |n| (*n).into()),
            setting("oci.max_entries", &self.oci_max_entries, |n| (*n).into()),
            setting("image_catalog", &self.image_catalog, |locations| {
                serde_json::to_value(locations).expect("a location serializes")
            }),
            setting("kernel_catalog", &self.kernel_catalog, |locations| {
                serde_json::to_value(locations).expect("a location serializes")
            }),
            setting("file_sync", &self.file_sync, |files| serde_json::to_value(files).expect("files are text")),
        ]
    }
}

fn texts<T: ToString>(values: &[T]) -> Value {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

fn setting<T>(key: &str, sourced: &Sourced<T>, show: impl FnOnce(&T) -> Value) -> Setting {
    Setting { key: key.to_owned(), value: show(&sourced.value), source: sourced.source }
}

/// Formats a size in the largest unit that divides it, so that the text can be pasted back.
fn exact(size: ByteSize) -> String {
    let bytes = size.bytes();
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{File, Host};
    use banger_proto::api::host::SettingSource;
    use std::fmt::Write as _;

    #[test]
    fn what_is_shown_can_be_pasted_back() {
        let host = Host { cpus: 8, memory: ByteSize::gib(31) };
        let config = Config::resolve(File::default(), |_| None, host).unwrap();
        let mut text = String::new();
        for setting in config.settings().into_iter().filter(|setting| !setting.value.is_null()) {
            let _ = writeln!(text, "{} = {}", setting.key, setting.value);
        }
        let file = File::parse(&text, "/c".as_ref()).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        let again = Config::resolve(file, |_| None, Host { cpus: 0, memory: ByteSize(0) }).unwrap();
        let values = |config: &Config| config.settings().into_iter().map(|s| (s.key, s.value)).collect::<Vec<_>>();
        assert_eq!(values(&again), values(&config));
        assert!(
            again.settings().iter().all(|setting| setting.source == SettingSource::File || setting.value.is_null())
        );
    }
}
