//! The configuration as `config show` prints it.

use super::{Config, Sourced};
use banger_proto::{api::host::Setting, size::ByteSize};
use serde_json::Value;

impl Config {
    /// Every key with its value as it would stand in `config.toml` and the rule that gave it.
    pub fn settings(&self) -> Vec<Setting> {
        let size = |size: &ByteSize| exact(*size).into();
        vec![
            setting("log_level", &self.log_level, |level| level.0.to_string().into()),
            setting("default_image", &self.default_image, |name| name.as_str().into()),
            setting("default_kernel", &self.default_kernel, |name| name.as_str().into()),
            setting("vmm", &self.vmm, |vmm| vmm.map_or_else(|| "auto".into(), |vmm| vmm.to_string()).into()),
            setting("qemu_bin", &self.qemu_bin, |path| path.as_ref().map(|path| path.to_string_lossy()).into()),
            setting("auto_stop_after", &self.auto_stop_after, |span| {
                span.map_or_else(|| "off".into(), |span| span.to_string()).into()
            }),
            setting("console_cap", &self.console_cap, size),
            setting("vm_defaults.vcpu", &self.vcpu, |n| (*n).into()),
            setting("vm_defaults.memory", &self.memory, size),
            setting("vm_defaults.disk_size", &self.disk_size, size),
            setting("vm_defaults.init", &self.init, |init| init.to_string().into()),
            setting("oci.max_layers", &self.oci_max_layers, |n| (*n).into()),
            setting("oci.max_unpacked", &self.oci_max_unpacked, size),
            setting("oci.max_ratio", &self.oci_max_ratio, |n| (*n).into()),
            setting("oci.max_entries", &self.oci_max_entries, |n| (*n).into()),
            setting("image_catalog", &self.image_catalog, |places| {
                serde_json::to_value(places).expect("a place serializes")
            }),
            setting("kernel_catalog", &self.kernel_catalog, |places| {
                serde_json::to_value(places).expect("places are text")
            }),
        ]
    }
}

fn setting<T>(key: &str, sourced: &Sourced<T>, show: impl FnOnce(&T) -> Value) -> Setting {
    Setting { key: key.to_owned(), value: show(&sourced.value), source: sourced.source.to_string() }
}

/// The size in the largest unit that divides it, so that what is printed can be pasted back.
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
        assert!(again.settings().iter().all(|setting| setting.source == "file" || setting.value.is_null()));
    }
}
