//! `vm stats` says what the host's own accounts of the monitor and its disk say.

use crate::{delete, start};
use banger_testkit::{Identity, TestEnv};
use std::os::unix::fs::MetadataExt;

/// What the host knows of a VM's monitor: milliseconds of processor time, and resident bytes.
fn accounts(vmm: &Identity) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vmm.pid)).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    (u64::try_from(vmm.processor_time().as_millis()).expect("a number"), kib << 10)
}

#[test]
fn what_a_vm_takes_is_what_the_host_says() {
    let Some(mut env) = TestEnv::fake() else { return };
    // A guest that computes: a number that stands still would be right by chance.
    env.set_variable("FAKE_QEMU_SPIN", "yes");
    start(&env, "v");
    let vmm = env.vm_process("v", "vmm_pid");
    let id = env.vm("v")["id"].as_str().expect("an id").parse().expect("a valid one");
    let disk = env.layout().vm(&id).join("work.ext4");
    let blocks = || std::fs::metadata(&disk).expect("its disk").blocks() * 512;
    let number = |stats: &serde_json::Value, key: &str| stats[key].as_u64().expect("a number");
    let mut last = 0;
    for _ in 0..2 {
        let (cpu_before, memory_before) = accounts(&vmm);
        let disk_before = blocks();
        let stats = env.banger(["vm", "stats", "--json", "v"]).run().expect(0).json();
        let ((cpu_after, memory_after), disk_after) = (accounts(&vmm), blocks());
        let (cpu, memory, used) =
            (number(&stats, "vmm_cpu_ms"), number(&stats, "vmm_rss"), number(&stats, "disk_used"));
        assert!((cpu_before..=cpu_after).contains(&cpu), "{cpu} ms are not {cpu_before} to {cpu_after}");
        assert!(cpu >= last, "{cpu} ms after {last}");
        last = cpu;
        // The kernel counts pages in heaps of a few dozen for each thread.
        let slack = 4 << 20;
        let least = memory_before.min(memory_after).saturating_sub(slack);
        let most = memory_before.max(memory_after) + slack;
        assert!((least..=most).contains(&memory), "{memory} bytes are not {least} to {most}");
        assert!((disk_before.min(disk_after)..=disk_before.max(disk_after)).contains(&used), "{used} bytes of a disk");
        assert!(used > 0);
    }
    assert!(last > 0, "it computes");
    delete(&env, "v");
}
