//! The serial console of a real guest: followed while it is written, and flooded.

use crate::{BOOT, delete, sh, start};
use banger_testkit::{Identity, TestEnv, shared, wait_until};
use rustix::process::Signal;
use std::time::Instant;

/// What the log of one console may take.
const CAP: u64 = 256 << 10;

/// How often a process has waited for something so far.
fn waits(process: &Identity) -> u128 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("it runs");
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("it is counted");
    count.trim().parse().expect("a number")
}

#[test]
fn what_a_guest_writes_to_its_console_is_followed_as_it_comes() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "told");
    let session = env.banger(["vm", "logs", "-f", "told"]).spawn();
    for word in ["first-word", "second-word", "third-word"] {
        assert!(!session.stdout_so_far().contains(word));
        sh(&env, "told", &format!("echo {word} > /dev/console"));
        session.wait_stdout(word, BOOT);
    }
    session.signal(Signal::TERM);
    session.finish(BOOT);
    // What was followed is what is kept.
    let tail = env.banger(["vm", "logs", "--tail", "3", "told"]).run().expect(0).out();
    let words: Vec<&str> = tail.split_whitespace().collect();
    assert_eq!(words, ["first-word", "second-word", "third-word"], "{tail}");
    delete(&env, "told");
}

#[test]
fn a_console_at_full_speed_stays_within_its_cap_and_leaves_the_host_its_processors() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    env.configure(&format!("console_cap = \"{}KiB\"\n", CAP >> 10));
    start(&env, "flood");
    start(&env, "beside");
    let shim = env.vm_process("flood", "shim_pid");
    let id = env.vm("flood")["id"].as_str().expect("an id").parse().expect("a valid one");
    let dir = env.layout().vm(&id);
    let size = || -> u64 {
        let files = ["console.log", "console.log.1"].map(|name| std::fs::metadata(dir.join(name)));
        files.iter().flatten().map(std::fs::Metadata::len).sum()
    };
    let (waits_before, computed_before, began) = (waits(&shim), shim.processor_time(), Instant::now());
    let flood = env.banger(["exec", "flood", "--", "sh", "-c", "exec yes 'a flood of words' > /dev/console"]).spawn();
    // Four times what is kept has been written, and never more is there than may be.
    let rotations = std::cell::Cell::new((0, 0));
    wait_until(BOOT, "several rotations of the log", || {
        let bytes = size();
        assert!(bytes <= CAP, "{bytes} bytes of a console");
        let now = std::fs::metadata(dir.join("console.log")).map_or(0, |file| file.len());
        let (count, last) = rotations.get();
        let count = count + u32::from(now < last);
        rotations.set((count, now));
        if count >= 8 { Ok(()) } else { Err(format!("{count} rotations, {bytes} bytes")) }
    });
    // The guest's end of it is its VMM's processor. This side rests after each read, so its share is bounded: it was
    // not woken for each of the million bytes.
    let (waited, passed) = (waits(&shim) - waits_before, began.elapsed());
    assert!(waited < 2 * passed.as_millis(), "the shim was woken {waited} times in {passed:?}");
    // One that never waits is woken for nothing, and takes all of a processor.
    let computed = shim.processor_time().saturating_sub(computed_before);
    assert!(2 * computed < passed, "the shim computed for {computed:?} of {passed:?}");
    assert_eq!(sh(&env, "beside", "echo unmoved"), "unmoved\n");
    assert_eq!(sh(&env, "flood", "echo answers"), "answers\n");
    flood.signal(Signal::TERM);
    flood.finish(BOOT);
    assert!(size() <= CAP);
    env.banger(["vm", "delete", "-f", "beside"]).run().expect(0);
    delete(&env, "flood");
}
