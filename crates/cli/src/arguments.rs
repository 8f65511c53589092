//! Parsers of argument values. Each checks what can be checked with the value alone.

mod image;

use banger_proto::{
    agent::http::MAX_GRACE,
    api::vm::{KillSignal, MAX_DISK, MAX_VCPU, MIN_DISK, MIN_MEMORY},
    failure::{Code, Failure},
    size::ByteSize,
    span::Span,
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use image::{image, image_name, source};

/// Environment variable argument: `K=V`, or `K` for the value in banger's own environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    key: String,
    value: Option<String>,
}

impl std::str::FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() || text.contains('\0') {
            return Err("write NAME=VALUE, or NAME to pass on your own value".into());
        }
        Ok(Self { key: key.to_owned(), value })
    }
}

/// Builds the environment from `variables`; the last one of a name wins, and a name without a value that `own` does not
/// have is left out.
pub(crate) fn environment(variables: Vec<Variable>, own: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let value = |variable: Variable| Some((variable.value.or_else(|| own(&variable.key))?, variable.key));
    variables.into_iter().filter_map(value).map(|(value, key)| (key, value)).collect()
}

/// Makes `path` absolute, because the daemon has another working directory. JSON carries it as text, so it must be
/// UTF-8.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path).map_err(|error| {
        Failure::caused_by(Code::Invalid, format!("cannot use the path {}", path.display()), &error)
    })?;
    if absolute.to_str().is_none() {
        return Err(Failure::new(Code::Invalid, format!("the path {} is not UTF-8", path.display()))
            .hint("a symbolic link with another name leads there too"));
    }
    Ok(absolute)
}

/// The empty file, which is the same in every process.
const NOTHING: &str = "/dev/null";

/// Returns the file with registry logins that the environment names. As in Podman, `REGISTRY_AUTH_FILE` comes before
/// `DOCKER_CONFIG`, and if one is set no other file is read.
pub(crate) fn logins(own: impl Fn(&str) -> Option<OsString>) -> Result<Option<PathBuf>, Failure> {
    let set = |name: &str| own(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let file = set("REGISTRY_AUTH_FILE").or_else(|| Some(set("DOCKER_CONFIG")?.join("config.json")));
    file.map(|file| absolute(&regular(file)?)).transpose()
}

/// Returns a path of `file` that means the same file in the daemon, another process. The path of a missing file is
/// returned as it is.
fn regular(file: PathBuf) -> Result<PathBuf, Failure> {
    let Ok(metadata) = std::fs::metadata(&file) else { return Ok(file) };
    // A path such as /dev/fd/3 names another file, or a pipe without a writer, in the daemon.
    let lasting = file.canonicalize().ok().filter(|real| metadata.is_file() || real == Path::new(NOTHING));
    lasting.ok_or_else(|| {
        Failure::new(Code::Invalid, format!("{} is no regular file, so no logins are read from it", file.display()))
            .hint("REGISTRY_AUTH_FILE and DOCKER_CONFIG name files that the daemon reads")
    })
}

/// Parses a number of virtual processors.
pub(crate) fn vcpu(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| (1..=MAX_VCPU).contains(count));
    count.ok_or_else(|| format!("a VM has 1 to {MAX_VCPU}"))
}

/// Parses a size of guest memory.
pub(crate) fn memory(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    if size < MIN_MEMORY { Err(format!("a VM needs at least {MIN_MEMORY}")) } else { Ok(size) }
}

/// Parses a size of a work disk.
pub(crate) fn disk_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    if (MIN_DISK..=MAX_DISK).contains(&size) {
        Ok(size)
    } else {
        Err(format!("a work disk has {MIN_DISK} to {MAX_DISK}"))
    }
}

/// Parses the time that a guest may take to shut down, and limits it to [`MAX_GRACE`].
pub(crate) fn grace(text: &str) -> Result<Duration, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    if span.duration() > MAX_GRACE { Err("at most 1d".to_owned()) } else { Ok(span.duration()) }
}

/// Parses a signal name, with or without `SIG`, in upper or lower case.
pub(crate) fn kill_signal(text: &str) -> Result<KillSignal, String> {
    let upper = text.to_ascii_uppercase();
    upper.strip_prefix("SIG").unwrap_or(&upper).parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_take_their_value_from_here_or_from_there() {
        let parsed: Vec<Variable> =
            ["A=1", "B", "C=x=y", "A=2", "GONE", "E="].iter().map(|text| text.parse().unwrap()).collect();
        let env = environment(parsed, |key| (key == "B").then(|| "own".to_owned()));
        let env: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=2", "B=own", "C=x=y", "E="]);
        assert!("=x".parse::<Variable>().is_err());
        assert!("".parse::<Variable>().is_err());
    }

    #[test]
    fn one_file_with_logins_or_those_of_the_user() {
        let here = std::env::current_dir().unwrap();
        for (auth_file, docker, file) in [
            (None, None, None),
            (Some(""), Some(""), None),
            (Some("/a/auth.json"), Some("/d"), Some("/a/auth.json".into())),
            (Some("a.json"), None, Some(here.join("a.json"))),
            (None, Some("/d"), Some("/d/config.json".into())),
            (Some(""), Some("d"), Some(here.join("d/config.json"))),
        ] {
            let own = |name: &str| match name {
                "REGISTRY_AUTH_FILE" => auth_file.map(OsString::from),
                "DOCKER_CONFIG" => docker.map(OsString::from),
                _ => None,
            };
            assert_eq!(logins(own).unwrap(), file, "{auth_file:?} {docker:?}");
        }
    }

    #[test]
    fn logins_come_from_files_that_others_find_too() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        let (file, link) = (dir.join("auth.json"), dir.join("link"));
        std::fs::write(&file, "{}").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let named = |path: &Path| logins(|name| (name == "REGISTRY_AUTH_FILE").then(|| path.into()));
        assert_eq!(named(&link).unwrap(), Some(file));
        let nothing = dir.join("nothing");
        std::os::unix::fs::symlink("/dev/null", &nothing).unwrap();
        for nobody in [Path::new("/dev/null"), &nothing] {
            assert_eq!(named(nobody).unwrap(), Some("/dev/null".into()));
        }
        let (reader, _writer) = std::io::pipe().unwrap();
        let pipe = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        for bad in [Path::new(&pipe), &dir, Path::new("/dev/zero")] {
            let refused = named(bad).unwrap_err();
            assert!(refused.message.contains("is no regular file"), "{refused}");
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert_eq!((vcpu("1").unwrap(), vcpu("32").unwrap()), (1, 32));
        for bad in ["", "0", "33", "-1", "two", "99999999999999999999"] {
            assert_eq!(vcpu(bad).unwrap_err(), "a VM has 1 to 32", "{bad}");
        }
        assert_eq!(memory("256").unwrap(), ByteSize::mib(256));
        for bad in ["1", "0", "-1", "127M", "x", "99999999999T"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
        for bad in ["1M", "0", "2T", "-8G"] {
            assert!(disk_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_and_signals() {
        assert_eq!(grace("10").unwrap(), Duration::from_secs(10));
        assert_eq!(grace("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(grace("1d").unwrap(), MAX_GRACE, "the longest is what the message says");
        for bad in ["", "s", "-1", "25h", "999999999999999999999", "18446744073709551615m"] {
            assert!(grace(bad).is_err(), "{bad}");
        }
        assert_eq!(kill_signal("sigterm").unwrap(), KillSignal::Term);
        assert!(kill_signal("STOP").is_err());
    }
}
