//! A repository in a real guest, the way out of it, and ssh into it with the system's clients.

use crate::{BOOT, delete, sh};
use banger_testkit::{Invocation, Output, TestEnv, require, shared, wait_until};
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

    // For another user it is in that user's home, and that user's: git asks who owns a repository.
    let look = "id -un; pwd; stat -c %U . run.sh staged .git/index; git status --porcelain=v2 -uno; touch new";
    let out = run(&["--rm", "-u", "www-data", ".", "--", "sh", "-c", look]).expect(0);
    let whose = "www-data\n/var/www/repo\n".to_owned() + &"www-data\n".repeat(4);
    assert_eq!(out.out(), whose + &git(&env, &repo, &status).out(), "{out}");
    let out = run(&["--rm", "-u", "www-data", "--guest-path", "/root/there", ".", "--", "true"]).expect(125);
    assert!(out.err().contains("Permission denied") && out.err().contains("~/repo"), "{out}");

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

    // Somebody else's there: git asks whose it is, and is told; banger need not be.
    sh(&env, "fix", "chown -R www-data: /root/repo");
    let asked = env.banger(["exec", "fix", "--", "git", "status"]).run().expect(128);
    assert!(asked.err().contains("dubious ownership") && asked.err().contains("safe.directory"), "{asked}");
    let patch = env.banger(["vm", "workspace", "export", "fix"]).run().expect(0).out();
    assert!(patch.contains("b/binary"), "{patch}");
    sh(&env, "fix", "git config --global safe.directory /root/repo && git status");
    delete(&env, "fix");
}

/// What VS Code's remote extension does over ssh, as its logs show it: a shell without a terminal reads a script on
/// stdin, which says what machine it is, takes a lock, unpacks the server the client sent (the machine has no network),
/// starts it with a token on a port of its own choosing, waits until its log names that port, and prints what it found
/// between two marks. The client then talks to the port through the same connection's SOCKS proxy.
const EDITOR: &str = r#"
AGENT_FOLDER=$HOME/.vscode-server; COMMIT=0123abcd; BIN=$AGENT_FOLDER/bin/$COMMIT
LOG=$AGENT_FOLDER/.$COMMIT.log; PIDFILE=$AGENT_FOLDER/.$COMMIT.pid; TOKENFILE=$AGENT_FOLDER/.$COMMIT.token
uname -rsv
umask 077
finish() {
    echo "5f1c: start"
    echo "exitCode==$1=="
    echo "listeningOn==$PORT=="
    echo "osReleaseId==$(. /etc/os-release; echo $ID)=="
    echo "arch==$(uname -m)=="
    echo "platform==linux=="
    echo "tmpDir==${XDG_RUNTIME_DIR:-/tmp}=="
    echo "5f1c: end"
    exit "$1"
}
mkdir -p "$BIN" || finish 1
exec 9> "$BIN/vscode-remote-lock"
flock -n 9 || finish 24
if [ ! -f "$BIN/bin/code-server" ]; then
    tar -xf "$HOME/vscode-server.tar.gz" --strip-components 1 -C "$BIN" || finish 25
fi
[ -x "$BIN/bin/code-server" ] || finish 26
if ! { [ -f "$PIDFILE" ] && ps -o pid,args -p "$(cat "$PIDFILE")" | grep -q code-server; }; then
    rm -f "$LOG" "$TOKENFILE"
    echo secret-token > "$TOKENFILE"
    "$BIN/bin/code-server" --start-server --host=127.0.0.1 --port=0 --connection-token-file "$TOKENFILE" \
        --enable-remote-auto-shutdown --accept-server-license-terms > "$LOG" 2>&1 < /dev/null 9>&- &
    echo $! > "$PIDFILE"
fi
i=0
while [ $i -lt 6000 ]; do
    PORT=$(sed -n 's/^.*Extension host agent listening on \([0-9]*\).*$/\1/p' "$LOG" 2>/dev/null)
    [ -z "$PORT" ] || break
    i=$((i + 1))
done
[ -n "$PORT" ] || finish 27
finish 0
"#;

