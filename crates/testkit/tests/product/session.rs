//! `vm run` and `vm exec`: streams, statuses, environment.

use crate::{SOON, delete, start};
use banger_testkit::TestEnv;

const RUN: [&str; 4] = ["vm", "run", "--rm", "--"];

#[test]
fn statuses_pass_through() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "s");
    for (line, status) in [("true", 0), ("exit 42", 42), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        env.banger(["vm", "exec", "s", "--", "sh", "-c", line]).run().expect(status);
    }
    let missing = env.banger(["vm", "exec", "s", "--", "no-such-command"]).run().expect(127);
    insta::assert_snapshot!(env.filtered(&missing));
    let directory = env.banger(["vm", "exec", "s", "--", "/etc"]).run().expect(126);
    insta::assert_snapshot!(env.filtered(&directory));
    delete(&env, "s");
}

#[test]
fn run_prints_what_it_starts_and_passes_the_status() {
    let Some(env) = TestEnv::fake() else { return };
    let out = env.banger(
        ["vm", "run", "--rm", "--name", "one", "--vcpu", "2", "--memory", "512M", "--"].into_iter().chain([
            "sh",
            "-c",
            "echo out; echo err >&2; exit 42",
        ]),
    );
    let out = out.run().expect(42);
    insta::assert_snapshot!(env.filtered(&out));
    env.assert_nothing_left();
}

#[test]
fn quiet_run_says_nothing_of_its_own() {
    let Some(env) = TestEnv::fake() else { return };
    let out =
        env.banger(["--quiet"].into_iter().chain(RUN).chain(["sh", "-c", "echo out; echo err >&2"])).run().expect(0);
    assert_eq!((out.out().as_str(), out.err().as_str()), ("out\n", "err\n"));
    env.assert_nothing_left();
}

#[test]
fn argv_is_never_joined() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "argv");
    let args = ["a b", "", "$HOME", "*", "'\"", "\u{1F980}", "-x", "a\nb"];
    let out = env.banger(["vm", "exec", "argv", "--", "printf", "[%s]"].into_iter().chain(args)).run().expect(0);
    assert_eq!(out.out(), args.map(|arg| format!("[{arg}]")).concat());
    delete(&env, "argv");
}

#[test]
fn bytes_pass_through_unchanged() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "bytes");
    let bytes: Vec<u8> = (0..20_000_003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = env.banger(["vm", "exec", "bytes", "--", "cat"]).stdin(bytes.clone()).run().expect(0);
    assert!(out.stdout == bytes, "{} bytes went in, {} others came out", bytes.len(), out.stdout.len());
    // A command that does not read is no reason to hang or to fail.
    env.banger(["vm", "exec", "bytes", "--", "true"]).stdin(bytes).patience(SOON).run().expect(0);
    delete(&env, "bytes");
}

#[test]
fn environment_and_directory_reach_the_command() {
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["vm", "run", "-d", "--quiet", "--name", "e", "-e", "KEPT=always", "-e", "SHOWN=no", "-w", "/usr"])
        .run()
        .expect(0);
    let out =
        env.banger(["vm", "exec", "-e", "KEPT=now", "e", "--", "sh", "-c", "echo $KEPT-$SHOWN-$(pwd)"]).run().expect(0);
    assert_eq!(out.out(), "now-no-/usr\n");
    let out = env.banger(["vm", "exec", "-w", "/etc", "e", "--", "sh", "-c", "echo $KEPT; pwd"]).run().expect(0);
    assert_eq!(out.out(), "always\n/etc\n");
    let shown = env.banger(["vm", "show", "e"]).run().expect(0).out();
    assert!(shown.contains("KEPT") && !shown.contains("always"), "{shown}");
    delete(&env, "e");
}

#[test]
fn a_signal_to_the_client_reaches_the_command() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "sig");
    let line = "trap 'echo caught; exit 7' TERM; echo waiting; while :; do sleep 0.1; done";
    let session = env.banger(["vm", "exec", "sig", "--", "sh", "-c", line]).spawn();
    session.wait_stdout("waiting\n", SOON);
    session.signal(rustix::process::Signal::TERM);
    assert_eq!(session.finish(SOON).expect(7).out(), "waiting\ncaught\n");
    delete(&env, "sig");
}

#[test]
fn a_closed_stdout_ends_the_client_and_the_command() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "pipe");
    let banger = banger_testkit::bin_dir().join("banger");
    let line = format!("{} vm exec pipe -- yes | head -n 1", banger.display());
    let out = env.program("bash").args(["-c", &line]).patience(SOON).run().expect(0);
    assert_eq!(out.out(), "y\n");
    delete(&env, "pipe");
}
