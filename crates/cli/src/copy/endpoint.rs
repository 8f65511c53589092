//! One end of a copy as it is typed: a local `PATH`, `VM:/PATH` in a guest, or `-` for a tar archive on stdin or
//! stdout.

use banger_proto::name::VmName;
use std::{convert::Infallible, path::PathBuf, str::FromStr};

/// Source or destination of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Path on this host.
    Local(PathBuf),
    /// `-`: stdin or stdout, as a tar archive.
    Stream,
    /// Path in a VM.
    Guest {
        /// Name, id, or the beginning of the id of the VM.
        vm: VmName,
        /// Path in the VM, as it is typed.
        path: String,
    },
}

impl FromStr for Endpoint {
    type Err = Infallible;

    /// A valid VM name before the first colon means a VM. `./a:b` and `/a:b` are always local.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let there = text.split_once(':').and_then(|(vm, path)| Some((vm.parse().ok()?, path.to_owned())));
        Ok(match there {
            Some((vm, path)) => Self::Guest { vm, path },
            None => Self::Local(text.into()),
        })
    }
}

/// Splits an absolute guest path into its parent and its last component; the root has no last component. `None` if it
/// is not absolute or has a `..`, which only the guest could resolve.
pub(crate) fn split(path: &str) -> Option<(String, Option<&str>)> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return None;
    }
    Some(match parts.split_last() {
        None => ("/".into(), None),
        Some((last, parents)) => (format!("/{}", parents.join("/")), Some(last)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_before_the_colon_is_a_vm() {
        let there = Endpoint::Guest { vm: "demo".parse().unwrap(), path: "/etc/hosts".into() };
        assert_eq!("demo:/etc/hosts".parse(), Ok(there));
        assert_eq!("-".parse(), Ok(Endpoint::Stream));
        for here in ["a", "./-", "./a:b", "/x:y", "A:b", ":x", "-a:b"] {
            assert_eq!(here.parse(), Ok(Endpoint::Local(here.into())), "{here}");
        }
    }

    #[test]
    fn guest_paths() {
        assert_eq!(split("/a/b/"), Some(("/a".into(), Some("b"))));
        assert_eq!(split("/a"), Some(("/".into(), Some("a"))));
        assert_eq!(split("/"), Some(("/".into(), None)));
        assert_eq!(split("/a/./b//c"), Some(("/a/b".into(), Some("c"))));
        for bad in ["", "a", "/a/../b"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
