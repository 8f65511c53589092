//! The configuration the host put into the initramfs: read once, checked, and gone.

use super::{Attempt, BootError};
use banger_proto::agent::boot::{BootConfig, CONFIG_PATH, CONFIG_VERSION, MAX_CONFIG, Mount};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// Reads and unlinks the configuration.
pub(super) fn take() -> Result<BootConfig, BootError> {
    let config = read(Path::new(CONFIG_PATH)).attempt(|| format!("the configuration {CONFIG_PATH}"))?;
    fs::remove_file(CONFIG_PATH).attempt(|| format!("unlinking {CONFIG_PATH}"))?;
    Ok(config)
}

/// Reads a configuration and checks what the rest relies on.
pub(crate) fn read(path: &Path) -> io::Result<BootConfig> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_CONFIG as u64 + 1).read_to_end(&mut bytes)?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> io::Result<BootConfig> {
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    if bytes.len() > MAX_CONFIG {
        return Err(invalid(format!("more than {MAX_CONFIG} bytes")));
    }
    let config: BootConfig = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if config.version > CONFIG_VERSION {
        return Err(invalid(format!("version {}, where this agent knows {CONFIG_VERSION}", config.version)));
    }
    for mount in &config.mounts {
        if let Mount::Modules { release, .. } = mount
            && (release.is_empty() || release.contains('/') || release.starts_with('.'))
        {
            return Err(invalid(format!("{release:?} is no kernel release")));
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(version: u32, release: &str) -> Vec<u8> {
        format!(
            r#"{{"version":{version},"hostname":"h","init":"auto","machine_id":"","clock_ns":0,"entropy":"",
            "mounts":[{{"kind":"modules","device":"/dev/vdc","release":{release:?}}}]}}"#
        )
        .into_bytes()
    }

    #[test]
    fn a_configuration_is_checked() {
        assert_eq!(parse(&json(1, "6.1.0")).unwrap().hostname, "h");
        for (bytes, part) in [
            (json(2, "6.1.0"), "version 2"),
            (json(1, "../x"), "no kernel release"),
            (json(1, ""), "no kernel release"),
            (vec![b' '; MAX_CONFIG + 1], "more than"),
            (b"{}".to_vec(), "missing field"),
        ] {
            let error = parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
