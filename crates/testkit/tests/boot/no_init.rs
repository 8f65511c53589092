//! An image without an init: one static program and a few names for it, as many container images are.

use crate::{BOOT, delete, sh};
use banger_testkit::{Entry, ImageLayout, TestEnv, package, require, shared, wait_until};
use serde_json::json;
use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
};

/// Names the program goes by in it.
const APPLETS: [&str; 6] = ["cat", "kill", "ls", "sh", "sleep", "tr"];

/// A socket in it, as a program that was ended leaves one.
const SOCKET: &str = "door";

#[track_caller]
fn run(command: &mut Command) {
    let out = command.output().expect("a program of the host");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// The distribution's static busybox.
#[track_caller]
fn busybox(home: &Path) -> PathBuf {
    let unpacked = home.join("unpacked");
    run(Command::new("dpkg-deb").arg("-x").args([&package(home, "busybox-static"), &unpacked]));
    unpacked.join("bin/busybox")
}

/// A file system with it and a socket in it, and nothing else.
#[track_caller]
pub(crate) fn image(home: &Path) -> PathBuf {
    image_with(home, |_| {})
}

/// The same with what `more` puts below its root.
#[track_caller]
pub(crate) fn image_with(home: &Path, more: impl FnOnce(&Path)) -> PathBuf {
    let (root, file) = (home.join("root"), home.join("tiny.ext4"));
    fs::create_dir_all(root.join("bin")).expect("a directory");
    fs::copy(busybox(home), root.join("bin/busybox")).expect("the package's program");
    for name in APPLETS {
        symlink("busybox", root.join("bin").join(name)).expect("a link");
    }
    drop(UnixListener::bind(root.join(SOCKET)).expect("a socket"));
    more(&root);
    run(Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4", "-d"]).args([&root, &file]).arg("8M"));
    file
}

#[test]
fn the_agent_is_the_init_of_an_image_without_one_and_is_started_again_when_it_dies() {
    let _machine = shared();
    if !require("apt") {
        return;
    }
    let Some(env) = TestEnv::real() else { return };
    let file = image(env.home());
    let register = ["image", "register", "--name", "tiny", "--kernel-ref", "debian-6.1", "--rootfs"];
    env.banger(register).args([file]).run().expect(0);
    let run = ["vm", "run", "-d", "--name", "t", "--image", "tiny", "--init", "auto", "--memory", "256M", "--quiet"];
    env.banger(run).run().expect(0);
    assert_eq!(env.vm("t")["init"], "agent");
    assert_eq!(sh(&env, "t", "ls /bin | tr '\n' ' '; cat /proc/1/comm"), "busybox cat kill ls sh sleep tr init\n");
    // A socket is one here too, and goes like any file.
    let goes = format!("[ -S /{SOCKET} ] && echo there; busybox rm /{SOCKET}; [ -e /{SOCKET} ] || echo gone");
    assert_eq!(sh(&env, "t", &goes), "there\ngone\n");

    // It has a card, and no way out but to other VMs: no test's VM has, unless it says so.
    if require("netns") {
        let address = env.vm("t")["ip"].as_str().expect("an address").to_owned();
        assert!(sh(&env, "t", "busybox ifconfig eth0").contains(&format!("inet addr:{address} ")));
        assert!(sh(&env, "t", "busybox nslookup banger.invalid 2>&1; true").contains("REFUSED"));
        assert!(env.processes("pasta").is_empty() && !env.processes("bangerd-root").is_empty());
    }

    let agent = sh(&env, "t", "cat /run/initramfs/agent.pid");
    let boot = env.vm("t")["boot_id"].clone();
    let session = env.banger(["vm", "exec", "t", "--", "sleep", "1000"]).spawn();
    wait_until(BOOT, "a command that runs", || {
        let stats = env.banger(["vm", "health", "t", "--json"]).run().expect(0).json();
        if stats["execs"] == 1 { Ok(()) } else { Err(stats.to_string()) }
    });
    let killed = env.banger(["vm", "exec", "t", "--", "kill", "-9", agent.trim()]).run().expect(125);
    assert!(killed.err().contains("without saying how the command ended"), "{killed}");
    session.finish(BOOT).expect(125);
    wait_until(BOOT, "another agent", || {
        let out = env.banger(["vm", "exec", "t", "--", "cat", "/run/initramfs/agent.pid"]).run();
        if out.code() == 0 && out.out() != agent { Ok(()) } else { Err(out.to_string()) }
    });
    // The machine went on: it is the same boot, and what ran in it runs.
    let now = env.vm("t");
    assert_eq!((&now["state"], &now["boot_id"]), (&"running".into(), &boot), "{now:#}");
    let processes = sh(&env, "t", "cat /proc/[0-9]*/comm");
    assert!(processes.lines().any(|name| name == "sleep"), "{processes}");
    assert!(env.banger(["vm", "logs", "t"]).run().expect(0).out().contains("the agent died; it is started again"));

    env.banger(["vm", "exec", "t", "--", "poweroff"]).run();
    env.wait_state("t", "stopped", BOOT);
    delete(&env, "t");
}

#[test]
fn a_pulled_image_with_a_shell_and_no_init_has_its_shell_for_a_command_and_its_user_by_name() {
    let _machine = shared();
    if !require("apt") {
        return;
    }
    let Some(env) = TestEnv::real() else { return };
    let program = fs::read(busybox(env.home())).expect("the package's program");
    let mut image = ImageLayout::new(&env.home().join("layout"));
    image.layer(&[], |layer| {
        layer.add("bin/busybox", &Entry { mode: 0o755, ..Entry::FILE }, &program);
        // A shell it does not have is not missed where it has another.
        let users = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:34:www-data:/var/www:/bin/bash\n";
        layer.add("etc/passwd", &Entry::FILE, users);
        layer.add("etc/group", &Entry::FILE, "root:x:0:\nwww-data:x:34:\n");
        let link = Entry { kind: tar::EntryType::Symlink, link: b"busybox", ..Entry::FILE };
        for name in ["sh", "cat", "id"] {
            layer.add(format!("bin/{name}"), &link, "");
        }
    });
    let run = json!({"Env": ["GREETING=hello"], "WorkingDir": "/srv", "User": "www-data", "Cmd": ["/none"]});
    let source = image.finish("shell", &run);
    env.banger(["image", "pull", &source]).run().expect(0);
    // Its own command is for images that have no shell.
    let args = ["vm", "run", "--rm", "--quiet", "--memory", "256M", "--image", "shell"];
    let typed = "echo $GREETING in $PWD; cat /proc/1/comm; echo $(id -un):$(id -gn) $(id -u):$(id -g); exit 7\n";
    let out = env.banger(args).stdin(typed).patience(BOOT).run().expect(7);
    assert_eq!(out.out(), "hello in /srv\ninit\nwww-data:www-data 33:34\n", "{out}");
    env.assert_nothing_left();
}
