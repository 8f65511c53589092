//! Other users of the host: neither end of the daemon's and a VM's sockets talks to them, even if the modes of the
//! directories are opened.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use banger_proto::agent::link::AGENT_PORT;
use banger_testkit::{TestEnv, require, wait_until};
use rustix::{
    fs::{Mode, OFlags, open},
    process::Uid,
    thread::set_thread_res_uid,
};
use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{PermissionsExt, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::Duration,
};

/// A user who is neither root nor the one who runs the tests.
const STRANGER: u32 = 65534;
const REQUEST: &[u8] = b"GET /v1/vms HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Sends a request to the daemon's socket in `directory` as `user`; returns the answer.
fn ask(directory: &Path, user: Option<u32>) -> String {
    say(directory, "bangerd.sock", REQUEST.to_vec(), user)
}

/// Writes to the socket `name` in `directory` as `user`; returns the answer. The directory is entered as the user of
/// the test.
fn say(directory: &Path, name: &str, words: Vec<u8>, user: Option<u32>) -> String {
    let directory = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let asking = std::thread::spawn(move || {
        if let Some(user) = user {
            // This thread's alone, which ends with its question.
            let user = Uid::from_raw(user);
            set_thread_res_uid(user, user, user).unwrap();
        }
        let mut stream = UnixStream::connect(path).expect("the modes do not forbid it");
        // One that is hung up on may see that already when it writes.
        let _ = stream.write_all(&words);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    });
    asking.join().unwrap()
}

fn let_everybody_in(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn a_daemon_hangs_up_on_another_user() {
    if !require("root") {
        return;
    }
    let env = TestEnv::empty();
    env.banger(["ps"]).run().expect(0);
    let run = &env.layout().run;
    let_everybody_in(run);
    let_everybody_in(&env.layout().daemon_socket());
    assert!(ask(run, None).starts_with("HTTP/1.1 200"));
    assert_eq!(ask(run, Some(STRANGER)), "");
    wait_until(Duration::from_secs(20), "a word in the log", || {
        let log = fs::read_to_string(env.layout().daemon_log()).unwrap();
        if log.contains("refused another user's connection uid=65534") { Ok(()) } else { Err(log) }
    });
    assert!(ask(run, None).starts_with("HTTP/1.1 200"), "it goes on");
    fs::set_permissions(run, Permissions::from_mode(0o700)).unwrap();
    env.assert_nothing_left();
}

#[test]
fn a_vm_hangs_up_on_another_user() {
    if !require("root") {
        return;
    }
    let Some(env) = TestEnv::fake() else { return };
    crate::start(&env, "w");
    let run = env.layout().vm_run(&env.vm("w")["id"].as_str().unwrap().parse().unwrap());
    let_everybody_in(&run);
    let health = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let words = [format!("CONNECT {AGENT_PORT}\n").as_bytes(), health].concat();
    for name in ["vsock.sock", "agent.sock"] {
        let_everybody_in(&run.join(name));
        assert!(say(&run, name, words.clone(), None).contains("HTTP/1.1 200"), "{name}");
        assert_eq!(say(&run, name, words.clone(), Some(STRANGER)), "", "{name}");
        assert!(say(&run, name, words.clone(), None).contains("HTTP/1.1 200"), "{name} goes on");
    }
    // One that speaks first, and goes on for ever, where it is allowed at all.
    let_everybody_in(&run.join("control.sock"));
    assert_eq!(say(&run, "control.sock", b"\n".to_vec(), Some(STRANGER)), "");
    let mut ours = UnixStream::connect(run.join("control.sock")).unwrap();
    ours.set_read_timeout(Some(crate::SOON)).unwrap();
    ours.read_exact(&mut [0; 8]).unwrap();
    fs::set_permissions(&run, Permissions::from_mode(0o700)).unwrap();
    crate::delete(&env, "w");
}

#[test]
fn a_client_says_nothing_to_another_users_daemon() {
    if !require("root") {
        return;
    }
    let env = TestEnv::empty();
    // A home that the stranger can reach, with a program in it, and a socket of somebody else where its daemon's would
    // be.
    let home = tempfile::Builder::new().prefix("bx").tempdir_in("/tmp").unwrap();
    let banger = home.path().join("banger");
    fs::copy(banger_testkit::bin_dir().join("banger"), &banger).unwrap();
    for directory in ["run", "state", "config", "cache"].map(|name| home.path().join(name)) {
        fs::create_dir(&directory).unwrap();
        chown(&directory, Some(STRANGER), Some(STRANGER)).unwrap();
    }
    let_everybody_in(home.path());
    let socket = home.path().join("run/bangerd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let_everybody_in(&socket);
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        listener.accept().unwrap().0.read_to_string(&mut said).unwrap();
        said
    });
    let ids = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let out = env
        .program("setpriv")
        .args(ids)
        .args([banger.as_os_str(), "ps".as_ref()])
        .env("BANGER_HOME", home.path())
        .current_dir(home.path())
        .run()
        .expect(1);
    assert!(out.err().contains("belongs to user 0, not to you"), "{out}");
    assert_eq!(said.join().unwrap(), "", "not a byte");
}