/// The server: it says where it listens, and answers who has the token.
const SERVER: &str = r#"#!/usr/bin/perl
use IO::Socket::INET;
my ($token) = map { open my $f, "<", $ARGV[$_ + 1]; <$f> } grep { $ARGV[$_] eq "--connection-token-file" } 0..$#ARGV;
my $socket = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => 0) or die;
$| = 1;
print "Server bound to 127.0.0.1\nExtension host agent listening on ", $socket->sockport, "\n";
while (my $client = $socket->accept) {
    my $said = <$client>;
    print {$client} $said eq $token ? "welcome\n" : "no\n";
    close $client;
}
"#;

/// Talks to a port of the guest through a SOCKS proxy of this host's.
fn through(proxy: u16, port: u16, words: &str) -> String {
    use std::io::{Read as _, Write as _};
    let dial = || std::net::TcpStream::connect(("127.0.0.1", proxy)).map_err(|error| error.to_string());
    let mut stream = wait_until(BOOT, "ssh's proxy", dial);
    stream.write_all(&[5, 1, 0]).expect("a greeting");
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).expect("a method");
    let [high, low] = port.to_be_bytes();
    stream.write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low]).expect("a request");
    let mut connected = [0; 10];
    stream.read_exact(&mut connected).expect("an answer");
    assert_eq!(connected[1], 0, "the proxy connects");
    stream.write_all(words.as_bytes()).expect("words");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("an answer");
    said
}

/// The clients by the configuration that `ssh-config --install` changed, under `$1` as the list of accounts.
const UNTOLD: &str = r#"
set -eu
mount --bind "$1" /etc/passwd
ssh fix.vm id -un
scp -q file fix.vm:untold
scp -q fix.vm:untold untold-back
git clone -q ssh://fix.vm/root/repo untold-clone
rsync -a project/ fix.vm:/root/untold-d/
"#;

/// As people have it, nobody is told anything: the account's home is another one in a namespace of this test's own.
fn untold(env: &TestEnv, bytes: &[u8]) {
    if !require("mount") {
        return;
    }
    let home = env.home().join("home");
    let accounts = fs::read_to_string("/etc/passwd").expect("accounts");
    let ours = accounts.lines().map(|line| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if fields.get(2) == Some(&"0") && fields.len() > 5 {
            fields[5] = home.to_str().expect("UTF-8");
        }
        fields.join(":") + "\n"
    });
    fs::write(home.join("passwd"), ours.collect::<Vec<_>>().concat()).expect("a file");
    let script = ["--mount", "--propagation", "private", "--", "sh", "-c", UNTOLD, "sh"];
    let out = env.program("unshare").args(script).args([home.join("passwd")]).patience(BOOT * 2).run().expect(0);
    assert_eq!((out.out().as_str(), out.err().as_str()), ("root\n", ""), "{out}");
    assert!(fs::read(home.join("untold-back")).expect("a file") == bytes);
    assert_eq!(fs::read(home.join("untold-clone/same")).expect("a file"), b"s\n");
    assert_eq!(sh(env, "fix", "cat /root/untold-d/same"), "s\n");
}

