//! What is written stays, through a stop and through the death of the VMM.

use crate::{BOOT, delete, sh, start};
use banger_testkit::{TestEnv, shared, wait_until};
use rustix::process::Signal;

const WRITE: &str = "echo root > /root/data; mkdir -p /opt/x /srv/y; echo opt > /opt/x/data; echo etc >> /etc/motd; \
                     ln -s /opt/x/data /srv/y/link; rm -f /etc/issue";
const READ: &str = "cat /root/data /srv/y/link; tail -n1 /etc/motd; test ! -e /etc/issue && echo gone";
const WRITTEN: &str = "root\nopt\netc\ngone\n";

#[test]
fn data_survives_stop_and_start() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "keep");
    sh(&env, "keep", WRITE);
    env.banger(["vm", "stop", "keep"]).run().expect(0);
    env.banger(["vm", "start", "keep"]).run().expect(0);
    assert_eq!(sh(&env, "keep", READ), WRITTEN);

    // The end of a login, where the user's manager goes with it, is a stop too.
    sh(&env, "keep", "echo later > /root/later");
    for pid in ["vmm_pid", "shim_pid"] {
        assert!(env.vm_process("keep", pid).signal(Signal::WINCH));
    }
    env.wait_state("keep", "stopped", BOOT);
    assert_eq!(env.exit_cause("keep"), "poweroff");
    env.banger(["vm", "start", "keep"]).run().expect(0);
    assert_eq!(sh(&env, "keep", "cat /root/later"), "later\n");
    delete(&env, "keep");
}

#[test]
fn data_survives_a_stop_of_a_guest_that_goes_already() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "off");
    for verb in ["poweroff", "reboot"] {
        // Whoever does not end at TERM holds its end up, and what was written is not on the disk yet. That leaves
        // little time, so a stop may come before it, in between or too late, and all have to end the same way; that one
        // comes in between is what the agent's own tests see to. One that comes first asks everybody to end and waits
        // for them.
        let line = format!(
            "trap : TERM; {WRITE}; echo {verb} > /root/last; echo going; {verb}; \
             for i in $(seq 100); do sleep 0.1; done"
        );
        let session = env.banger(["vm", "exec", "off", "--", "sh", "-c", &line]).spawn();
        session.wait_stdout("going\n", BOOT);
        // A guest that comes back from a reboot would be ended by force, after all that time.
        let out = env.banger(["vm", "stop", "--timeout", "150s", "off"]).run().expect(0);
        assert!(!out.err().contains("did not power off"), "{verb}: {out}");
        assert_eq!(env.vm_state("off"), "stopped", "{verb}");
        assert!(env.processes("banger-shim").is_empty(), "{verb}: it came back");
        session.finish(BOOT);
        env.banger(["vm", "start", "off"]).run().expect(0);
        assert_eq!(sh(&env, "off", &format!("{READ}; cat /root/last")), format!("{WRITTEN}{verb}\n"));
    }
    delete(&env, "off");
}

#[test]
fn data_survives_a_stop_that_comes_while_copies_stand_still() {
    // More than the agent has threads for them (`COPY_THREADS`, 16): all of those wait in a read, and so would a sync
    // that took its turn among them. With just as many, one thread more in the agent would leave one for it, and this
    // would prove nothing.
    const COPIES: u64 = 20;
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "held");
    let copies: Vec<_> = (0..COPIES).map(|_| env.banger(["cp", "--quiet", "-", "held:/root"]).spawn()).collect();
    wait_until(BOOT, "copies that are under way", || {
        let stats = env.banger(["vm", "stats", "held", "--json"]).run().expect(0).json();
        if stats["guest"]["sessions"] == COPIES { Ok(()) } else { Err(stats.to_string()) }
    });
    sh(&env, "held", WRITE);
    env.banger(["vm", "stop", "--timeout", "60s", "held"]).run().expect(0);
    assert_eq!(env.exit_cause("held"), "poweroff");
    for copy in copies {
        copy.finish(BOOT);
    }
    env.banger(["vm", "start", "held"]).run().expect(0);
    assert_eq!(sh(&env, "held", READ), WRITTEN);
    delete(&env, "held");
}

