//! The helper for a whole machine: its units, and what it does where others live too.

use crate::world::{HELPER, Process, attach, policy, vm};
use banger_proto::{
    framing::{self, HEADER},
    helper::{Answer, Base, Request},
};
use banger_testkit::{Space, require, wait_until};
use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The worst exposure `systemd-analyze security` may find, in tenths: 2.5 of 10.
const EXPOSURE: &str = "25";

/// What the administrator of these machines gives to VMs.
const POOL: &str = "10.192.0.0/11";

#[test]
fn the_units_are_sound_and_expose_little() {
    if !require("systemd") {
        return;
    }
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/systemd");
    let temp = std::env::temp_dir().join(format!("banger-units-{}", std::process::id()));
    std::fs::create_dir_all(&temp).unwrap();
    let bin_dir = Path::new(HELPER).parent().unwrap().to_str().unwrap();
    let units = ["bangerd-root.socket", "bangerd-root.service"].map(|name| {
        let text = std::fs::read_to_string(templates.join(name)).unwrap().replace("@BINDIR@", bin_dir);
        let path = temp.join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let verified =
        Command::new("systemd-analyze").args(["verify", "--recursive-errors=no"]).args(&units).output().unwrap();
    let words = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && words.is_empty(), "{words}");
    let exposed = Command::new("systemd-analyze")
        .args(["security", "--offline=true", &format!("--threshold={EXPOSURE}")])
        .arg(&units[1])
        .output()
        .unwrap();
    assert!(exposed.status.success(), "{}", String::from_utf8_lossy(&exposed.stdout));
    std::fs::remove_dir_all(&temp).unwrap();
}

pub(crate) fn ask(stream: &mut UnixStream, request: &Request) -> Answer {
    stream.write_all(&framing::encode(request).unwrap()).unwrap();
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; framing::body_length(header).unwrap()];
    stream.read_exact(&mut body).unwrap();
    framing::decode(&body).unwrap()
}

/// A namespace that plays a machine, with the helper behind a socket as systemd would start it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) space: Space,
    socket: PathBuf,
    _activated: Process,
}

impl Machine {
    pub(crate) fn new(name: &str) -> Self {
        let space = Space::new();
        space.command("ip link set lo up");
        let socket = std::env::temp_dir().join(format!("banger-root-{name}-{}.sock", std::process::id()));
        let listen = socket.to_str().unwrap().to_owned();
        let activated = space.run(move || {
            Process(
                Command::new("systemd-socket-activate").args(["-l", &listen, HELPER, "system", POOL]).spawn().unwrap(),
            )
        });
        Self { space, socket, _activated: activated }
    }

    pub(crate) fn connect(&self) -> UnixStream {
        wait_until(Duration::from_secs(30), "the socket", || {
            UnixStream::connect(&self.socket).map_err(|error| error.to_string())
        })
    }

    /// The same as another user.
    pub(crate) fn connect_as(&self, uid: u32) -> UnixStream {
        drop(self.connect());
        std::fs::set_permissions(&self.socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        let socket = self.socket.clone();
        let connecting = std::thread::spawn(move || {
            let uid = rustix::process::Uid::from_raw(uid);
            // Of this thread alone: the kernel remembers who it was that connected.
            rustix::thread::set_thread_uid(uid).unwrap();
            UnixStream::connect(socket).unwrap()
        });
        connecting.join().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[test]
fn on_a_machine_with_others_only_guests_are_ruled() {
    if !require("netns") || !require("systemd") {
        return;
    }
    let machine = Machine::new("others");
    machine.space.commands(
        "nft add table inet mine
         nft add chain inet mine input { type filter hook input priority 0 ; policy accept ; }",
    );
    let others = machine.space.command("nft list table inet mine");
    let mut stream = machine.connect();
    for request in [crate::world::ensure(0), attach(0, 0, policy(Base::Internet, &[], &[]))] {
        let answer = ask(&mut stream, &request);
        assert!(matches!(answer, Answer::Done | Answer::Resolver), "{request:?}: {answer:?}");
    }
    let rules = machine.space.command("nft list table inet banger_0");
    for hook in ["forward", "input", "output"] {
        assert!(rules.contains(&format!("hook {hook} priority filter; policy accept;")), "{rules}");
    }
    // Another conversation of the same user goes on where the first one is.
    let mut second = machine.connect();
    let Answer::Status(status) = ask(&mut second, &Request::Status { of: None }) else { panic!("no status") };
    assert_eq!(status.vms, [vm(0)]);
    // Nonsense ends one conversation only.
    stream.write_all(b"\xff\xff\xff\xff").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(ask(&mut second, &Request::Reconcile { vms: Vec::new() }), Answer::Done);
    assert_eq!(machine.space.command("nft list ruleset"), others);
    assert!(!machine.space.command("ip -o link").contains("bb0"));
}
