//! The boot configuration that the host put into the initramfs: read once, checked, and deleted.

use super::{Attempt, BootError};
use banger_proto::agent::boot::{
    BootConfig, CONFIG_PATH, CONFIG_VERSION, MAX_CONFIG, MAX_MOMENT, MOMENT_PATH, Moment, Mount,
};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// Reads and deletes the configuration.
pub(super) fn take() -> Result<BootConfig, BootError> {
    let config = read(Path::new(CONFIG_PATH)).attempt(|| format!("the configuration {CONFIG_PATH}"))?;
    fs::remove_file(CONFIG_PATH).attempt(|| format!("unlinking {CONFIG_PATH}"))?;
    Ok(config)
}

/// Reads and deletes the values for this boot only; none if the host gave none.
pub(super) fn take_moment() -> Result<Option<Moment>, BootError> {
    let moment = moment(Path::new(MOMENT_PATH)).attempt(|| format!("reading {MOMENT_PATH}"))?;
    if moment.is_some() {
        fs::remove_file(MOMENT_PATH).attempt(|| format!("unlinking {MOMENT_PATH}"))?;
    }
    Ok(moment)
}

fn moment(path: &Path) -> io::Result<Option<Moment>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_MOMENT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_MOMENT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MAX_MOMENT} bytes")));
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Reads a configuration and checks what the other steps rely on.
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
            r#"{{"version":{version},"hostname":"h","init":"auto","machine_id":"",
            "mounts":[{{"kind":"modules","device":"/dev/vdc","release":{release:?}}}]}}"#
        )
        .into_bytes()
    }

    #[test]
    fn a_moment_may_be_missing_but_not_broken() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("moment.json");
        assert_eq!(moment(&path).unwrap(), None);
        fs::write(&path, "{\"clock_ns\":7,\"entropy\":\"00\"}   \n").unwrap();
        assert_eq!(moment(&path).unwrap(), Some(Moment { clock_ns: 7, entropy: "00".into(), timer_tries: 0 }));
        for bad in ["", "{}", &" ".repeat(MAX_MOMENT + 1)] {
            fs::write(&path, bad).unwrap();
            moment(&path).unwrap_err();
        }
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
