//! The guest's end of an ssh connection: `sshd -i`, configured by banger, for the time of the connection.

use banger_proto::{agent::exec::ExecSpec, api::ssh::SshAccess};
use data_encoding::HEXLOWER;
use std::collections::BTreeMap;

/// Exit status in a guest without sshd.
pub(crate) const NO_SSHD: u8 = 127;

/// Directory of banger's keys and configuration in the guest: in memory, so that they vanish with the boot.
const DIR: &str = "/run/banger-ssh";

/// Script that writes the missing files, each atomically because connections come at the same time, and then becomes
/// sshd.
const START: &str = r#"
set -eu
sshd=$(command -v sshd || :)
[ -n "$sshd" ] || exit 127
d=/run/banger-ssh
was=
[ ! -r $d/stamp ] || read -r was < $d/stamp || :
if [ "$was" != "$BANGER_SSH_STAMP" ]; then
    mkdir -p $d
    chmod 755 $d
    put() {
        (umask "$3"; printf '%s\n' "$2" > "$d/.$1.$$")
        mv -f "$d/.$1.$$" "$d/$1"
    }
    put host_key "$BANGER_SSH_HOST_KEY" 077
    put authorized_keys "$BANGER_SSH_AUTHORIZED_KEYS" 022
    put sshd_config "$BANGER_SSH_CONFIG" 022
    put stamp "$BANGER_SSH_STAMP" 022
fi
# Where sshd locks itself up; some builds want it and nobody but their service makes it.
[ -d /run/sshd ] || mkdir -p -m 755 /run/sshd
[ -d /var/empty ] || mkdir -p -m 755 /var/empty 2>/dev/null || :
unset BANGER_SSH_STAMP BANGER_SSH_HOST_KEY BANGER_SSH_AUTHORIZED_KEYS BANGER_SSH_CONFIG
exec "$sshd" -i -e -f $d/sshd_config
"#;

/// Configuration of sshd: only banger's keys are accepted; forwarding, sftp and agents stay allowed.
const CONFIG: &str = "\
HostKey /run/banger-ssh/host_key
AuthorizedKeysFile /run/banger-ssh/authorized_keys
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
AcceptEnv LANG LC_* COLORTERM TERM_PROGRAM TERM_PROGRAM_VERSION GIT_AUTHOR_* GIT_COMMITTER_*
X11Forwarding no
PrintMotd no
PrintLastLog no
PidFile none
UseDNS no
LogLevel ERROR";

/// Builds the exec request of one connection. Its secrets are in the environment, which only the guest's root can read.
pub(crate) fn connection(access: &SshAccess) -> ExecSpec {
    let stamp = stamp(&[&access.host_key, &access.authorized_keys, CONFIG]);
    let env = [
        ("BANGER_SSH_STAMP", stamp.as_str()),
        ("BANGER_SSH_HOST_KEY", access.host_key.trim_end()),
        ("BANGER_SSH_AUTHORIZED_KEYS", access.authorized_keys.trim_end()),
        ("BANGER_SSH_CONFIG", CONFIG),
    ];
    debug_assert!(START.contains(DIR) && CONFIG.contains(DIR));
    ExecSpec {
        argv: ["sh", "-c", START, "sshd"].map(str::to_owned).into(),
        env: env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>(),
        cwd: Some("/".into()),
        // Always root, whatever the VM's or the image's user is: sshd changes to the user who logs in.
        user: Some("root".to_owned()),
        tty: None,
    }
}

/// Hashes the content of all files.
fn stamp(parts: &[&str]) -> String {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    HEXLOWER.encode(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sshd_is_roots_whoever_the_images_user_is() {
        let access = SshAccess {
            identity: String::new(),
            known_hosts: String::new(),
            host_key: "key\n".into(),
            authorized_keys: "keys\n".into(),
        };
        let spec = connection(&access);
        assert_eq!(spec.user.as_deref(), Some("root"));
        assert_eq!(spec.env["BANGER_SSH_HOST_KEY"], "key");
    }
}
