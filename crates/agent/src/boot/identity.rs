//! Sets the identity of this machine (names, ids, clock, entropy, loopback), and what systemd has to know about it.

use super::{machine, network, say};
use crate::beneath;
use banger_proto::agent::boot::{BootConfig, Moment};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, Mode, OFlags},
};
use std::{
    fmt::Write as _,
    fs::{create_dir_all, write},
    io,
    os::unix::fs::symlink,
    path::Path,
};

/// Applies the configuration in the new root. Nothing here is worth a failed boot, so failures are only reported.
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
    if let Some(card) = &config.network {
        check("configuring the network card", network::configure(card));
    }
    check("writing names into /etc", write_names(config));
    if config.network.is_some() {
        check("telling ifupdown to leave eth0 alone", leave_eth0());
    }
}

fn write_names(config: &BootConfig) -> io::Result<()> {
    let root = fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let etc = beneath::make_dirs(&root, Path::new("/etc"))?;
    beneath::replace(&etc, "hostname", format!("{}\n", config.hostname).as_bytes(), 0o644)?;
    if !maps_to_this_host(&root, &config.hostname) {
        beneath::replace(&etc, "hosts", hosts(&config.hostname).as_bytes(), 0o644)?;
    }
    if !config.machine_id.is_empty() {
        beneath::replace(&etc, "machine-id", format!("{}\n", config.machine_id).as_bytes(), 0o444)?;
    }
    if let Some(text) = &config.resolv_conf {
        // Often a link into /run; the link is replaced, not its target.
        beneath::replace(&etc, "resolv.conf", text.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// Removes the stanzas about eth0 from the image's `/etc/network/interfaces`: they may bring it up by DHCP, which
/// nobody answers.
fn leave_eth0() -> io::Result<()> {
    use std::io::Read;
    let root = fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = Path::new("/etc/network/interfaces");
    let Ok(file) = beneath::open(root.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK) else { return Ok(()) };
    let mut text = String::new();
    std::fs::File::from(file).take(1 << 20).read_to_string(&mut text)?;
    match without_eth0(&text) {
        Some(changed) => {
            let dir = beneath::make_dirs(&root, Path::new("/etc/network"))?;
            beneath::replace(&dir, "interfaces", changed.as_bytes(), 0o644)
        }
        None => Ok(()),
    }
}

/// Returns the text without stanzas about eth0; `None` if it has none. A stanza ends where the next begins.
fn without_eth0(interfaces: &str) -> Option<String> {
    let (mut kept, mut dropping, mut changed) = (String::new(), false, false);
    for line in interfaces.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("iface" | "mapping") => dropping = words.next() == Some("eth0"),
            Some(word) if word == "auto" || word.starts_with("allow-") => {
                dropping = false;
                let others: Vec<&str> = words.clone().filter(|name| *name != "eth0").collect();
                if others.len() < words.count() {
                    changed = true;
                    if !others.is_empty() {
                        let _ = writeln!(kept, "{word} {}", others.join(" "));
                    }
                    continue;
                }
            }
            Some("source" | "source-directory") => dropping = false,
            _ => {}
        }
        changed |= dropping;
        if !dropping {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    changed.then_some(kept)
}

fn hosts(hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
}

/// Whether `/etc/hosts` has the host name already; its other lines may then be wanted as well.
fn maps_to_this_host(root: &OwnedFd, hostname: &str) -> bool {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let Ok(file) = beneath::open(root.as_fd(), Path::new("/etc/hosts"), flags) else { return false };
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

/// Writes run-time configuration for systemd, in `/run` only. Called in the new root.
///
/// A getty on ttyS0 would wait 90 s for a device unit where udev is absent; eth0 is configured by the agent.
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
    fn eth0_is_nobody_elses() {
        let text = "auto lo eth0\niface lo inet loopback\n\nallow-hotplug eth0\niface eth0 inet dhcp\n  mtu 9000\niface eth1 inet dhcp\n";
        let expected = "auto lo\niface lo inet loopback\n\niface eth1 inet dhcp\n";
        assert_eq!(without_eth0(text).as_deref(), Some(expected));
        assert_eq!(without_eth0(expected), None);
    }

    #[test]
    fn hosts_are_written_once() {
        assert!(knows(&hosts("demo"), "demo"));
        assert!(!knows(&hosts("demo"), "dem"));
        assert!(!knows("127.0.0.1 demo\n# 127.0.1.1 demo\n", "demo"));
        assert!(knows("10.0.0.1 x\n127.0.1.1 a demo # mine\n", "demo"));
    }
}
