//! `vm set`: what is refused, what waits for the next start, and what a start makes of it.

use crate::{delete, start};
use banger_testkit::TestEnv;

#[test]
fn a_stopped_vm_takes_other_sizes_at_its_next_start() {
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["vm", "create", "--no-start", "--name", "v", "--disk-size", "64M"]).run().expect(0);
    // What was typed wrong can be taken back until a start has made the disk so large.
    env.banger(["vm", "set", "v", "--disk-size", "800M"]).run().expect(0);
    env.banger(["vm", "set", "v", "--vcpu", "3", "--memory", "256M", "--disk-size", "80M"]).run().expect(0);
    let vm = env.vm("v");
    assert_eq!((&vm["vcpu"], &vm["memory"], &vm["disk_size"]), (&3.into(), &(256 << 20).into(), &(80 << 20).into()));
    assert_eq!((&vm["pending"], &vm["sources"]["vcpu"]), (&serde_json::json!([]), &"flag".into()));
    env.banger(["vm", "start", "v"]).run().expect(0);
    let id = vm["id"].as_str().expect("an id").parse().expect("a valid one");
    let disk = env.layout().vm(&id).join("work.ext4");
    assert_eq!(std::fs::metadata(disk).expect("a disk").len(), 80 << 20);
    let refused = env.banger(["vm", "set", "v", "--disk-size", "64M"]).run().expect(1);
    assert!(refused.err().contains("this one has 80 MiB"), "{refused}");
    delete(&env, "v");
}

#[test]
fn a_running_vm_keeps_what_it_has_and_says_what_is_to_come() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "r");
    let out = env.banger(["vm", "set", "r", "--memory", "192M"]).run().expect(0);
    assert!(out.err().contains("banger vm restart r"), "{out}");
    assert_eq!(env.vm("r")["pending"], serde_json::json!(["memory"]));
    // What waits is not forgotten with the daemon.
    env.banger(["daemon", "stop"]).run().expect(0);
    assert_eq!(env.vm("r")["pending"], serde_json::json!(["memory"]));
    env.banger(["vm", "restart", "r"]).run().expect(0);
    assert_eq!((&env.vm("r")["pending"], &env.vm("r")["memory"]), (&serde_json::json!([]), &(192 << 20).into()));
    delete(&env, "r");
}

/// In MiB.
fn memory_of_this_host() -> u64 {
    let memory = std::fs::read_to_string("/proc/meminfo").expect("what this host has");
    let line = memory.lines().find(|line| line.starts_with("MemTotal:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).map(|kib: u64| kib >> 10).expect("KiB")
}

#[test]
fn a_restart_that_cannot_be_takes_nothing_down() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "v");
    let vmm = env.vm_process("v", "vmm_pid");
    let is_refused = |why: &str| {
        let out = env.banger(["vm", "restart", "v"]).run().expect(1);
        assert!(out.err().contains(why), "{out}");
        assert_eq!((env.vm_state("v").as_str(), vmm.is_alive()), ("running", true), "{out}");
    };
    // All there is: it would fit, but something is always in use.
    env.banger(["vm", "set", "v", "--memory", &format!("{}M", memory_of_this_host())]).run().expect(0);
    is_refused("does not fit");
    env.banger(["vm", "set", "v", "--memory", "192M"]).run().expect(0);
    // A monitor that was removed since.
    let before = std::fs::read_to_string(env.layout().config_file()).expect("its configuration");
    env.configure("qemu_bin = \"/nowhere/qemu\"\n");
    env.banger(["daemon", "stop"]).run().expect(0);
    is_refused("/nowhere/qemu");
    env.configure(&before);
    env.banger(["daemon", "stop"]).run().expect(0);
    env.banger(["vm", "restart", "v"]).run().expect(0);
    assert!(!vmm.is_alive());
    delete(&env, "v");
}

#[test]
fn more_memory_than_is_free_is_refused_unless_it_is_overcommitted_and_then_it_starts() {
    let Some(env) = TestEnv::fake() else { return };
    let mib = memory_of_this_host();
    let more = format!("{}M", mib + 1024);
    let run = ["vm", "run", "-d", "--quiet", "--name", "large", "--memory", &more];
    let refused = env.banger(run).run().expect(125);
    assert!(refused.err().contains("does not fit") && refused.err().contains("--overcommit"), "{refused}");
    assert_eq!(crate::vms(&env), []);
    env.banger(run.iter().chain(&["--overcommit"])).run().expect(0);
    let vm = env.vm("large");
    assert_eq!((&vm["state"], &vm["memory"]), (&"running".into(), &((mib + 1024) << 20).into()), "{vm:#}");
    assert_eq!(env.banger(["exec", "large", "--", "echo", "up"]).run().expect(0).out(), "up\n");
    // It was said once, for the VM's life.
    env.banger(["vm", "restart", "large"]).run().expect(0);
    delete(&env, "large");
}

#[test]
fn a_set_is_kept_as_a_whole_or_not_at_all() {
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["vm", "run", "-d", "--quiet", "--name", "v", "--disk-size", "128M"]).run().expect(0);
    let before = env.vm("v");
    for refused in [&["--no-nat", "--disk-size", "64M"][..], &["--allow", "10.0.0.0/8", "--memory", "1000000G"]] {
        env.banger(["vm", "set", "v"].iter().chain(refused)).run().expect(1);
        assert_eq!(env.vm("v"), before, "{refused:?}");
    }
    env.banger(["vm", "set", "v", "--no-nat", "--disk-size", "192M"]).run().expect(0);
    let after = env.vm("v");
    assert_eq!((&after["nat"], &after["disk_size"]), (&false.into(), &(192 << 20).into()), "{after:#}");
    delete(&env, "v");
}

#[test]
fn sizes_that_cannot_be_are_refused_and_nothing_changes() {
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["vm", "create", "--no-start", "--name", "v", "--disk-size", "128M"]).run().expect(0);
    let before = env.vm("v");
    for (args, status) in [
        (&["--disk-size", "64M"][..], 1),
        (&["--memory", "1000000G"], 1),
        (&["--memory", "64M"], 2),
        (&["--vcpu", "0"], 2),
        (&["--vcpu", "33"], 2),
        (&["--disk-size", "2T"], 2),
        (&[], 2),
    ] {
        env.banger(["vm", "set", "v"].iter().chain(args)).run().expect(status);
    }
    env.banger(["vm", "set", "nobody", "--vcpu", "1"]).run().expect(1);
    assert_eq!(env.vm("v"), before);
    let refused = env.banger(["vm", "set", "v", "--disk-size", "64M", "--json"]).run().expect(1).json();
    assert_eq!(refused[0]["failure"]["code"], "invalid", "{refused:#}");
    delete(&env, "v");
}
