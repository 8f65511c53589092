//! Requirements of tests on the host.
//!
//! A test that cannot run here reports that on stderr, past the harness's capture, and appends a line to the file named
//! by `BANGER_TEST_SKIPS`, which is counted at the end of a run. `BANGER_TEST_REQUIRE` lists requirements whose lack is
//! a failure instead of a skip.

use crate::subordinate::IDS;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Free bytes required by `room`.
const ROOM: u64 = 5 << 30;

/// Whether this host has the capability called `name`; otherwise the calling test is recorded as skipped.
///
/// ```no_run
/// if !banger_testkit::require("qemu") {
///     return;
/// }
/// ```
///
/// The capabilities, one a line:
/// - `qemu`: qemu-system-x86_64
/// - `firecracker`: the program, and a /dev/kvm that opens
/// - `kvm-guests`: KVM runs guest code, as the shim's probe says
/// - `kvm`: /dev/kvm opens
/// - `apt`: apt, mmdebstrap, depmod and Debian sources
/// - `registry`: docker-registry, skopeo, umoci
/// - `mount`: tmpfs can be mounted here
/// - `room`: 5 GiB are free where tests keep their homes
/// - `root`: this is root
/// - `userns`: user namespaces can be made here, and forbidden in one
/// - `uidmap`: an ordinary user can be given subordinate ids, by files in the place of this host's
/// - `netns`: network namespaces and taps can be made here; ip and nft are there
/// - `pasta`: this program
/// - `systemd`: systemd-analyze and systemd-socket-activate
/// - `ssh`: an ssh client
/// - `rsync`: this program
/// - `e2fsck`, `depmod`, `openssl`: these programs
/// - `scripts`: what the maintainer scripts call, and a web server for them
/// - `packers`: gzip, bzip2, lzma, xz, lz4, zstd
/// - `kernel`: generic-6.12 is in the cache, or can be built
///
/// Panics on an unknown name, and when the capability is missing but listed in `BANGER_TEST_REQUIRE`.
#[must_use = "a test that goes on without what it needs fails for the wrong reason"]
pub fn require(name: &str) -> bool {
    let Err(why) = probe(name) else { return true };
    let test = std::thread::current().name().unwrap_or("unnamed test").to_owned();
    let required = std::env::var("BANGER_TEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|required| required.trim() == name),
        "{test} needs {name}, which BANGER_TEST_REQUIRE says this host has: {why}"
    );
    record(&format!("SKIP {test}: needs {name}: {why}\n"));
    false
}

fn record(line: &str) {
    // The harness captures eprint!, not the stream itself, and a skip must be visible.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let Some(path) = std::env::var_os("BANGER_TEST_SKIPS") else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("BANGER_TEST_SKIPS can be written");
}

fn probe(name: &str) -> Result<(), String> {
    match name {
        "qemu" => program("qemu-system-x86_64").map(drop),
        "ssh" => program("ssh").map(drop),
        "rsync" => program("rsync").map(drop),
        "e2fsck" => program("e2fsck").map(drop),
        "depmod" => program("depmod").map(drop),
        "pasta" => program("pasta").map(drop),
        "systemd" => {
            ["systemd-analyze", "systemd-socket-activate"].into_iter().try_for_each(|it| program(it).map(drop))
        }
        "openssl" => program("openssl").map(drop),
        "kvm" => std::fs::File::open("/dev/kvm").map(drop).map_err(|error| format!("/dev/kvm: {error}")),
        "registry" => ["docker-registry", "skopeo", "umoci"].into_iter().try_for_each(|it| program(it).map(drop)),
        "apt" => ["apt-get", "mmdebstrap", "depmod"].into_iter().try_for_each(|it| program(it).map(drop)),
        "scripts" => {
            ["python3", "rclone", "curl", "jq", "zstd", "flock"].into_iter().try_for_each(|it| program(it).map(drop))
        }
        "packers" => {
            ["gzip", "bzip2", "lzma", "xz", "lz4", "zstd"].into_iter().try_for_each(|it| program(it).map(drop))
        }
        "kernel" => crate::generic_kernel::probe(),
        "mount" => mount(),
        "room" => room(),
        "firecracker" => program("firecracker").map(drop).and_then(|()| probe("kvm")),
        "kvm-guests" => kvm_guests(),
        "root" => {
            if rustix::process::geteuid().is_root() {
                Ok(())
            } else {
                Err("this is an ordinary user".into())
            }
        }
        "userns" => user_namespace(),
        "uidmap" => subordinate_ids(),
        "netns" => {
            ["ip", "nft"].into_iter().try_for_each(|it| program(it).map(drop)).and_then(|()| network_namespace())
        }
        _ => panic!("no capability is called {name:?}"),
    }
}

/// Finds a program on the PATH or in Debian's directories for administrators.
fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// Whether the shim's probe sees guest code run.
fn kvm_guests() -> Result<(), String> {
    let probe = Command::new(crate::bin_dir().join("banger-shim")).arg("kvm-probe").output();
    let said = probe.map_err(|error| error.to_string())?.stdout;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if said.contains("usable") { Ok(()) } else { Err(said) }
}

/// Checks that there is room for a few gigabytes of temporary files.
fn room() -> Result<(), String> {
    let place = crate::golden::cache_dir();
    let there = std::fs::create_dir_all(&place).and_then(|()| Ok(rustix::fs::statvfs(&place)?));
    let there = there.map_err(|error| format!("{}: {error}", place.display()))?;
    let free = there.f_bavail * there.f_frsize;
    if free >= ROOM { Ok(()) } else { Err(format!("{} has {} MiB free", place.display(), free >> 20)) }
}

/// Checks that this process may mount a file system, in a temporary mount namespace.
fn mount() -> Result<(), String> {
    let tried = Command::new("unshare")
        .args(["--mount", "--", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"])
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    if tried.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()) }
}

/// Checks that this process may create a user namespace and forbid further ones in it, in a temporary one.
fn user_namespace() -> Result<(), String> {
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "--", "sh", "-c", "echo 0 >/proc/sys/user/max_user_namespaces"])
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    if tried.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()) }
}

/// Checks that an ordinary user may create a user namespace here, and that root may assign ids to it by files mounted
/// over the host's.
fn subordinate_ids() -> Result<(), String> {
    ["newuidmap", "newgidmap", "setpriv"].into_iter().try_for_each(|it| program(it).map(drop))?;
    if let Some(file) = ["/etc/subuid", "/etc/subgid"].into_iter().find(|file| !Path::new(file).is_file()) {
        return Err(format!("{file} is not there"));
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let has_them = map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if first <= IDS.start.into() && first + count >= IDS.end.into())
    });
    if !has_them {
        return Err("this is a user namespace with few ids".into());
    }
    let tried = Command::new("setpriv")
        .args(["--reuid=54321", "--regid=54321", "--clear-groups", "--", "unshare", "--user", "--", "true"])
        .output()
        .map_err(|error| format!("setpriv: {error}"))?;
    if tried.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()) }
}

/// Checks that this process may create a network namespace and a tap in it, in a temporary one.
fn network_namespace() -> Result<(), String> {
    let tried = Command::new("unshare")
        .args(["--net", "--", "ip", "tuntap", "add", "try0", "mode", "tap"])
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    if tried.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named() {
        assert_eq!(program("no-such-program").unwrap_err(), "no-such-program is not installed");
        assert!(program("sh").is_ok());
    }

    #[test]
    #[should_panic(expected = "no capability is called")]
    fn a_typing_mistake_is_not_a_skip() {
        let _ = require("qmeu");
    }
}
