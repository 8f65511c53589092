//! A repository in a real guest, the way out of it, and ssh into it with the system's clients.

use crate::{BOOT, delete, sh};
use banger_testkit::{Output, TestEnv, require, shared};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

const VM: [&str; 5] = ["--memory", "512M", "--init", "agent", "--quiet"];

#[track_caller]
fn git(env: &TestEnv, dir: &Path, args: &[&str]) -> Output {
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"];
    env.program("git").args(identity).args(args).current_dir(dir).run().expect(0)
}

/// A small repository with every state a working tree knows.
fn repository(env: &TestEnv) -> std::path::PathBuf {
    let repo = env.home().join("home/project");
    fs::create_dir(&repo).expect("a directory");
    git(env, &repo, &["init", "-q", "-b", "main"]);
    // Who commits here is who commits in the guest.
    git(env, &repo, &["config", "user.name", "Somebody"]);
    git(env, &repo, &["config", "user.email", "somebody@example.com"]);
    for (name, content) in
        [("same", "s\n"), ("changed", "c\n"), ("gone", "g\n"), ("run.sh", "#!/bin/sh\necho ran $PWD\n")]
    {
        fs::write(repo.join(name), content).expect("a file");
    }
    fs::set_permissions(repo.join("run.sh"), fs::Permissions::from_mode(0o755)).expect("permissions");
    for n in 0..12 {
        fs::write(repo.join("counter"), format!("{n}\n")).expect("a file");
        git(env, &repo, &["add", "-A"]);
        git(env, &repo, &["commit", "-q", "-m", &format!("commit {n}")]);
    }
    fs::write(repo.join("changed"), "changed\n").expect("a file");
    fs::write(repo.join("staged"), "staged\n").expect("a file");
    git(env, &repo, &["add", "staged"]);
    fs::remove_file(repo.join("gone")).expect("a file");
    fs::write(repo.join("untracked"), "u\n").expect("a file");
    repo
}

#[test]
fn a_repository_goes_in_and_a_patch_comes_out() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let repo = repository(&env);
    let status = ["status", "--porcelain=v2", "-uno"];

    // In one go, with the command's own status.
    let run = |more: &[&str]| env.banger(["vm", "run"]).args(VM).args(more).current_dir(&repo).patience(BOOT).run();
    let out = run(&["--rm", ".", "--", "sh", "-c", "git status --porcelain=v2 -uno; ./run.sh; exit 9"]).expect(9);
    assert_eq!(out.out(), git(&env, &repo, &status).out() + "ran /root/repo\n", "{out}");

    run(&["--name", "fix", "-d", "."]).expect(0);
    assert_eq!(sh(&env, "fix", "git log -10 --format=%H"), git(&env, &repo, &["log", "-10", "--format=%H"]).out());
    assert_eq!(sh(&env, "fix", "git diff HEAD"), git(&env, &repo, &["diff", "HEAD"]).out());
    sh(
        &env,
        "fix",
        "git commit -q -am wip && printf 'more\\n' >> same && printf '\\0\\1\\2' > binary && chmod +x same",
    );
    assert_eq!(sh(&env, "fix", "git log -1 --format=%ae"), "somebody@example.com\n");
    let before = sh(&env, "fix", "git rev-parse HEAD; git status --porcelain=v2; sha256sum .git/index");
    env.banger(["vm", "workspace", "export", "fix", "--apply"]).run().expect(0);
    assert_eq!(sh(&env, "fix", "git rev-parse HEAD; git status --porcelain=v2; sha256sum .git/index"), before);
    assert_eq!(fs::read(repo.join("same")).expect("a file"), b"s\nmore\n");
    assert_eq!(fs::read(repo.join("binary")).expect("a file"), [0, 1, 2]);
    assert!(fs::metadata(repo.join("same")).expect("metadata").permissions().mode() & 0o100 != 0);
    assert_eq!(fs::read(repo.join("changed")).expect("a file"), b"changed\n");
    delete(&env, "fix");
}

/// What VS Code's remote extension does over ssh to install its server, as a script of the commands it runs: a shell
/// fed on stdin that says what machine it is, unpacks an archive, starts something that listens on loopback, and is
/// reached through a forwarded port.
const EDITOR: &str = r#"
set -e
uname -rsv
echo "HOME=$HOME SHELL=$SHELL"
mkdir -p "$HOME/.editor-server/bin/0123"
cd "$HOME/.editor-server/bin/0123"
umask 077
tar -xzf - <<'ARCHIVE' 2>/dev/null || true
ARCHIVE
printf '#!/bin/sh\nexec perl -MIO::Socket::INET -e '"'"'$s=IO::Socket::INET->new(Listen=>1,LocalAddr=>"127.0.0.1",LocalPort=>0);open F,">","port";print F $s->sockport;close F;while($c=$s->accept){print $c "hello from the server\n";close $c}'"'"'\n' > server
chmod 700 server
nohup ./server > log 2>&1 < /dev/null &
echo $! > pid
while [ ! -s port ]; do :; done
echo "listening on $(cat port)"
"#;

