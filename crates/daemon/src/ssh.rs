//! SSH keys: one user key for all VMs, and one host key per VM, made on the first access. The known_hosts file is
//! derived from the VMs that exist, so a host key is forgotten with its VM.
//!
//! Connections are not made here but by the CLI and the agent.

use crate::{
    failures,
    store::{Store, VmRow},
};
use banger_artifacts::{
    job::Cancel,
    program::{Program, ProgramError},
};
use banger_proto::{
    api::ssh::SshAccess,
    failure::{Code, Failure},
    layout::Layout,
    name::VmId,
};
use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use tokio::sync::Mutex;

/// File name of a VM's host key in the VM's directory.
const HOST_KEY: &str = "ssh_host_ed25519_key";
/// Largest key file, in bytes.
const MAX_KEY: u64 = 16 << 10;

/// Makes, keeps and forgets keys.
pub(crate) struct SshKeys {
    layout: Layout,
    store: Store,
    /// Held while keys or the known_hosts file are written.
    writing: Mutex<()>,
}

impl SshKeys {
    pub(crate) fn new(layout: Layout, store: Store) -> Self {
        Self { layout, store, writing: Mutex::new(()) }
    }

    /// Returns the keys and files for access to a VM, and makes what is missing.
    pub(crate) async fn access(&self, vm: &VmRow) -> Result<SshAccess, Failure> {
        let _writing = self.writing.lock().await;
        let dir = self.layout.ssh();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| failures::io("create", &dir, &error))?;
        let identity = dir.join("id_ed25519");
        let host_key = self.layout.vm(&vm.id).join(HOST_KEY);
        make_key_pair(&identity, "banger").await?;
        make_key_pair(&host_key, vm.name.as_str()).await?;
        let known_hosts = self.write_known_hosts(None).await?;
        Ok(SshAccess {
            host_key: text(&host_key)?,
            authorized_keys: text(&public(&identity))?,
            identity: identity.to_string_lossy().into_owned(),
            known_hosts: known_hosts.to_string_lossy().into_owned(),
        })
    }

    /// Removes a VM that is being deleted from known_hosts.
    pub(crate) async fn forget(&self, vm: &VmId) -> Result<(), Failure> {
        let _writing = self.writing.lock().await;
        // Without the file there is nothing to forget.
        if self.layout.known_hosts().exists() { self.write_known_hosts(Some(vm)).await.map(drop) } else { Ok(()) }
    }

    /// Writes known_hosts: every VM that has a host key, except `but`.
    async fn write_known_hosts(&self, but: Option<&VmId>) -> Result<PathBuf, Failure> {
        let mut hosts = String::from("# Written by banger: one line a VM.\n");
        for vm in self.store.vms().await? {
            let key = public(&self.layout.vm(&vm.id).join(HOST_KEY));
            if but == Some(&vm.id) || !key.exists() {
                continue;
            }
            let key = text(&key)?;
            // The comment at the end of a key does not belong in known_hosts.
            let key: Vec<&str> = key.split_whitespace().take(2).collect();
            let _ = writeln!(hosts, "{0}.vm,{1}.vm {2}", vm.name, vm.id, key.join(" "));
        }
        let path = self.layout.known_hosts();
        replace(&path, hosts.as_bytes()).map_err(|error| failures::io("write", &path, &error))?;
        Ok(path)
    }
}

/// Makes a key pair at `path` if there is none. An incomplete pair has another name.
async fn make_key_pair(path: &Path, comment: &str) -> Result<(), Failure> {
    if path.exists() && public(path).exists() {
        return Ok(());
    }
    let staged = path.with_extension("new");
    for file in [&staged, &public(&staged)] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failures::io("remove", file, &error)),
            _ => {}
        }
    }
    let program = Program::new("ssh-keygen", "openssh-client")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"])
        .arg(&staged);
    let run = tokio::task::spawn_blocking(move || program.capture(MAX_KEY, &Cancel::default()));
    let made = run.await.map_err(|error| failures::because(Code::Internal, "making a key stopped", &error))?;
    made.map_err(|error| match &error {
        ProgramError::Missing { .. } => {
            failures::because(Code::Unavailable, "ssh is not installed on this host", &error)
                .hint("install openssh-client; banger vm exec -t VM gives a shell without it")
        }
        _ => failures::because(Code::Unavailable, "cannot make an ssh key", &error),
    })?;
    // The private key comes last: if both names exist, the pair is complete.
    for (from, to) in [(public(&staged), public(path)), (staged.clone(), path.to_owned())] {
        fs::rename(&from, &to).map_err(|error| failures::io("write", &to, &error))?;
    }
    Ok(())
}

fn public(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_KEY).read_to_string(&mut text));
    read.map_err(|error| failures::io("read", path, &error))?;
    Ok(text)
}

/// Replaces a file atomically; on return it survives a power cut.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&staged, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{sample, store};
    use std::os::unix::fs::PermissionsExt;

    fn layout(root: &Path) -> Layout {
        let dir = |name: &str| root.join(name);
        Layout { config: dir("config"), state: dir("state"), cache: dir("cache"), run: dir("run") }
    }

    #[tokio::test]
    async fn keys_last_as_long_as_their_vm() {
        if !banger_testkit::require("ssh") {
            return;
        }
        let (_store_dir, store) = store();
        let temp = tempfile::tempdir().unwrap();
        let layout = layout(temp.path());
        let (one, two) = (sample("one"), sample("two"));
        for vm in [&one, &two] {
            store.insert_vm(vm.clone()).await.unwrap();
            fs::create_dir_all(layout.vm(&vm.id)).unwrap();
        }
        let keys = SshKeys::new(layout.clone(), store.clone());
        keys.forget(&one.id).await.unwrap();
        assert!(!layout.known_hosts().exists(), "nobody wanted in yet");
        let access = keys.access(&one).await.unwrap();
        assert!(access.host_key.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
        assert!(access.authorized_keys.starts_with("ssh-ed25519 "));
        let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&access.identity), mode(&access.known_hosts)), (0o600, 0o600));
        // Each VM keeps its own key.
        assert_eq!(keys.access(&one).await.unwrap(), access);
        let other = keys.access(&two).await.unwrap();
        assert_ne!(other.host_key, access.host_key);
        assert_eq!(other.authorized_keys, access.authorized_keys);
        let known = || fs::read_to_string(layout.known_hosts()).unwrap();
        assert!(known().contains(&format!("one.vm,{}.vm ssh-ed25519 ", one.id)) && known().contains("two.vm,"));
        keys.forget(&one.id).await.unwrap();
        assert!(!known().contains("one.vm") && known().contains("two.vm,"), "{}", known());
        // An incomplete pair is made again.
        fs::remove_file(layout.vm(&two.id).join("ssh_host_ed25519_key.pub")).unwrap();
        assert_ne!(keys.access(&two).await.unwrap().host_key, other.host_key);
    }
}
