//! `vm exec` against ssh into the same guest: one command, a new connection each time.

use super::{
    compare::{Report, Target},
    measures::timed,
};
use anyhow::{Context, Result, ensure};
use banger_testkit::{Invocation, TestEnv};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Name of the VM both sides are measured in.
pub(crate) const VM: &str = "e";

/// A VM with its image's services up, among them sshd, and how ssh gets into it.
pub(crate) struct Guest<'a> {
    env: &'a TestEnv,
    key: PathBuf,
    options: Vec<String>,
}

impl<'a> Guest<'a> {
    pub(crate) fn start(env: &'a TestEnv) -> Result<Self> {
        Self::shaped(env, &["--memory", "1G", "--vcpu", "1"])
    }

    /// One of another size.
    pub(crate) fn shaped(env: &'a TestEnv, shape: &[&str]) -> Result<Self> {
        ensure!(banger_testkit::require("ssh"), "no ssh client");
        let args = ["vm", "run", "-d", "--quiet", "--name", VM, "--init", "image", "--wait", "boot"];
        env.banger(args.iter().chain(shape)).run().expect(0);
        let key = authorise(env)?;
        let id = env.vm(VM)["id"].as_str().context("an id")?.to_owned();
        let socket = env.layout().vm_run(&id.parse()?).join("vsock.sock");
        let xtask = std::env::current_exe()?;
        let options = vec![
            "ControlMaster=no".to_owned(),
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=accept-new".to_owned(),
            "LogLevel=ERROR".to_owned(),
            format!("UserKnownHostsFile={}", env.home().join("known_hosts").display()),
            format!("ProxyCommand={} guest-port {} 22", xtask.display(), socket.display()),
        ];
        let guest = Self { env, key, options };
        let first = guest.ssh("true").run();
        ensure!(first.code() == 0, "ssh into the guest: {first}");
        Ok(guest)
    }

    /// The words of an ssh command line, a new connection each time.
    fn words(&self, line: &str) -> Vec<OsString> {
        let options = self.options.iter().flat_map(|option| ["-o".into(), option.into()]);
        let ends = [format!("root@{VM}").into(), line.into()];
        let begins = ["-F".into(), "none".into(), "-i".into(), self.key.clone().into()];
        begins.into_iter().chain(options).chain(ends).collect()
    }

    /// A shell line in the guest.
    pub(crate) fn ssh(&self, line: &str) -> Invocation {
        self.env.program("ssh").args(self.words(line))
    }

    /// The same with what a line on the host writes as its stdin.
    pub(crate) fn ssh_from(&self, host_line: &str, line: &str) -> Invocation {
        self.around(&format!("{host_line} | ssh \"$@\""), line)
    }

    /// The same with its stdout into a line on the host.
    pub(crate) fn ssh_into(&self, line: &str, host_line: &str) -> Invocation {
        self.around(&format!("ssh \"$@\" | {host_line}"), line)
    }

    /// A line on the host in which `ssh "$@"` is the connection.
    pub(crate) fn around(&self, host_line: &str, line: &str) -> Invocation {
        self.env.program("sh").args(["-c", host_line, "ssh"]).args(self.words(line))
    }

    /// `rsync -a` of what is here into the guest.
    pub(crate) fn rsync(&self, here: &str, there: &str) -> Invocation {
        let quoted = |word: &OsString| format!("'{}'", word.to_string_lossy());
        let words = self.words("");
        let options: Vec<String> = words[..words.len() - 2].iter().map(quoted).collect();
        let ssh = format!("ssh {}", options.join(" "));
        self.env.program("rsync").args(["-a", "-e", &ssh, here, &format!("root@{VM}:{there}")])
    }
}

/// One command, a new connection each time.
pub(crate) fn exec(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let guest = Guest::start(env)?;
    report.compare(
        ("vm exec VM -- true", "ssh -o ControlMaster=no into the same guest"),
        Target::Ratio(0.3),
        rounds,
        || timed(env.banger(["vm", "exec", VM, "--", "true"])),
        || timed(guest.ssh("true")),
    )
}

/// Makes a key that the guest's root accepts.
fn authorise(env: &TestEnv) -> Result<PathBuf> {
    let key = env.home().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status()?;
    ensure!(made.success(), "ssh-keygen ended with {made}");
    let public = fs::read(Path::new(&key).with_extension("pub"))?;
    let line = "umask 077; mkdir -p /root/.ssh && cat >>/root/.ssh/authorized_keys";
    env.banger(["vm", "exec", VM, "--", "sh", "-c", line]).stdin(public).run().expect(0);
    Ok(key)
}