/// A VM that somebody entered by ssh is not one that nobody uses; without the session it is.
#[track_caller]
fn ssh_is_a_use(env: &TestEnv, client: impl Fn() -> Invocation) {
    // Older than the daemon that looks, which need not hurry the guest then.
    let mut session = client().spawn();
    session.wait_stdout("in\n", BOOT);
    env.banger(["daemon", "stop"]).run().expect(0);
    env.configure_also("log_level = \"debug\"\nauto_stop_after = \"4s\"\n");
    env.banger(["ps"]).run().expect(0);
    wait_until(BOOT, "a look at a VM that is idle but for its session", || {
        let log = fs::read_to_string(env.layout().daemon_log()).unwrap_or_default();
        if log.contains("idle, and somebody is in there") { Ok(()) } else { Err(log) }
    });
    assert_eq!(env.vm_state("fix"), "running");
    session.close_stdin();
    session.finish(BOOT).expect(0);
    env.wait_state("fix", "stopped", BOOT);
    let reason = env.vm("fix")["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains("auto_stop_after")), "{reason}");
}

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

    // ssh finds its configuration by the account's home, which a test may not touch; most clients are told by -F.
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

    untold(&env, &bytes);

    // The editor's server comes by scp, as when the client has a network and the machine has none.
    fs::create_dir_all(home.join("server/bin")).expect("a directory");
    fs::write(home.join("server/bin/code-server"), SERVER).expect("a program");
    fs::set_permissions(home.join("server/bin/code-server"), fs::Permissions::from_mode(0o755)).expect("permissions");
    env.program("tar").args(["-czf", "vscode-server.tar.gz", "server"]).run().expect(0);
    client("scp", &["-q", "vscode-server.tar.gz", "fix.vm:"]).run().expect(0);
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let mut session = client("ssh", &["-T", "-D", &format!("127.0.0.1:{proxy}"), "fix.vm", "bash"]).spawn();
    session.write(EDITOR.replace("finish 0\n", "(finish 0)\nread -r _ || :\n"));
    session.wait_stdout("5f1c: end", BOOT);
    let found = session.stdout_so_far();
    assert!(found.contains("exitCode==0==") && found.contains("osReleaseId==debian=="), "{found}");
    let port = found.split("listeningOn==").nth(1).and_then(|rest| rest.split("==").next()).expect("a port");
    let port: u16 = port.parse().expect("a number");
    assert_eq!(through(proxy, port, "secret-token\n"), "welcome\n");
    assert_eq!(through(proxy, port, "guess\n"), "no\n");
    session.close_stdin();
    session.finish(BOOT).expect(0);
    // A second window finds the server running.
    let again = client("ssh", &["-T", "fix.vm", "bash"]).stdin(EDITOR).run().expect(0).out();
    assert!(again.contains(&format!("listeningOn=={port}==")), "{again}");

    // Any user of the guest's may enter.
    sh(&env, "fix", "useradd -m -s /bin/sh -p '*' dev");
    let who = client("ssh", &["dev@fix.vm", "id -un; pwd"]).run().expect(0).out();
    assert_eq!(who, "dev\n/home/dev\n");
    let line = "id -un; echo $A $HOME; pwd";
    let out =
        env.banger(["exec", "-u", "dev", "-e", "A=1", "-w", "/tmp", "fix", "--", "sh", "-c", line]).run().expect(0);
    assert_eq!(out.out(), "dev\n1 /home/dev\n/tmp\n", "{out}");
    let out = env.banger(["vm", "ssh", "fix", "--", "-l", "dev", "id", "-un"]).run().expect(0);
    assert_eq!(out.out(), "dev\n", "{out}");

    // Another machine behind the name is another key: refused, not asked about.
    let wrong = home.join("wrong");
    let other = ["-q", "-t", "ed25519", "-N", "", "-f", "other"];
    env.program("ssh-keygen").args(other).run().expect(0);
    let other = fs::read_to_string(home.join("other.pub")).expect("a key");
    let other: Vec<&str> = other.split(' ').take(2).collect();
    fs::write(&wrong, format!("fix.vm {}\n", other.join(" "))).expect("a file");
    let option = format!("UserKnownHostsFile={}", wrong.display());
    let refused = client("ssh", &["-o", &option, "fix.vm", "true"]).run().expect(255);
    assert!(refused.err().contains("HOST IDENTIFICATION HAS CHANGED"), "{refused}");

    let out = env.banger(["vm", "ssh", "fix", "--", "cat", "/root/repo/changed"]).run().expect(0);
    assert_eq!(out.out(), "changed\n");
    // A guest without sshd says so.
    sh(&env, "fix", "mv /usr/sbin/sshd /usr/sbin/sshd.away");
    let out = client("ssh", &["fix.vm", "true"]).run().expect(255);
    assert!(out.err().contains("has no sshd") && out.err().contains("banger vm exec -t fix"), "{out}");
    sh(&env, "fix", "mv /usr/sbin/sshd.away /usr/sbin/sshd");
    ssh_is_a_use(&env, || client("ssh", &["fix.vm", "echo in; exec cat"]));

    env.banger(["ssh-config", "--uninstall"]).run().expect(0);
    assert_eq!(fs::read_to_string(&config).expect("a file"), "# mine\nHost elsewhere\n  Port 1");
    env.banger(["vm", "delete", "-f", "fix"]).run().expect(0);
    assert!(!fs::read_to_string(&known).expect("known hosts").contains("fix.vm"));
    env.assert_nothing_left();
}
