//! The first command that needs the daemon starts it: once, however many commands need it, and never another user's.

use crate::fake::{self, Background, DEADLINE, Daemon, Reply, banger};
use banger_testkit::{Output, TestEnv};
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// Environment variable with the behavior of the fake `bangerd`.
const MODE: &str = "FAKE_BANGERD";
/// Environment variable with its arguments.
const ARGS: &str = "FAKE_BANGERD_ARGS";

/// An environment in which `banger` finds this test program as `bangerd`.
struct Installed {
    env: TestEnv,
    banger: PathBuf,
}

impl Installed {
    fn new(bangerd: bool) -> Self {
        let env = TestEnv::empty();
        let bin = env.home().join("bin");
        fs::create_dir(&bin).unwrap();
        let banger = bin.join("banger");
        fs::hard_link(env!("CARGO_BIN_EXE_banger"), &banger)
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_banger"), &banger).map(drop))
            .unwrap();
        if bangerd {
            let me = std::env::current_exe().unwrap();
            let script =
                format!("#!/bin/sh\n{ARGS}=\"$*\" exec '{}' --exact start::fake_bangerd --nocapture\n", me.display());
            let program = bin.join("bangerd");
            fs::write(&program, script).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { env, banger }
    }

    fn run(&self, mode: &str, args: &[&str]) -> Output {
        self.env.program(&self.banger).args(args).env(MODE, mode).env("PATH", "/usr/bin:/bin").patience(DEADLINE).run()
    }

    /// Returns the lines of the fake daemons: one for each that served.
    fn served(&self) -> Vec<String> {
        let text = fs::read_to_string(self.env.layout().state.join("served")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }
}

/// Not a test: the script above runs this. Does nothing when the tests run it.
#[test]
#[expect(clippy::exit, reason = "it stands for a program")]
fn fake_bangerd() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let args = std::env::var(ARGS).unwrap();
    let fd = args.strip_prefix("--ready-fd ").expect("the contract").to_owned();
    let mut ready = File::options().write(true).open(format!("/proc/self/fd/{fd}")).unwrap();
    match mode.as_str() {
        "dies" => {
            eprintln!("bangerd: \u{1b}[2Jcannot load a library");
            std::process::exit(127);
        }
        "refuses" => {
            let failure = json!({ "code": "denied", "message": "the state directory is not yours" });
            writeln!(ready, "{failure}").unwrap();
            std::process::exit(1);
        }
        _ => {}
    }
    let home = PathBuf::from(std::env::var_os("BANGER_HOME").unwrap());
    let state = home.join("state");
    fs::create_dir_all(&state).unwrap();
    let lock = File::options().create(true).append(true).open(state.join("bangerd.lock")).unwrap();
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        std::process::exit(75);
    }
    // In a session of its own, and without inherited descriptors.
    let session = rustix::process::getsid(None).unwrap() == rustix::process::getpid();
    let log = File::options().create(true).append(true).open(state.join("served"));
    writeln!(log.unwrap(), "own session: {session}, cwd {}", std::env::current_dir().unwrap().display()).unwrap();
    serve(&home, &mut ready);
    std::process::exit(0);
}

/// Serves until it is told to stop, its home is gone, or no test can be waiting any more.
fn serve(home: &Path, ready: &mut File) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = home.join("run/bangerd.sock");
        fake::record(&socket, &home.join("state/bangerd.lock"));
        // The socket of a killed daemon.
        let _ = fs::remove_file(&socket);
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let stop = Arc::new(tokio::sync::Notify::new());
        let stopping = Arc::clone(&stop);
        let status = || {
            json!({ "pid": std::process::id(), "version": "0", "api_version": 1, "socket": "/x", "uptime_s": 0, "running_vms": 0 })
        };
        let answer = move |line: &str, _: &serde_json::Value| {
            Some(Reply::Json(match line {
                "GET /v1/daemon" => status(),
                "POST /v1/daemon/stop" => {
                    stopping.notify_one();
                    status()
                }
                line if line.starts_with("GET /v1/vms") => json!([]),
                _ => return None,
            }))
        };
        ready.write_all(b"ready\n").unwrap();
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(100));
        let gone = async {
            while home.exists() {
                looks.tick().await;
            }
        };
        tokio::select! {
            () = fake::serve(listener, Arc::new(answer), Arc::new(Mutex::new(Vec::new()))) => {}
            () = stop.notified() => {}
            () = gone => {}
            () = tokio::time::sleep(4 * DEADLINE) => {}
        }
    });
}