#[test]
fn the_systems_ssh_clients_reach_a_vm_by_name() {
    let _machine = shared();
    if !require("ssh") || !require("rsync") {
        return;
    }
    let Some(env) = TestEnv::real() else { return };
    let repo = repository(&env);
    let run = env.banger(["vm", "run", "--name", "fix", "-d", "."]).args(VM).current_dir(&repo).patience(BOOT).run();
    run.expect(0);
    let home = env.home().join("home");
    let config = home.join(".ssh/config");
    fs::create_dir(home.join(".ssh")).expect("a directory");
    fs::write(&config, "# mine\nHost elsewhere\n  Port 1").expect("a file");
    env.banger(["ssh-config", "--install"]).run().expect(0);
    env.banger(["ssh-config", "--install"]).run().expect(0);
    assert!(fs::read_to_string(&config).expect("a file").ends_with("# mine\nHost elsewhere\n  Port 1"));

    // ssh finds its configuration by the account's home, which a test may not touch; clients are told by -F.
    let f = config.to_str().expect("UTF-8").to_owned();
    let client = |program: &str, args: &[&str]| env.program(program).args(["-F", &f]).args(args).patience(BOOT);
    let out = client("ssh", &["fix.vm", "echo $USER $HOME; exit 5"]).run().expect(5);
    assert_eq!((out.out().as_str(), out.err().as_str()), ("root /root\n", ""), "{out}");
    let known = env.home().join("state/ssh/known_hosts");
    assert!(fs::read_to_string(&known).expect("known hosts").contains("fix.vm,"));

    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(home.join("file"), &bytes).expect("a file");
    client("scp", &["-q", "file", "fix.vm:"]).run().expect(0);
    client("scp", &["-q", "fix.vm:file", "back"]).run().expect(0);
    assert!(fs::read(home.join("back")).expect("a file") == bytes);
    client("sftp", &["-q", "-b", "-", "fix.vm"]).stdin("get file sftped\n").run().expect(0);
    assert!(fs::read(home.join("sftped")).expect("a file") == bytes);
    let ssh = format!("ssh -F {f}");
    env.program("git")
        .args(["clone", "-q", "ssh://fix.vm/root/repo", "cloned"])
        .env("GIT_SSH_COMMAND", &ssh)
        .run()
        .expect(0);
    assert_eq!(fs::read(home.join("cloned/same")).expect("a file"), b"s\n");
    env.program("rsync").args(["-a", "-e", &ssh, "project/", "fix.vm:/root/d/"]).run().expect(0);
    assert_eq!(sh(&env, "fix", "cat /root/d/same; stat -c %a /root/d/run.sh"), "s\n755\n");

    let editor = client("ssh", &["-T", "fix.vm", "sh"]).stdin(EDITOR).run().expect(0).out();
    assert!(editor.contains("HOME=/root SHELL="), "{editor}");
    let port = editor.rsplit(' ').next().expect("a port").trim().to_owned();
    let through = client("ssh", &["-W", &format!("127.0.0.1:{port}"), "fix.vm"]).run().expect(0);
    assert_eq!(through.out(), "hello from the server\n");

    // Another machine behind the name is another key: refused, not asked about.
    let pinned = fs::read_to_string(&known).expect("known hosts");
    let wrong = env.home().join("home/wrong");
    fs::write(&wrong, pinned.replace("AAAAC3NzaC1lZDI1NTE5AAAAI", "AAAAC3NzaC1lZDI1NTE5AAAAJ")).expect("a file");
    let option = format!("UserKnownHostsFile={}", wrong.display());
    let refused = client("ssh", &["-o", &option, "fix.vm", "true"]).run().expect(255);
    assert!(refused.err().to_lowercase().contains("host key"), "{refused}");

    let out = env.banger(["vm", "ssh", "fix", "--", "cat", "/root/repo/changed"]).run().expect(0);
    assert_eq!(out.out(), "changed\n");
    // A guest without sshd says so.
    sh(&env, "fix", "mv /usr/sbin/sshd /usr/sbin/sshd.away");
    let out = client("ssh", &["fix.vm", "true"]).run().expect(255);
    assert!(out.err().contains("has no sshd") && out.err().contains("banger vm exec -t fix"), "{out}");

    env.banger(["ssh-config", "--uninstall"]).run().expect(0);
    assert_eq!(fs::read_to_string(&config).expect("a file"), "# mine\nHost elsewhere\n  Port 1");
    env.banger(["vm", "delete", "-f", "fix"]).run().expect(0);
    assert!(!fs::read_to_string(&known).expect("known hosts").contains("fix.vm"));
    env.assert_nothing_left();
}