#[test]
fn data_survives_a_stop_that_comes_while_the_agent_is_started_again() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    for init in ["image", "agent"] {
        let args = ["vm", "run", "--name", init, "-d", "--memory", "512M", "--quiet", "--init", init];
        env.banger(args).patience(BOOT).run().expect(0);
        // Process 1, or the guard, waits for half a second before it starts another.
        let line = format!("{WRITE}; kill -9 $(cat /run/initramfs/agent.pid)");
        env.banger(["vm", "exec", init, "--", "sh", "-c", &line]).run().expect(125);
        let out = env.banger(["vm", "stop", "--timeout", "60s", init]).run().expect(0);
        assert_eq!(env.exit_cause(init), "poweroff", "{init}: {out}");
        env.banger(["vm", "start", init]).patience(BOOT).run().expect(0);
        assert_eq!(sh(&env, init, READ), WRITTEN, "{init}");
        env.banger(["vm", "delete", "-f", init]).run().expect(0);
    }
    env.assert_nothing_left();
}

#[test]
fn synced_data_survives_a_killed_vmm() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "crash");
    sh(&env, "crash", &format!("{WRITE}; sync"));
    assert!(env.vm_process("crash", "vmm_pid").signal(Signal::KILL));
    env.wait_state("crash", "failed", BOOT);
    let reason = env.vm("crash")["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains("SIGKILL")), "{reason}");
    env.assert_consistent("qemu-system-x86_64");
    env.banger(["vm", "start", "crash"]).run().expect(0);
    assert_eq!(sh(&env, "crash", READ), WRITTEN);
    delete(&env, "crash");
}

/// Whoever is root in a guest tries to write to each of its disks that are not its own.
const TAMPER: &str = "
for disk in /sys/block/vd*; do
    [ $(cat $disk/ro) = 1 ] || continue
    device=/dev/${disk##*/}
    blockdev --setrw $device 2>/dev/null
    dd if=/dev/zero of=$device bs=4096 count=4 conv=fsync,notrunc 2>/dev/null && echo written to $device
    echo tried
done";

#[test]
fn a_guest_cannot_write_to_its_image() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "tamper");
    let id = env.vm("tamper")["image_id"].as_str().expect("an image").to_owned();
    let rootfs = env.layout().images().join(id).join("rootfs.ext4");
    let sum = || {
        let out = std::process::Command::new("sha256sum").arg(&rootfs).output().expect("sha256sum");
        assert!(out.status.success(), "{out:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let before = sum();
    let said = sh(&env, "tamper", TAMPER);
    assert!(said.contains("tried\n") && !said.contains("written"), "{said}");
    assert_eq!(sum(), before);
    delete(&env, "tamper");
}

#[test]
fn the_work_disk_has_the_size_asked_for() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let args = ["vm", "run", "--rm", "--memory", "256M", "--disk-size", "20G", "--quiet", "--"];
    let out = env.banger(args.into_iter().chain(["df", "-BG", "--output=size", "/root"])).run().expect(0).out();
    let size: u32 =
        out.split_whitespace().last().and_then(|size| size.trim_end_matches('G').parse().ok()).expect("a size");
    assert!((18..=20).contains(&size), "{out}");
    env.assert_nothing_left();
}

#[test]
fn a_larger_work_disk_is_larger_in_the_guest_and_keeps_its_data() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "grow");
    let size = "df -BM --output=size /root | tail -n1 | tr -dc 0-9";
    let mib = |env: &TestEnv| sh(env, "grow", size).trim().parse::<u64>().expect("a size");
    let before = mib(&env);
    sh(&env, "grow", WRITE);
    env.banger(["vm", "set", "grow", "--disk-size", "40G"]).run().expect(0);
    assert_eq!(mib(&env), before, "not while it runs");
    let boot =
        |env: &TestEnv| (env.vm("grow")["boot_id"].clone(), sh(env, "grow", "cat /proc/sys/kernel/random/boot_id"));
    let first = boot(&env);
    env.banger(["vm", "restart", "grow"]).run().expect(0);
    let second = boot(&env);
    assert!(first.0 != second.0 && first.1 != second.1, "a restart is a fresh kernel: {first:?}, {second:?}");
    assert_eq!(second.0.as_str(), Some(second.1.trim()));
    assert_eq!(sh(&env, "grow", READ), WRITTEN);
    let after = mib(&env);
    assert!((38 << 10..=40 << 10).contains(&after), "{before} -> {after} MiB");
    // What was gained can be written to.
    sh(&env, "grow", "dd if=/dev/urandom of=/root/new bs=1M count=8 status=none; sync; cmp /root/new /root/new");
    delete(&env, "grow");
}
