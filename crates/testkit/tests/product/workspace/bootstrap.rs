//! Tools a repository asks for: the guest's mise installs them, or it is said why not. mise is a fake, and so is the
//! host's, which nobody may run.

use super::{corpus, place};
use crate::{SOON, delete};
use banger_testkit::{Output, TestEnv};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

fn program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

/// A repository that asks for tools, a guest with a mise that does what `script` says, and a host with one that tells.
struct World<'a> {
    env: &'a TestEnv,
    repo: PathBuf,
    copy: PathBuf,
    /// `PATH` of the guest.
    guest: String,
    /// What the host's mise would leave.
    told: PathBuf,
}

impl<'a> World<'a> {
    fn new(env: &'a TestEnv, script: Option<&str>) -> Self {
        let repo = place(env, "src-detached");
        if !repo.exists() {
            corpus::make(env, "detached");
            fs::write(repo.join(".tool-versions"), "node 22\n").expect("a file");
            super::says(env, &repo, &["add", "-A"]);
        }
        let (bin, host, told) = (place(env, "guest-bin"), place(env, "host-bin"), place(env, "told"));
        if let Some(script) = script {
            program(
                &bin.join("mise"),
                &format!("#!/bin/sh\necho \"mise $* in $PWD, trusting $MISE_TRUSTED_CONFIG_PATHS\"\n{script}\n"),
            );
        }
        program(&host.join("mise"), &format!("#!/bin/sh\ntouch {}\n", told.display()));
        let guest = format!("PATH={}:/usr/local/bin:/usr/bin:/bin", bin.display());
        Self { env, repo, copy: place(env, "guest"), guest, told }
    }

    fn run(&self, more: &[&str]) -> Output {
        let host = place(self.env, "host-bin");
        let path = format!("{}:{}", host.display(), std::env::var("PATH").expect("a PATH"));
        let copy = self.copy.to_str().expect("UTF-8");
        let args = ["vm", "run", "--name", "w", "-e", &self.guest, "--guest-path", copy];
        let run = self.env.banger(args).args(more).current_dir(&self.repo).env("PATH", path);
        let out =
            run.stdin("until grep ended .git/banger-bootstrap.log 2>/dev/null; do :; done\n").patience(SOON).run();
        assert!(!self.told.exists(), "the host's mise was run: {out}");
        out
    }

    fn log(&self) -> String {
        fs::read_to_string(self.copy.join(".git/banger-bootstrap.log")).unwrap_or_default()
    }
}

#[test]
fn tools_are_installed_before_a_detached_run_returns_and_beside_a_shell() {
    let Some(env) = with_a_way_out() else { return };
    let world = World::new(&env, Some("touch installed"));
    let at = world.copy.display().to_string();
    let out = world.run(&["-d", "."]).expect(0);
    assert_eq!(world.log(), format!("mise install in {at}, trusting {at}\n"), "{out}");
    assert!(world.copy.join("installed").exists());
    let status = super::says(&env, &world.copy, &["status", "--porcelain"]);
    assert_eq!(String::from_utf8_lossy(&status), "A  .tool-versions\n?? installed\n", "the log is not in the tree");
    delete(&env, "w");

    fs::remove_dir_all(&world.copy).expect("the guest's disk goes with it");
    let out = world.run(&["."]).expect(0);
    assert_eq!(out.out(), "mise install ended with status 0\n", "{out}");
    assert!(out.err().contains("meanwhile") && out.err().contains(".git/banger-bootstrap.log"), "{out}");
    delete(&env, "w");

    // A command says itself what it needs, and who does not want tools gets none.
    for more in [["--rm", ".", "--", "true"].as_slice(), &["-d", "--no-bootstrap", "."]] {
        fs::remove_dir_all(&world.copy).expect("the guest's disk goes with it");
        world.run(more).expect(0);
        assert!(world.copy.join(".tool-versions").exists() && world.log().is_empty(), "{more:?}");
    }
    delete(&env, "w");
}

#[test]
fn a_mise_that_fails_is_heard_and_one_that_is_missing_is_missed() {
    let Some(env) = with_a_way_out() else { return };
    let world = World::new(
        &env,
        Some("i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); done; echo no such tool >&2; exit 127"),
    );
    let out = world.run(&["-d", "."]).expect(125);
    let err = out.err();
    assert!(err.contains(".tool-versions") && err.contains("no such tool") && !err.contains("line 20\n"), "{out}");
    assert!(err.contains("vm exec w -- mise install") && err.contains("--no-bootstrap"), "{out}");
    // It stays, with the repository in it.
    assert_eq!(env.banger(["exec", "w", "--", "cat", "file"]).run().expect(0).out(), "1\n");
    delete(&env, "w");
    fs::remove_dir_all(&world.copy).expect("the guest's disk goes with it");
    fs::remove_dir_all(place(&env, "guest-bin")).expect("the guest's programs");
    let out = world.run(&["-d", "."]).expect(0);
    assert!(out.err().contains("VM w has no mise"), "{out}");
    delete(&env, "w");
}

#[test]
fn prepare_installs_them_too_and_waits() {
    let Some(env) = with_a_way_out() else { return };
    let world = World::new(&env, Some("touch installed"));
    env.banger(["vm", "run", "-d", "--quiet", "--name", "w", "-e", &world.guest]).patience(SOON).run().expect(0);
    let at = world.copy.display().to_string();
    super::prepare(&env, "w", &world.repo, &world.copy, &["--no-bootstrap"]).expect(0);
    assert!(!world.copy.join("installed").exists() && world.log().is_empty());
    super::prepare(&env, "w", &world.repo, &world.copy, &[]).expect(0);
    assert_eq!(world.log(), format!("mise install in {at}, trusting {at}\n"));
    assert!(world.copy.join("installed").exists());
    delete(&env, "w");
}

#[test]
fn tools_without_a_network_are_refused_before_there_is_a_vm() {
    let Some(mut env) = with_a_way_out() else { return };
    for how in ["--no-nat", "none", "off", "nat = false"] {
        env.banger(["daemon", "stop"]).run();
        match how {
            "--no-nat" => {}
            "nat = false" => {
                env.set_variable("BANGER_UPLINK", "auto");
                env.configure_also("[vm_defaults]\nnat = false\n");
            }
            uplink => env.set_variable("BANGER_UPLINK", uplink),
        }
        let world = World::new(&env, Some("exit 1"));
        let more = if how == "--no-nat" { ["--no-nat", "-d", "."].as_slice() } else { &["-d", "."] };
        let out = world.run(more).expect(125);
        assert!(out.err().contains("no network") && out.err().contains("--no-bootstrap"), "{how}: {out}");
        assert!(crate::vms(&env).is_empty() && !world.copy.exists(), "{how}");
        if how == "off" {
            // Who asks for no tools gets what was asked for; to a VM that is there nothing is brought either.
            world.run(&["--no-bootstrap", "-d", "."]).expect(0);
            let elsewhere = place(&env, "elsewhere");
            let out = super::prepare(&env, "w", &world.repo, &elsewhere, &[]).expect(1);
            assert!(out.err().contains("no network") && !elsewhere.exists(), "{out}");
            delete(&env, "w");
            fs::remove_dir_all(&world.copy).expect("the guest's disk goes with it");
        }
    }
}

/// A home whose daemon says that VMs reach the internet; these VMs are processes that do not try.
fn with_a_way_out() -> Option<TestEnv> {
    let mut env = TestEnv::fake()?;
    env.set_variable("BANGER_UPLINK", "auto");
    Some(env)
}
