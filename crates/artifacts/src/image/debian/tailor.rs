//! Adapts a bootstrapped Debian on its way into an image.
//!
//! A pure pass over the tar stream: data that identifies a machine or comes from this host is left out, services that
//! cost boot time are not started, and a few small files are added. This is code and not shell hooks so that it gives
//! the same bytes everywhere and can be tested without a network.

use crate::{
    rootfs::{Meta, RootfsBuilder, RootfsError, Timestamp},
    tar::{Entry, EntryKind},
};

/// Paths left out of an image: what identifies a machine, what leaked from the host, what can be downloaded again. A
/// pattern that ends in `/` covers everything below that directory, one that ends in `*` everything with that prefix;
/// directories themselves always stay.
const LEFT_OUT: [&str; 21] = [
    "etc/ssh/ssh_host_*",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/auth.conf.d/",
    "etc/apt/sources.list",
    "etc/apt/sources.list.d/",
    "var/lib/apt/lists/",
    "var/cache/apt/",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/log/apt/",
    "root/.bash_history",
    "dev/",
    "proc/",
    "run/",
    "tmp/",
];

/// Units that are not started until somebody asks for them. Docker and sshd are started by their sockets: started at
/// boot they cost seconds in software emulation, and sshd without a host key makes the system `degraded`. The timers
/// maintain machines that live for months.
const NOT_STARTED: [&str; 13] = [
    "multi-user.target.wants/docker.service",
    "multi-user.target.wants/containerd.service",
    "multi-user.target.wants/ssh.service",
    "getty.target.wants/getty@tty1.service",
    "timers.target.wants/apt-daily.timer",
    "timers.target.wants/apt-daily-upgrade.timer",
    "timers.target.wants/dpkg-db-backup.timer",
    "timers.target.wants/e2scrub_all.timer",
    "timers.target.wants/fstrim.timer",
    "timers.target.wants/logrotate.timer",
    "timers.target.wants/man-db.timer",
    "default.target.wants/e2scrub_reap.service",
    "sockets.target.wants/ssh.socket",
];
const UNITS: &[u8] = b"etc/systemd/system/";

/// Makes sshd generate a host key if there is none; banger's agent provides one before sshd is first used.
const SSH_KEY: &str = "\
# The image has no host keys: no two machines may share them.
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'test -n \"$(ls /etc/ssh/ssh_host_*_key 2>/dev/null)\" || ssh-keygen -q -t ed25519 -N \"\" -f /etc/ssh/ssh_host_ed25519_key'
ExecStartPre=/usr/sbin/sshd -t
";

const HOSTS: &str = "\
127.0.0.1\tlocalhost
::1\t\tlocalhost ip6-localhost ip6-loopback
ff02::1\t\tip6-allnodes
ff02::2\t\tip6-allrouters
";

/// Facts collected during the pass, for the files added at the end.
#[derive(Debug, Default)]
pub(super) struct Tailor {
    ssh_socket: bool,
    systemd: bool,
}

impl Tailor {
    /// Decides whether an entry stays, perhaps under another name.
    pub(super) fn keep(&mut self, entry: &mut Entry) -> bool {
        let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        match path {
            b"usr/lib/systemd/system/ssh.socket" => self.ssh_socket = true,
            b"usr/lib/systemd/systemd" => self.systemd = true,
            // dpkg in the guest keeps leaving out manuals and translations, under a name that says so.
            b"etc/dpkg/dpkg.cfg.d/99mmdebstrap" => {
                entry.path = b"etc/dpkg/dpkg.cfg.d/01-leave-out".to_vec();
                return true;
            }
            _ => {}
        }
        if let Some(unit) = path.strip_prefix(UNITS)
            && matches!(entry.kind, EntryKind::Symlink(_))
            && NOT_STARTED.iter().any(|name| name.as_bytes() == unit)
        {
            return false;
        }
        entry.kind == EntryKind::Dir || !LEFT_OUT.iter().any(|pattern| covers(pattern.as_bytes(), path))
    }

    /// Adds the image's own files; `sources` is its apt sources file, `time` their modification time.
    pub(super) fn finish(self, builder: &mut RootfsBuilder, sources: &str, time: Timestamp) -> Result<(), RootfsError> {
        let mut file = |path: &str, mode, text: &str| {
            builder.file(path.as_bytes(), Meta::root(mode, time), text.len() as u64, &mut text.as_bytes())
        };
        // Empty means: not a first boot, and the booted system generates an id (machine-id(5)).
        file("etc/machine-id", 0o444, "")?;
        file("etc/hostname", 0o644, "localhost\n")?;
        file("etc/hosts", 0o644, HOSTS)?;
        file("etc/resolv.conf", 0o644, "")?;
        file("etc/apt/sources.list.d/debian.sources", 0o644, sources)?;
        if self.systemd {
            // Not older than /usr: systemd would otherwise update the system at the first boot, which takes seconds.
            file("etc/.updated", 0o644, "")?;
            file("var/.updated", 0o644, "")?;
        }
        if self.ssh_socket {
            file("etc/systemd/system/ssh.service.d/host-key.conf", 0o644, SSH_KEY)?;
            let (wants, target) =
                ("etc/systemd/system/sockets.target.wants/ssh.socket", "/lib/systemd/system/ssh.socket");
            builder.symlink(wants.as_bytes(), target.as_bytes(), Meta::root(0o777, time))?;
        }
        Ok(())
    }
}

fn covers(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [.., b'/'] => path.starts_with(pattern),
        [prefix @ .., b'*'] => path.starts_with(prefix),
        _ => path == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(path: &str, kind: EntryKind) -> Option<String> {
        let mut entry = Entry { path: path.as_bytes().to_vec(), kind, meta: Meta::default(), size: 0 };
        Tailor::default().keep(&mut entry).then(|| String::from_utf8(entry.path).unwrap())
    }

    #[test]
    fn what_identifies_a_machine_is_left_out() {
        for path in [
            "./etc/ssh/ssh_host_rsa_key",
            "./etc/machine-id",
            "./var/lib/dbus/machine-id",
            "./etc/resolv.conf",
            "./etc/apt/sources.list.d/0000debian.sources",
            "./etc/apt/apt.conf.d/99mmdebstrap",
            "./var/lib/apt/lists/lock",
            "./dev/null",
            "./run/utmp",
        ] {
            assert_eq!(kept(path, EntryKind::File), None, "{path}");
        }
        for path in [
            "./",
            "./dev/",
            "./run/lock/",
            "./var/cache/apt/archives/partial/",
            "./etc/apt/sources.list.d/",
            "./etc/ssh/sshd_config",
            "./root/.bashrc",
        ] {
            assert_eq!(kept(path, EntryKind::Dir).as_deref(), Some(path));
        }
    }

    #[test]
    fn services_wait_until_they_are_asked_for() {
        let link = || EntryKind::Symlink(b"/lib/systemd/system/docker.service".to_vec());
        assert_eq!(kept("./etc/systemd/system/multi-user.target.wants/docker.service", link()), None);
        assert!(kept("./etc/systemd/system/sockets.target.wants/docker.socket", link()).is_some());
        assert!(kept("./usr/lib/systemd/system/docker.service", EntryKind::File).is_some());
    }

    #[test]
    fn dpkgs_rule_gets_a_name_of_its_own() {
        let path = kept("./etc/dpkg/dpkg.cfg.d/99mmdebstrap", EntryKind::File).unwrap();
        assert_eq!(path, "etc/dpkg/dpkg.cfg.d/01-leave-out");
    }
}
