//! Determines a kernel's configuration, as far as booting depends on it.
//!
//! The build's own `.config` is the best source: packages ship it, and many kernels contain it. Without one, texts that
//! only a kernel with the feature contains are searched for instead. Which VMM needs what is decided elsewhere.

use super::manifest::{Boots, is_release};
use banger_proto::agent::driver::{DRIVERS, VSOCK_DRIVER};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Upper bound of a `.config`, in bytes; Debian's has 290 KiB.
pub(super) const MAX_CONFIG: u64 = 4 << 20;
/// Start of every kernel's banner, followed by the release.
const BANNER: &[u8] = b"Linux version ";
/// Magic before the gzip of a configuration contained in the kernel (`CONFIG_IKCONFIG`).
const IKCONFIG: &[u8] = b"IKCFG_ST\x1f\x8b";
/// Text printed by every kernel that interprets ACPI tables.
const ACPI: &[u8] = b"ACPI: Core revision";
/// Name of the parent device of virtio devices given on the kernel command line.
const MMIO_CMDLINE: &[u8] = b"virtio-mmio-cmdline";
/// Configuration option of each driver a guest starts with.
const OPTIONS: [(&str, &str); DRIVERS.len()] = [
    ("virtio_mmio", "CONFIG_VIRTIO_MMIO"),
    ("ext4", "CONFIG_EXT4_FS"),
    ("overlay", "CONFIG_OVERLAY_FS"),
    ("virtio_blk", "CONFIG_VIRTIO_BLK"),
    ("virtio_net", "CONFIG_VIRTIO_NET"),
    ("virtio_console", "CONFIG_VIRTIO_CONSOLE"),
    (VSOCK_DRIVER, "CONFIG_VIRTIO_VSOCKETS"),
];
/// Timer rates that are plausible.
const PLAUSIBLE_HZ: std::ops::RangeInclusive<u32> = 24..=2000;
/// Bytes searched at a time.
const WINDOW: usize = 1 << 20;
/// Longest text searched for or read, which is the overlap of two windows.
const OVERLAP: usize = 256;

/// Result of searching a kernel's ELF file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// `uname -r`.
    pub release: Option<String>,
    /// Configuration contained in the kernel.
    pub config: Option<String>,
    acpi: bool,
    mmio_cmdline: bool,
    vsock: bool,
}

impl Findings {
    /// Searches `elf` once, from its beginning.
    pub(super) fn search(elf: &File) -> io::Result<Self> {
        let mut findings = Self::default();
        let mut config_at = None;
        let mut window = Vec::with_capacity(WINDOW + OVERLAP);
        let mut start = 0_u64;
        let mut file = elf;
        file.rewind()?;
        loop {
            let read = file.take(WINDOW as u64).read_to_end(&mut window)?;
            let hit = |needle: &[u8]| memchr::memmem::find(&window, needle);
            findings.acpi |= hit(ACPI).is_some();
            findings.mmio_cmdline |= hit(MMIO_CMDLINE).is_some();
            // A driver contains its own name; the names of the others are words that occur elsewhere too.
            findings.vsock |= hit(VSOCK_DRIVER.as_bytes()).is_some();
            if findings.release.is_none() {
                findings.release =
                    memchr::memmem::find_iter(&window, BANNER).find_map(|at| release(&window[at + BANNER.len()..]));
            }
            if config_at.is_none() {
                config_at = hit(IKCONFIG).map(|at| start + (at + IKCONFIG.len() - 2) as u64);
            }
            if read == 0 {
                break;
            }
            // The last bytes are kept so that nothing is missed between two windows.
            let done = window.len().saturating_sub(OVERLAP);
            window.drain(..done);
            start += done as u64;
        }
        if let Some(at) = config_at {
            file.seek(SeekFrom::Start(at))?;
            let mut text = String::new();
            let unpacked = flate2::read::GzDecoder::new(file).take(MAX_CONFIG).read_to_string(&mut text);
            findings.config = unpacked.is_ok().then_some(text);
        }
        Ok(findings)
    }

    /// Lists the drivers that a kernel without modules lacks, as far as that is known. `config` is the configuration
    /// shipped beside the kernel.
    pub(super) fn missing_drivers(&self, config: Option<&str>) -> Vec<String> {
        let missing = |driver: &str| match config.or(self.config.as_deref()) {
            Some(config) => OPTIONS.iter().any(|(name, option)| *name == driver && !is_set(config, option)),
            None => driver == VSOCK_DRIVER && !self.vsock,
        };
        DRIVERS.iter().map(|driver| driver.name).filter(|driver| missing(driver)).map(str::to_owned).collect()
    }

