//! `vm exec` against ssh into the same guest: one command, a new connection each time.

use super::{
    compare::{Report, Target},
    measures::timed,
};
use anyhow::{Context, Result, ensure};
use banger_testkit::TestEnv;
use std::{fs, path::Path, process::Command};

/// Measures on a VM with its image's services up, among them sshd.
pub(crate) fn exec(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    ensure!(banger_testkit::require("ssh"), "no ssh client");
    let args = ["vm", "run", "-d", "--quiet", "--name", "e", "--memory", "1G", "--vcpu", "1"];
    env.banger(args.iter().chain(&["--init", "image", "--wait", "boot"])).run().expect(0);
    let key = authorise(env)?;
    let id = env.vm("e")["id"].as_str().context("an id")?.to_owned();
    let socket = env.layout().vm_run(&id.parse()?).join("vsock.sock");
    let xtask = std::env::current_exe()?;
    let proxy = format!("ProxyCommand={} guest-port {} 22", xtask.display(), socket.display());
    let known_hosts = format!("UserKnownHostsFile={}", env.home().join("known_hosts").display());
    let ssh = || {
        let options = [
            "ControlMaster=no",
            "BatchMode=yes",
            "StrictHostKeyChecking=accept-new",
            "LogLevel=ERROR",
            &known_hosts,
            &proxy,
        ];
        let options = options.iter().flat_map(|option| ["-o", option]);
        env.program("ssh").args(["-F", "none", "-i"]).args([&key]).args(options).args(["root@e", "true"])
    };
    let first = ssh().run();
    ensure!(first.code() == 0, "ssh into the guest: {first}");
    report.compare(
        ("vm exec VM -- true", "ssh -o ControlMaster=no into the same guest"),
        Target::Ratio(0.3),
        rounds,
        || timed(env.banger(["vm", "exec", "e", "--", "true"])),
        || timed(ssh()),
    )
}

/// Makes a key that the guest's root accepts.
fn authorise(env: &TestEnv) -> Result<std::path::PathBuf> {
    let key = env.home().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status()?;
    ensure!(made.success(), "ssh-keygen ended with {made}");
    let public = fs::read(Path::new(&key).with_extension("pub"))?;
    let line = "umask 077; mkdir -p /root/.ssh && cat >>/root/.ssh/authorized_keys";
    env.banger(["vm", "exec", "e", "--", "sh", "-c", line]).stdin(public).run().expect(0);
    Ok(key)
}
