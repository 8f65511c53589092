//! `bangerd` as seen by the process that starts it: the report on the ready descriptor, the exit status, the lock.

use banger_proto::{
    api::host::{DaemonRecord, EXIT_LOCK_HELD, READY_LINE, Version},
    failure::{Code, Failure},
    layout::Layout,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

/// An empty home: these daemons start no VM.
struct Home {
    temp: tempfile::TempDir,
    layout: Layout,
}

impl Home {
    fn new() -> Self {
        let temp = tempfile::Builder::new().prefix("bd").tempdir_in("/tmp").unwrap();
        let layout = Layout::resolve(|key| (key == "BANGER_HOME").then(|| temp.path().into()), 0).unwrap();
        Self { temp, layout }
    }

    /// Starts a daemon whose descriptor 5 is the returned pipe, from a shell that has other descriptors open.
    fn daemon(&self) -> Running {
        let script = "exec 4>>\"$1\" 7>>\"$1\"; flock 7; exec \"$0\" --ready-fd 5 5>&1 >/dev/null";
        let mut child = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_bangerd")])
            .arg(self.callers_lock())
            .env_clear()
            .env("BANGER_HOME", self.temp.path())
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ready = BufReader::new(child.stdout.take().unwrap());
        Running { child, ready }
    }

    fn callers_lock(&self) -> std::path::PathBuf {
        self.temp.path().join("callers-lock")
    }
}

struct Running {
    child: Child,
    ready: BufReader<ChildStdout>,
}

impl Running {
    fn word(&mut self) -> String {
        let mut line = String::new();
        self.ready.read_line(&mut line).unwrap();
        line
    }

    fn terminate(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_says_when_it_serves_and_leaves_when_it_is_told() {
    let home = Home::new();
    let mut daemon = home.daemon();
    assert_eq!(daemon.word(), READY_LINE);
    let mut rest = String::new();
    daemon.ready.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "the descriptor is closed, so nobody inherits it");
    let lock = fs::File::open(home.callers_lock()).unwrap();
    lock.try_lock().expect("whoever started it holds nothing open through it");
    drop(lock);

    let record: DaemonRecord = serde_json::from_slice(&fs::read(home.layout.daemon_lock()).unwrap()).unwrap();
    assert_eq!(record.pid, daemon.child.id());
    assert_eq!(fs::metadata(&record.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let answer = get(&record.socket, "/v1/version");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(serde_json::from_str::<Version>(body).unwrap().version, env!("CARGO_PKG_VERSION"));

    let mut second = home.daemon();
    let failure: Failure = serde_json::from_str(&second.word()).unwrap();
    assert_eq!(failure.code, Code::Conflict);
    assert_eq!(second.child.wait().unwrap().code(), Some(i32::from(EXIT_LOCK_HELD)));

    assert_eq!(daemon.terminate(), Some(0));
    assert!(!record.socket.exists());
    let mut next = home.daemon();
    assert_eq!(next.word(), READY_LINE);
    assert_eq!(next.terminate(), Some(0));
}

#[test]
fn what_keeps_it_from_serving_is_one_failure() {
    let home = Home::new();
    fs::create_dir_all(&home.layout.config).unwrap();
    fs::write(home.layout.config_file(), "log_level = \"info\"\nnonsense = 1\n").unwrap();
    let mut daemon = home.daemon();
    let failure: Failure = serde_json::from_str(&daemon.word()).unwrap();
    assert_eq!(failure.code, Code::Invalid);
    assert!(failure.causes[0].contains("line 2") && failure.causes[0].contains("nonsense"), "{failure:?}");
    assert_eq!(daemon.child.wait().unwrap().code(), Some(1));

    fs::write(home.layout.config_file(), "").unwrap();
    fs::set_permissions(&home.layout.run, fs::Permissions::from_mode(0o755)).unwrap();
    let mut daemon = home.daemon();
    let failure: Failure = serde_json::from_str(&daemon.word()).unwrap();
    assert_eq!(failure.code, Code::Denied, "{failure:?}");
}

#[test]
fn a_killed_daemon_is_replaced() {
    let home = Home::new();
    let mut first = home.daemon();
    assert_eq!(first.word(), READY_LINE);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let mut second = home.daemon();
    assert_eq!(second.word(), READY_LINE);
    assert!(get(&home.layout.daemon_socket(), "/v1/vms").ends_with("[]"));
}

#[test]
fn bad_words_on_its_command_line_are_usage() {
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_bangerd")).args(args).output().unwrap();
    assert_eq!(run(&["--frobnicate"]).status.code(), Some(2));
    assert_eq!(run(&["--ready-fd", "77"]).status.code(), Some(1));
    assert!(String::from_utf8(run(&["--version"]).stdout).unwrap().starts_with("bangerd "));
}