    /// Determines how the kernel can be booted. `config` is the configuration shipped beside the kernel, `virtio_mmio`
    /// the module of that name if it is one.
    pub(super) fn boots(&self, pvh: bool, config: Option<&str>, virtio_mmio: Option<&Path>) -> io::Result<Boots> {
        if let Some(config) = config.or(self.config.as_deref()) {
            return Ok(from_config(pvh, config));
        }
        let mut mmio_cmdline = self.mmio_cmdline;
        if let Some(module) = virtio_mmio.filter(|_| !mmio_cmdline) {
            let mut content = Vec::new();
            File::open(module)?.take(4 << 20).read_to_end(&mut content)?;
            mmio_cmdline = memchr::memmem::find(&content, MMIO_CMDLINE).is_some();
        }
        Ok(Boots { pvh, acpi: self.acpi, mmio_cmdline, hz: None })
    }
}

/// Whether the configuration has `option` built in.
fn is_set(config: &str, option: &str) -> bool {
    config.lines().any(|line| line.trim_end().strip_prefix(option).is_some_and(|rest| rest == "=y"))
}

/// Determines from the configuration text how the kernel can be booted.
pub(super) fn from_config(pvh: bool, config: &str) -> Boots {
    let hz = config.lines().find_map(|line| line.strip_prefix("CONFIG_HZ=")?.trim_end().parse().ok());
    Boots {
        pvh,
        acpi: is_set(config, "CONFIG_ACPI"),
        mmio_cmdline: is_set(config, "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"),
        hz: hz.filter(|hz| PLAUSIBLE_HZ.contains(hz)),
    }
}

/// Parses the release after the banner; format strings (`Linux version %s`) have none.
fn release(text: &[u8]) -> Option<String> {
    let word = text.iter().take(OVERLAP - BANNER.len()).position(|byte| *byte == b' ').map(|end| &text[..end])?;
    let word = std::str::from_utf8(word).ok()?;
    (word.starts_with(|c: char| c.is_ascii_digit()) && is_release(word)).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn search(content: &[u8]) -> Findings {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Findings::search(&file).unwrap()
    }

    #[test]
    fn the_banner_is_found_across_windows_and_after_format_strings() {
        let mut content = b"Linux version %s (%s)\0".to_vec();
        content.resize(WINDOW - 7, 0);
        content.extend(b"Linux version 6.1.0-56-cloud-amd64 (a@b) #1");
        let findings = search(&content);
        assert_eq!(findings.release.as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(
            findings.boots(true, None, None).unwrap(),
            Boots { pvh: true, acpi: false, mmio_cmdline: false, hz: None }
        );
        assert_eq!(search(b"Linux version ").release, None);
        assert_eq!(search(b"").release, None);
    }

    #[test]
    fn the_kernels_own_configuration_wins_over_texts() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"CONFIG_ACPI=y\n# CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES is not set\n").unwrap();
        let content = [b"xx IKCFG_ST", &gzip.finish().unwrap()[..], b"IKCFG_ED virtio-mmio-cmdline"].concat();
        let boots = search(&content).boots(false, None, None).unwrap();
        assert_eq!(boots, Boots { pvh: false, acpi: true, mmio_cmdline: false, hz: None });
    }

    #[test]
    fn a_kernel_without_modules_lacks_what_is_not_built_in() {
        assert_eq!(search(b"..").missing_drivers(None), [VSOCK_DRIVER]);
        let named = search(b"\0vmw_vsock_virtio_transport\0");
        assert!(named.missing_drivers(None).is_empty());
        for (name, _) in OPTIONS {
            assert!(DRIVERS.iter().any(|driver| driver.name == name), "{name}");
            // A module that is not there is as good as none.
            let lines = OPTIONS.map(|(other, option)| format!("{option}={}", if other == name { "m" } else { "y" }));
            let config = lines.join("\n");
            assert_eq!(named.missing_drivers(Some(&config)), [name], "{config}");
        }
    }

    #[test]
    fn texts_stand_in_for_a_configuration() {
        let boots = search(b"..ACPI: Core revision %x..virtio-mmio-cmdline..").boots(false, None, None).unwrap();
        assert_eq!(boots, Boots { pvh: false, acpi: true, mmio_cmdline: true, hz: None });
        let mut module = tempfile::NamedTempFile::new().unwrap();
        module.write_all(b"..virtio-mmio-cmdline..").unwrap();
        assert!(search(b"").boots(false, None, Some(module.path())).unwrap().mmio_cmdline);
        assert!(!from_config(false, "CONFIG_ACPI=m\nCONFIG_ACPI_X=y\n").acpi);
        for (line, hz) in [
            ("CONFIG_HZ_250=y\nCONFIG_HZ=250", Some(250)),
            ("CONFIG_HZ=0", None),
            ("CONFIG_HZ=99999999999", None),
            ("CONFIG_NO_HZ=y", None),
        ] {
            assert_eq!(from_config(false, line).hz, hz, "{line}");
        }
    }
}
