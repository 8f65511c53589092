//! A guest that is its host's enemy: every command that talks to it ends with a clear failure, in bounded time and
//! memory, and VMs beside it do not notice. The enemy is `hostile-agent`, which the fake VMM starts in VMs of that
//! name.

use crate::{SOON, delete, start};
use banger_testkit::{Identity, Output, TestEnv, wait_until};
use std::{
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Address space of a client, in KiB: one that collected what an endless guest says would not end as it should.
const CLIENT_ROOM: u32 = 2 << 20;
/// What the daemon, or the VM's shim, may need more than before, in KiB, when its guests are at their worst.
const ROOM: u64 = 48 << 10;

/// The most memory the daemon and a VM's shim ever had, in KiB.
fn residents(env: &TestEnv, name: &str) -> [u64; 2] {
    [env.daemon().expect("a daemon"), env.vm_process(name, "shim_pid")].map(|process| resident(&process))
}

#[track_caller]
fn have_not_grown(before: [u64; 2], after: [u64; 2]) {
    for (who, before, after) in [("daemon", before[0], after[0]), ("shim", before[1], after[1])] {
        assert!(after < before + ROOM, "the {who} grew from {before} to {after} KiB");
    }
}

fn resident(process: &Identity) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("its peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// `banger` with little memory.
#[track_caller]
fn confined(env: &TestEnv, args: &[&str]) -> Output {
    let banger = banger_testkit::bin_dir().join("banger");
    let line = format!("ulimit -v {CLIENT_ROOM}; exec {} \"$@\"", banger.display());
    env.program("sh").args(["-c", &line, "banger"]).args(args).patience(SOON * 3).run()
}

#[track_caller]
fn failed_clearly(output: &Output, status: i32) {
    assert_eq!(output.code(), status, "{output}");
    assert!(output.err().contains("error: ") && output.err().len() < 4096, "{output}");
}

/// Copies of every kind, but for those that an answer without an end does not fail: to stdout, where it goes through,
/// and from stdin, where its head is the answer.
fn copies(name: &str, ends: bool) -> Vec<(String, String)> {
    let there = format!("{name}:/place");
    let mut copies = vec![(there.clone(), format!("from-{name}")), ("note".to_owned(), there.clone())];
    if ends {
        copies.extend([("-".to_owned(), there.clone()), (there, "-".to_owned())]);
    }
    copies
}

/// One VM of the kind beside a good one, everything that talks to an agent tried on it.
fn everything_against(kind: &str, exec_status: Option<i32>) {
    let Some(env) = TestEnv::fake() else { return };
    let name = format!("hostile-{kind}");
    start(&env, "good");
    start(&env, &name);
    std::fs::write(env.home().join("home/note"), "a note\n").expect("a file");
    let before = residents(&env, &name);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Some(status) = exec_status {
                failed_clearly(&confined(&env, &["exec", &name, "--", "true"]), status);
            }
        });
        scope.spawn(|| failed_clearly(&confined(&env, &["vm", "ports", &name]), 1));
        for (from, to) in copies(&name, exec_status.is_some()) {
            let env = &env;
            scope.spawn(move || {
                let out = confined(env, &["cp", &from, &to]);
                failed_clearly(&out, 1);
                assert!(!out.err().contains("interrupted"), "{out}");
            });
        }
        scope.spawn(|| failed_clearly(&confined(&env, &["vm", "health", &name]), 1));
        scope.spawn(|| {
            let stats = confined(&env, &["vm", "stats", "--json", &name]).expect(0).json();
            assert!(stats["guest"].is_null() && stats["guest_failure"]["code"].is_string(), "{stats:#}");
        });
        scope.spawn(|| {
            for _ in 0..5 {
                env.banger(["exec", "good", "--", "echo", "fine"]).patience(SOON).run().expect(0);
            }
        });
    });
    have_not_grown(before, residents(&env, &name));
    // It cannot be asked to power off, so it is ended.
    env.banger(["vm", "stop", &name]).patience(SOON).run().expect(0);
    assert_eq!(env.vm_state(&name), "stopped");
    assert_eq!(env.banger(["exec", "good", "--", "echo", "fine"]).run().expect(0).out(), "fine\n");
    env.banger(["rm", "-f", &name, "good"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn garbage_is_an_error() {
    everything_against("garbage", Some(125));
}

#[test]
fn silence_is_an_error() {
    everything_against("silent", Some(125));
}

#[test]
fn an_answer_that_drips_is_an_error() {
    everything_against("slow", Some(125));
}

#[test]
fn lengths_that_cannot_be_are_an_error() {
    everything_against("huge", Some(125));
}

#[test]
fn a_body_without_an_end_is_an_error() {
    everything_against("endless", None);
}

#[test]
fn refusals_that_say_much_fill_nothing_and_are_in_nobodys_way() {
    let Some(env) = TestEnv::fake() else { return };
    std::fs::write(env.home().join("home/note"), "a note\n").expect("a file");
    env.configure_also("[[file_sync]]\nhost = \"~/note\"\nguest = \"/note\"\n");
    let name = "hostile-wordy";
    env.banger(["vm", "create", "--no-start", "--name", name]).run().expect(0);
    let before = resident(&env.daemon().expect("a daemon"));
    let out = confined(&env, &["vm", "start", name]);
    failed_clearly(&out, 1);
    for words in
        ["cannot copy the files of [[file_sync]] into the guest", "the guest's agent refused", "\\u{7f}\\u{7f}"]
    {
        assert!(out.err().contains(words), "{words}: {out}");
    }
    assert!(!out.err().contains("evil.example"), "a guest's hint for banger's: {out}");
    let vm = env.vm(name);
    let reason = vm["reason"].as_str().expect("a reason");
    assert_eq!((vm["state"].as_str(), reason.chars().count()), (Some("failed"), 500), "{reason}");
    assert!(env.banger(["vm", "list", "--json"]).run().expect(0).out().len() < 16 << 10);
    let log = std::fs::metadata(env.layout().daemon_log()).expect("the daemon's log").len();
    assert!(log < 256 << 10, "{log} bytes of log");
    let after = resident(&env.daemon().expect("a daemon"));
    assert!(after < before + ROOM, "the daemon grew from {before} to {after} KiB");
    env.banger(["rm", "-f", name]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn output_without_an_end_goes_through_and_is_not_collected() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "hostile-endless");
    let before = residents(&env, "hostile-endless");
    let banger = banger_testkit::bin_dir().join("banger");
    let line = format!(
        "ulimit -v {CLIENT_ROOM}; {} exec hostile-endless -- yes | head -c 300000000 | wc -c",
        banger.display()
    );
    let out = env.program("sh").args(["-c", &line]).patience(SOON * 3).run().expect(0);
    assert_eq!(out.out().trim(), "300000000");
    // The daemon is not in the way of streams, and the shim keeps none of them.
    have_not_grown(before, residents(&env, "hostile-endless"));
    env.banger(["rm", "-f", "hostile-endless"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_command_that_ends_in_an_impossible_way_is_a_failure_of_the_guest() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "hostile-status");
    failed_clearly(&confined(&env, &["exec", "hostile-status", "--", "true"]), 125);
    env.banger(["rm", "-f", "hostile-status"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_guest_that_talks_and_talks_is_heard_so_often_and_no_more() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "good");
    start(&env, "hostile-chatter");
    // How far it was heard; the log is cut where it is long.
    let told = || {
        let log = std::fs::read_to_string(env.layout().daemon_log()).expect("the daemon's log");
        let numbers = log.lines().filter_map(|line| line.split_once("trouble=\"chatter ")?.1.strip_suffix('"'));
        numbers.filter_map(|number| number.parse().ok()).max().unwrap_or(0)
    };
    wait_until(SOON * 2, "most of what is heard", || match told() {
        900_u32.. => Ok(()),
        told => Err(told.to_string()),
    });
    std::thread::scope(|scope| {
        scope
            .spawn(|| env.banger(["vm", "stop", "--timeout", "50s", "hostile-chatter"]).patience(SOON).run().expect(0));
        env.banger(["exec", "good", "--", "echo", "fine"]).patience(SOON).run().expect(0);
    });
    assert_eq!(env.exit_cause("hostile-chatter"), "poweroff");
    // It had three times as much to tell.
    assert!(told() < 1000, "{}", told());
    env.banger(["rm", "-f", "hostile-chatter", "good"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn an_archive_that_leads_out_is_refused_and_nothing_is_outside() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "hostile-escape");
    let place = env.home().join("home/in/here");
    let outside = env.home().join("home/in/outside");
    for dir in [&place, &outside] {
        std::fs::create_dir_all(dir).expect("a directory");
    }
    let target = place.join("got").display().to_string();
    failed_clearly(&confined(&env, &["cp", "hostile-escape:/tree", &target]), 1);
    assert_eq!(std::fs::read_dir(&outside).expect("it is there").count(), 0, "something got out");
    assert!(!std::path::Path::new("/tmp/banger-hostile-agent-was-here").exists());
    env.banger(["rm", "-f", "hostile-escape"]).run().expect(0);
    env.assert_nothing_left();
}

/// In the guest: a directory that becomes a link out of the tree and a directory again, a file that grows and shrinks.
fn stir(tree: &Path, outside: &Path) -> std::io::Result<()> {
    let door = tree.join("door");
    std::fs::remove_dir_all(&door)?;
    symlink(outside, &door)?;
    std::fs::write(tree.join("size"), vec![1; 100_000])?;
    std::fs::remove_file(&door)?;
    std::fs::create_dir(&door)?;
    std::fs::write(door.join("file"), "in")?;
    std::fs::File::options().write(true).open(tree.join("size"))?.set_len(10)
}

/// Tells whoever works meanwhile to end, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_tree_that_changes_under_a_copy_leads_nowhere() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "c");
    let place = env.home().join("home/copies");
    let (tree, outside, ours) = (place.join("tree"), place.join("outside"), place.join("ours"));
    for dir in [&tree.join("door"), &outside, &ours.join("door")] {
        std::fs::create_dir_all(dir).expect("a directory");
    }
    std::fs::write(tree.join("size"), "").expect("a file");
    std::fs::write(outside.join("secret"), "secret").expect("a file");
    for number in 0..50 {
        std::fs::write(ours.join(format!("door/{number}")), "ours").expect("a file");
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stirring = scope.spawn(|| {
            let mut times = 0_u32;
            while !over.load(Ordering::Relaxed) {
                // What a copy into the tree puts in the way is its right.
                times += u32::from(stir(&tree, &outside).is_ok());
            }
            times
        });
        let done = Done(&over);
        for number in 0..12 {
            let to = place.join(format!("out{number}"));
            let out = env.banger(["cp", &format!("c:{}", tree.display()), &to.display().to_string()]).run();
            // What is gone meanwhile is left out, and what changes is as it was at one moment or another.
            out.expect(0);
            let is_directory = to.join("door").symlink_metadata().is_ok_and(|door| door.is_dir());
            assert!(!(is_directory && to.join("door/secret").exists()), "a copy went through a link");
            let from = ours.join("door").display().to_string();
            let into = env.banger(["cp", &from, &format!("c:{}/", tree.display())]).run();
            // The place it goes to may be taken away under it, and then that is what is said; nothing else is.
            let refused = into.code() == 1
                && into.err().contains("caused by: the archive was not unpacked, or not wholly")
                && into.err().contains("cannot unpack \"door");
            assert!(into.code() == 0 || refused, "{into}");
        }
        drop(done);
        assert!(stirring.join().expect("no panic") > 0, "nothing changed");
    });
    let left: Vec<_> = std::fs::read_dir(&outside).expect("it is there").flatten().map(|it| it.file_name()).collect();
    assert_eq!(left, ["secret"], "something got out of the tree");
    // Once it is left alone, a copy into it arrives.
    std::fs::remove_dir_all(&tree).and_then(|()| std::fs::create_dir(&tree)).expect("a tree nobody changes");
    let from = ours.join("door").display().to_string();
    env.banger(["cp", &from, &format!("c:{}/", tree.display())]).run().expect(0);
    assert_eq!(std::fs::read_to_string(tree.join("door/49")).expect("it arrived"), "ours");
    delete(&env, "c");
}
