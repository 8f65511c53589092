//! Invalid arguments fail before the daemon is asked anything, with the exit status of their command.

use crate::fake::{Daemon, banger};
use banger_testkit::TestEnv;
use serde_json::json;

/// A daemon that must not get any request.
fn untouched() -> Daemon {
    Daemon::answering(|_, _| None)
}

#[test]
fn bad_names_are_refused() {
    let daemon = untouched();
    let long = "x".repeat(64);
    for name in ["", &long, "..", "-x", "x-", "Demo", "dämon", "a b", "a/b", "\u{1b}[2J"] {
        let name_flag = format!("--name={name}");
        let run = daemon.banger(["vm", "run", &name_flag, "--", "true"]).run().expect(125);
        assert!(run.err().starts_with("error: ") && run.out().is_empty(), "{run}");
        assert!(!run.err().contains('\u{1b}'), "{run}");
        daemon.banger(["vm", "create", &name_flag]).run().expect(2);
        daemon.banger(["vm", "show", "--", name]).run().expect(2);
    }
    assert!(!daemon.contacted());
}

#[test]
fn impossible_sizes_are_refused() {
    let daemon = untouched();
    for flag in [
        "--vcpu=0",
        "--vcpu=-1",
        "--vcpu=33",
        "--vcpu=two",
        "--vcpu=99999999999999999999",
        "--memory=1",
        "--memory=0",
        "--memory=-1G",
        "--memory=99999999T",
        "--memory=lots",
        "--disk-size=1M",
        "--disk-size=2T",
        "--disk-size=-8G",
        "--init=systemd",
        "--vmm=xen",
        "--wait=forever",
        "--env==x",
        "--image=../x",
        "--kernel=..",
        "--nope",
    ] {
        daemon.banger(["run", flag, "--", "true"]).run().expect(125);
        daemon.banger(["vm", "create", flag]).run().expect(2);
    }
    assert!(!daemon.contacted());
}

#[test]
fn what_contradicts_itself_is_refused_before_anything_is_created() {
    let daemon = untouched();
    for args in [
        ["run", "-d", "--rm"].as_slice(),
        &["run", "-d", "--", "true"],
        &["vm", "run", "."],
        &["vm", "run", "make"],
        &["vm", "run", "--include-untracked", "--", "make"],
        &["vm", "run", "-v", "/a:/b", "--", "true"],
    ] {
        let run = daemon.banger(args).run().expect(125);
        assert!(run.err().contains("\nhint: "), "{run}");
    }
    for args in [["cp", "a", "b"], ["cp", "a:/x", "b:/y"], ["cp", "a:x", "b"], ["cp", "a:/x/../y", "b"]] {
        daemon.banger(args).run().expect(1);
    }
    assert!(!daemon.contacted());
}

#[test]
fn json_failures_have_one_shape() {
    let daemon = untouched();
    let usage = daemon.banger(["--json", "vm", "show", ".."]).run().expect(2);
    assert_eq!(usage.json()["code"], "invalid");
    assert!(usage.err().is_empty(), "{usage}");
    // Stdout belongs to the guest command, so the failure is on stderr.
    let session = daemon.banger(["--json", "vm", "run", "--vcpu", "0", "--", "true"]).run().expect(125);
    assert!(session.out().is_empty(), "{session}");
    let failure: serde_json::Value = serde_json::from_str(&session.err()).unwrap();
    assert_eq!(failure["code"], "invalid");
    assert_eq!(failure["hints"], json!([]));
}

#[test]
fn a_guest_commands_own_words_are_not_ours() {
    let daemon = untouched();
    let run = daemon.banger(["run", "--vcpu", "0", "--", "x", "--json"]).run().expect(125);
    assert!(run.err().starts_with("error: "), "{run}");
}

#[test]
fn without_a_home_there_is_no_place() {
    let env = TestEnv::empty();
    let run = banger(&env, ["ps"]).env_remove("HOME").env_remove("BANGER_HOME").run().expect(1);
    insta::assert_snapshot!(run.err(), @r"
    error: cannot tell where banger's files are: neither HOME nor BANGER_HOME is set
    hint: set HOME to an absolute path
    ");
}
