//! Who this machine is: names, ids, clock, entropy, loopback; and what systemd has to know about it.

use super::{machine, say};
use crate::rooted;
use banger_proto::agent::boot::{BootConfig, Moment};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, Mode, OFlags},
};
use std::{
    fs::{create_dir_all, write},
    io,
    os::unix::fs::symlink,
    path::Path,
};

/// Applies the configuration, in the new root. Nothing here is worth a failed boot: what does not work is reported.
pub(super) fn apply(config: &BootConfig, moment: Option<&Moment>, troubles: &mut Vec<String>) {
    let mut check = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            let trouble = format!("{what}: {error}");
            say(&trouble);
            troubles.push(trouble);
        }
    };
    check("setting the host name", rustix::system::sethostname(config.hostname.as_bytes()).map_err(io::Error::from));
    if let Some(moment) = moment {
        check("setting the clock", machine::set_clock(moment.clock_ns));
        check("adding entropy", machine::add_entropy(&moment.entropy));
    }
    check("bringing up lo", machine::loopback_up());
    check("writing names into /etc", write_names(config));
}

fn write_names(config: &BootConfig) -> io::Result<()> {
    let root = fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let etc = rooted::make_dirs(&root, Path::new("/etc"))?;
    rooted::replace(&etc, "hostname", format!("{}\n", config.hostname).as_bytes(), 0o644)?;
    if !maps_to_this_host(&root, &config.hostname) {
        rooted::replace(&etc, "hosts", hosts(&config.hostname).as_bytes(), 0o644)?;
    }
    if !config.machine_id.is_empty() {
        rooted::replace(&etc, "machine-id", format!("{}\n", config.machine_id).as_bytes(), 0o444)?;
    }
    if let Some(text) = &config.resolv_conf {
        // Often a link to somewhere in /run; the link is replaced, not what it points to.
        rooted::replace(&etc, "resolv.conf", text.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn hosts(hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
}

/// Whether `/etc/hosts` knows the host name already; then it may have other lines somebody wants to keep.
fn maps_to_this_host(root: &OwnedFd, hostname: &str) -> bool {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let Ok(file) = rooted::open(root.as_fd(), Path::new("/etc/hosts"), flags) else { return false };
    let mut text = String::new();
    let read = std::fs::File::from(file).take(1 << 20).read_to_string(&mut text);
    read.is_ok() && knows(&text, hostname)
}

fn knows(hosts: &str, hostname: &str) -> bool {
    hosts.lines().any(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        words.next() == Some("127.0.1.1") && words.any(|word| word == hostname)
    })
}

/// Run-time configuration for systemd, in `/run` only. Called in the new root.
///
/// A getty on ttyS0 would wait 90 s for a device unit where udev is absent; eth0 is configured by us.
pub(super) fn prepare_systemd() {
    let prepared = (|| -> io::Result<()> {
        let units = Path::new("/run/systemd/system");
        create_dir_all(units)?;
        for unit in ["serial-getty@ttyS0.service", "dev-ttyS0.device"] {
            symlink("/dev/null", units.join(unit))?;
        }
        let network = Path::new("/run/systemd/network");
        create_dir_all(network)?;
        write(network.join("00-banger-eth0.network"), "[Match]\nName=eth0\n\n[Link]\nUnmanaged=yes\n")
    })();
    if let Err(error) = prepared {
        say(&format!("preparing /run/systemd: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_written_once() {
        assert!(knows(&hosts("demo"), "demo"));
        assert!(!knows(&hosts("demo"), "dem"));
        assert!(!knows("127.0.0.1 demo\n# 127.0.1.1 demo\n", "demo"));
        assert!(knows("10.0.0.1 x\n127.0.1.1 a demo # mine\n", "demo"));
    }
}
