//! An image whose init is not systemd: busybox's, which says nothing when it is done.

use crate::{BOOT, delete, no_init::image_with, sh};
use banger_testkit::{TestEnv, require, shared, wait_until};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

/// What it runs at the end, before it ends processes: longer than a monitor is left alone after its guest's last word,
/// where that is asked for.
const AT_THE_END: &str = "#!/bin/sh\nif [ -e /root/slow ]; then rm /root/slow; sleep 12; fi; echo done > /root/end\n";

fn furnish(root: &Path) {
    for dir in ["etc", "root", "sbin"] {
        fs::create_dir(root.join(dir)).expect("a directory");
    }
    for name in ["sbin/init", "bin/poweroff", "bin/reboot", "bin/rm", "bin/touch"] {
        symlink("/bin/busybox", root.join(name)).expect("a link");
    }
    fs::write(root.join("etc/inittab"), "::shutdown:/etc/end\n").expect("a file");
    fs::write(root.join("etc/end"), AT_THE_END).expect("a file");
    fs::set_permissions(root.join("etc/end"), fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[test]
fn an_init_that_says_nothing_has_its_time_and_its_words_are_heeded() {
    let _machine = shared();
    if !require("apt") {
        return;
    }
    let Some(env) = TestEnv::real() else { return };
    let file = image_with(env.home(), furnish);
    let register = ["image", "register", "--name", "plain", "--kernel-ref", "debian-6.1", "--rootfs"];
    env.banger(register).args([file]).run().expect(0);
    // Firecracker goes on under a guest whose init powers it off without a word.
    let run = ["vm", "run", "-d", "--name", "p", "--vmm", "qemu", "--image", "plain", "--memory", "256M"];
    env.banger(run).args(["--quiet", "--wait", "boot"]).patience(BOOT).run().expect(0);
    let vm = env.vm("p");
    assert_eq!((&vm["init"], &vm["boot_state"]), (&"image".into(), &"unknown".into()), "{vm:#}");
    assert_eq!(sh(&env, "p", "cat /proc/1/comm"), "init\n");

    // Its own end may reach the client before the status does.
    env.banger(["vm", "exec", "p", "--", "reboot"]).run();
    wait_until(BOOT, "a fresh kernel", || {
        let now = env.vm("p");
        let is_fresh = now["boot_id"].is_string() && now["boot_id"] != vm["boot_id"];
        if now["state"] == "running" && is_fresh { Ok(()) } else { Err(format!("{now:#}")) }
    });
    assert_eq!(sh(&env, "p", "cat /root/end; rm /root/end; touch /root/slow"), "done\n");

    env.banger(["vm", "stop", "--timeout", "120s", "p"]).run().expect(0);
    assert_eq!(env.exit_cause("p"), "poweroff");
    env.banger(["vm", "start", "p"]).patience(BOOT).run().expect(0);
    assert_eq!(sh(&env, "p", "cat /root/end"), "done\n");

    env.banger(["vm", "exec", "p", "--", "poweroff"]).run();
    env.wait_state("p", "stopped", BOOT);
    assert_eq!(env.exit_cause("p"), "poweroff");
    delete(&env, "p");
}