#[test]
fn it_starts_by_itself_and_stops_when_told() {
    let installed = Installed::new(true);
    let status = installed.run("serve", &["daemon", "status"]).expect(1);
    assert!(status.err().starts_with("error: the daemon is not running\nhint: "), "{status}");
    installed.run("serve", &["daemon", "stop"]).expect(0);
    let version = installed.run("serve", &["version"]).expect(0);
    assert!(version.out().contains("daemon not running"), "{version}");
    assert!(installed.served().is_empty(), "asking does not start it");

    assert!(installed.run("serve", &["ps"]).expect(0).out().starts_with("ID "));
    installed.run("serve", &["ps"]).expect(0);
    assert_eq!(installed.served(), ["own session: true, cwd /"]);
    installed.run("serve", &["daemon", "status"]).expect(0);

    let stop = installed.run("serve", &["daemon", "stop"]).expect(0);
    assert!(stop.err().starts_with("stopped the daemon (pid "), "{stop}");
    installed.run("serve", &["daemon", "status"]).expect(1);
    // The process is gone when stop returns, so this starts another one at once.
    installed.run("serve", &["ps"]).expect(0);
    assert_eq!(installed.served().len(), 2);
    installed.run("serve", &["daemon", "stop"]).expect(0);
}

#[test]
fn racing_commands_start_one() {
    let installed = Installed::new(true);
    std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| installed.run("serve", &["ps"]))).collect();
        for racer in racers {
            racer.join().unwrap().expect(0);
        }
    });
    assert_eq!(installed.served().len(), 1);
    installed.run("serve", &["daemon", "stop"]).expect(0);
}

#[test]
fn why_it_cannot_serve_is_told() {
    let installed = Installed::new(true);
    let refused = installed.run("refuses", &["--json", "ps"]).expect(1);
    assert_eq!(refused.json()["message"], "the state directory is not yours");
    let died = installed.run("dies", &["ps"]).expect(1);
    assert!(died.err().starts_with("error: the daemon ended before it served (exit status: 127)\n"), "{died}");
    assert!(died.err().contains("caused by:") && died.err().contains("\\u{1b}[2Jcannot load a library"), "{died}");
}

#[test]
fn a_missing_daemon_is_named() {
    let installed = Installed::new(false);
    let run = installed.run("serve", &["run", "--rm", "--", "true"]).expect(125);
    assert!(run.err().starts_with("error: cannot find bangerd, the daemon banger needs\n  caused by: "), "{run}");
    assert!(run.err().contains("\nhint: install bangerd beside banger"), "{run}");
}

#[test]
fn the_record_leads_to_a_socket_elsewhere() {
    let env = TestEnv::empty();
    let elsewhere = env.home().join("elsewhere.sock");
    fake::record(&elsewhere, &env.layout().daemon_lock());
    let answer = |line: &str, _: &serde_json::Value| line.starts_with("GET /v1/vms").then(|| Reply::Json(json!([])));
    let serve = move |listener| fake::serve(listener, Arc::new(answer), Arc::new(Mutex::new(Vec::new())));
    let _server = Background::at(&elsewhere, serve);
    banger(&env, ["ps"]).run().expect(0);
}

fn of_version(version: &'static str, api: u32) -> Daemon {
    Daemon::answering(move |line, _| {
        Some(Reply::Json(match line {
            "GET /v1/version" => json!({ "version": version, "api_version": api }),
            "GET /v1/vms?running=true" => json!([]),
            "GET /v1/daemon" => {
                json!({ "pid": 1, "version": version, "api_version": api, "socket": "/x", "uptime_s": 1, "running_vms": 0 })
            }
            _ => return None,
        }))
    })
}

#[test]
fn another_version_is_told_and_another_api_is_refused() {
    let older = of_version("0.0.1", 1);
    let run = older.banger(["ps"]).run().expect(0);
    assert_eq!(run.err().lines().count(), 1, "{run}");
    assert!(run.err().contains("0.0.1") && run.err().contains("banger daemon stop"), "{run}");
    assert_eq!(older.banger(["ps", "--quiet"]).run().expect(0).err(), "");

    let foreign = of_version("9.0.0", 2);
    let run = foreign.banger(["ps"]).run().expect(1);
    assert!(run.err().contains("speaks another API") && run.err().contains("hint: banger daemon stop"), "{run}");
    foreign.banger(["daemon", "status"]).run().expect(0);
}
