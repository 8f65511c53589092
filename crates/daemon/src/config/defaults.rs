//! Default sizes of a VM, from the size of the host: a quarter of its processors, an eighth of its memory.

use super::Sourced;
use banger_proto::{
    api::{host::SettingSource, vm::MIN_MEMORY},
    size::ByteSize,
};

/// Largest default number of processors.
const MOST_VCPU: u32 = 4;
/// Largest default memory.
const MOST_MEMORY: ByteSize = ByteSize::gib(8);
/// Defaults when the host's size is unknown or too small to share.
const FALLBACK_VCPU: u32 = 2;
const FALLBACK_MEMORY: ByteSize = ByteSize::gib(2);

/// Size of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Processors this process may use; zero when unknown.
    pub cpus: u32,
    /// Total memory (`MemTotal`); zero when unknown.
    pub memory: ByteSize,
}

impl Host {
    /// Reads the size of this host.
    pub fn detect() -> Self {
        let cpus = std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self { cpus, memory: memory_line("MemTotal:").unwrap_or(ByteSize(0)) }
    }

    pub(super) fn vcpu(self) -> Sourced<u32> {
        match self.cpus / 4 {
            0 => Sourced::new(FALLBACK_VCPU, SettingSource::Default),
            quarter => Sourced::new(quarter.min(MOST_VCPU), SettingSource::Host),
        }
    }

    pub(super) fn memory(self) -> Sourced<ByteSize> {
        let eighth = ByteSize::mib(ByteSize(self.memory.bytes() / 8).as_mib());
        if eighth < MIN_MEMORY {
            Sourced::new(FALLBACK_MEMORY, SettingSource::Default)
        } else {
            Sourced::new(eighth.min(MOST_MEMORY), SettingSource::Host)
        }
    }
}

/// Value of one line of `/proc/meminfo`; `None` when the kernel does not have it.
pub(crate) fn memory_line(key: &str) -> Option<ByteSize> {
    parse_memory(&std::fs::read_to_string("/proc/meminfo").ok()?, key)
}

/// Value of one line in the text of `/proc/meminfo`.
pub(crate) fn parse_memory(meminfo: &str, key: &str) -> Option<ByteSize> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024).map(ByteSize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_shares_a_part_and_not_more() {
        for (cpus, memory, vcpu, mib) in [
            (0, ByteSize(0), 2, 2048),
            (2, ByteSize::gib(2), 2, 256),
            (7, ByteSize::gib(16), 1, 2048),
            (64, ByteSize::gib(512), 4, 8192),
        ] {
            let host = Host { cpus, memory };
            assert_eq!((host.vcpu().value, host.memory().value.as_mib()), (vcpu, mib), "{host:?}");
        }
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        let text = "MemTotal:       24681472 kB\nMemFree:  1 kB\nMemAvailable:   24256000 kB\n";
        assert_eq!(parse_memory(text, "MemAvailable:"), Some(ByteSize(24_256_000 << 10)));
        assert_eq!(parse_memory(text, "Missing:"), None);
    }
}
