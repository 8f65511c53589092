//! Real shells that fail, flood, fork and ignore signals.

use super::*;
use banger_testkit::{marked_processes, require, wait_until};
use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    process::Command,
    thread,
    time::Instant,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn sh(script: &str) -> Program {
    Program::new("sh", "dash").arg("-c").arg(script)
}

fn run(script: &str) -> Result<Vec<u8>, ProgramError> {
    sh(script).capture(1 << 20, &Cancel::default())
}

#[test]
fn a_file_that_cannot_be_executed_is_passed_over() {
    use std::os::unix::fs::PermissionsExt as _;
    let temp = tempfile::tempdir().unwrap();
    let place = |directory: &str, mode| {
        let directory = temp.path().join(directory);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("tool"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(directory.join("tool"), fs::Permissions::from_mode(mode)).unwrap();
        directory
    };
    let (plain, program) = (place("plain", 0o644), place("bin", 0o755));
    let directory = temp.path().join("directories");
    fs::create_dir_all(directory.join("tool")).unwrap();
    let search_path = std::env::join_paths([directory, plain, program.clone()]).unwrap();
    assert_eq!(Program::find_in(&search_path, "tool"), Some(program.join("tool")));
    assert_eq!(Program::find_in(&search_path, "other"), None);
    assert_eq!(Program::find_in("relative".as_ref(), "tool"), None);
}

#[test]
fn stdout_is_returned_and_the_environment_is_known() {
    let out = sh("printf '%s|' \"$HOME\" \"$LANG\" \"$USER\"; pwd; cat")
        .env("HOME", "/somewhere")
        .directory("/usr")
        .capture(1000, &Cancel::default())
        .unwrap();
    assert_eq!(out, b"/somewhere|C.UTF-8||/usr\n");
}

#[test]
fn stderr_is_heard_line_by_line_while_stdout_is_read() {
    let mut heard = Vec::new();
    let script = "printf 'I: one\nI: t' >&2; echo out; printf 'wo\\033\nrest' >&2";
    let out = sh(script)
        .stream_heard(&Cancel::default(), &mut |line| heard.push(line.to_owned()), |stdout| {
            let mut out = String::new();
            stdout.read_to_string(&mut out).unwrap();
            Ok::<_, ProgramError>(out)
        })
        .unwrap();
    assert_eq!((out.as_str(), heard.as_slice()), ("out\n", &["I: one".to_owned(), "I: two\\u{1b}".to_owned()][..]));
}

#[test]
fn a_missing_program_names_its_package() {
    let error = Program::new("no-such-program-here", "some-package").capture(1, &Cancel::default()).unwrap_err();
    assert!(matches!(&error, ProgramError::Missing { package: "some-package", .. }), "{error:?}");
    assert_eq!(error.to_string(), "no-such-program-here is not installed");
}

#[test]
fn a_failure_carries_the_end_of_stderr_escaped() {
    let error = run("i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done; printf 'E: \\033[31mbad\\377\\n' >&2; exit 7")
        .unwrap_err();
    let ProgramError::Failed { status, stderr, .. } = &error else { panic!("{error:?}") };
    assert_eq!(status.code(), Some(7));
    assert!(stderr.ends_with("line 2999\nE: \\u{1b}[31mbad\\xff\n"), "{stderr}");
    assert!(stderr.len() < running::STDERR_TAIL + 20, "{}", stderr.len());
    assert_eq!(error.to_string(), "sh failed (exit status: 7): line 2998; line 2999; E: \\u{1b}[31mbad\\xff");
}

#[test]
fn a_flood_is_cut_and_the_program_is_gone() {
    let error = sh("exec cat /dev/zero").capture(100_000, &Cancel::default()).unwrap_err();
    assert!(matches!(error, ProgramError::TooMuchOutput { limit: 100_000, .. }), "{error:?}");
}

#[test]
fn a_long_answer_with_a_noisy_stderr_does_not_lock_up() {
    let out = run("head -c 900000 /dev/zero & head -c 900000 /dev/zero >&2; wait").unwrap();
    assert_eq!(out.len(), 900_000);
}

#[test]
fn cancelling_ends_the_whole_group() {
    let cancel = Cancel::default();
    let temp = tempfile::tempdir().unwrap();
    // The grandchild's pid is the evidence: it must be gone, although it ignores TERM.
    let pid_file = temp.path().join("pid");
    let script = format!(
        "(trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 1000; done') & wait",
        pid_file.display()
    );
    let canceller = cancel.clone();
    let watched = pid_file.clone();
    let watcher = thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !watched.exists() {
            assert!(Instant::now() < deadline, "the program never wrote its pid");
            thread::yield_now();
        }
        canceller.cancel();
    });
    let error = sh(&script).capture(10, &cancel).unwrap_err();
    watcher.join().unwrap();
    assert!(matches!(error, ProgramError::Cancelled(_)), "{error:?}");
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    // SIGKILL was sent before the call returned; the grandchild is somebody else's to reap, so wait for the fact.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        if stat.contains(") Z ") {
            break;
        }
        assert!(Instant::now() < deadline, "still there: {stat}");
        thread::yield_now();
    }
}

#[test]
fn a_helper_left_in_the_background_does_not_hold_the_pipes() {
    assert_eq!(run("sleep 1000 & echo done").unwrap(), b"done\n");
}

#[test]
fn a_reader_that_stops_early_is_not_the_programs_failure() {
    let first = sh("head -c 100000 /dev/zero").stream(&Cancel::default(), |stdout| {
        let mut byte = [1; 1];
        stdout.read_exact(&mut byte).map_err(|source| ProgramError::Io { program: "test".into(), source })?;
        Ok::<_, ProgramError>(byte[0])
    });
    assert_eq!(first.unwrap(), 0);
}

#[test]
fn the_programs_failure_wins_over_the_readers_truncated_input() {
    let error = sh("printf ab; echo broken >&2; exit 3")
        .stream(&Cancel::default(), |stdout| {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).unwrap();
            Err::<(), _>(ProgramError::TooMuchOutput { program: "reader".into(), limit: 0 })
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "sh failed (exit status: 3): broken");
}

#[test]
fn who_has_left_the_group_holds_nobody_up() {
    // It holds one pipe and floods the other, of whose end it dies.
    let flood = "setsid sh -c 'echo begun; while :; do echo more >&2; done' &";
    let (cancel, mut begun) = (Cancel::default(), false);
    let out = sh(&format!("{flood} while ! [ -e \"$0\" ]; do sleep 0.1; done; echo done"));
    let temp = tempfile::tempdir().unwrap();
    let go = temp.path().join("go");
    let mut hear = |_: &str| {
        if !begun {
            begun = true;
            fs::write(&go, "").unwrap();
        }
    };
    let out = out.arg(&go).stream_heard(&cancel, &mut hear, |stdout| {
        let mut out = String::new();
        stdout.read_to_string(&mut out).unwrap();
        Ok::<_, ProgramError>(out)
    });
    assert_eq!(out.unwrap(), "begun\ndone\n");
}

/// Neither listens nor ends, and has a helper like that.
const STUBBORN: &str = r#"
trap '' TERM
"$1" sh -c 'trap "" TERM; echo ready >&2; while :; do sleep 300; done' &
echo out
echo ready >&2
while :; do sleep 300; done
"#;

/// How a program is kept, by what it starts its helper with: one leaves its group.
const WAYS: [&str; 2] = ["env", "setsid"];

fn stubborn(way: &str, directory: &Path) -> Program {
    let program = sh(STUBBORN).arg(directory).arg(way).env("BANGER_TEST_MARK", directory);
    if way == "env" { program.grouped() } else { program.contained(directory) }
}

/// Calls `then` when both are ready.
fn ready(mut then: impl FnMut()) -> impl FnMut(&str) {
    let mut ready = 0;
    move |line| {
        ready += u32::from(line == "ready");
        if line == "ready" && ready == 2 {
            then();
        }
    }
}

fn none_left(directory: &Path) -> Result<(), String> {
    let left = marked_processes(directory);
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
}

/// Not a test by itself: the next one starts it as a process that it kills.
#[test]
fn child() {
    let Some(directory) = std::env::var_os("BANGER_TEST_KEPT").map(PathBuf::from) else { return };
    let mut hear = ready(|| {
        fs::write(directory.join("ready"), "").unwrap();
        loop {
            thread::park();
        }
    });
    let program = stubborn(&std::env::var("BANGER_TEST_WAY").unwrap(), &directory);
    let ended = program.stream_heard(&Cancel::default(), &mut hear, read_all);
    panic!("it ended: {ended:?}");
}

fn read_all(stdout: &mut dyn Read) -> Result<usize, ProgramError> {
    stdout.read_to_end(&mut Vec::new()).map_err(|source| ProgramError::Io { program: "test".into(), source })
}

#[test]
fn what_is_kept_ends_when_its_starter_is_killed() {
    for way in WAYS.into_iter().filter(|&way| way == "env" || require("mount")) {
        let temp = tempfile::tempdir().unwrap();
        let mut starter = Command::new(std::env::current_exe().unwrap());
        starter.args(["--exact", "program::tests::child"]).env("BANGER_TEST_KEPT", temp.path());
        let mut starter =
            starter.env("BANGER_TEST_WAY", way).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until(PATIENCE, "a program at work", || {
            if temp.path().join("ready").exists() { Ok(()) } else { Err(format!("{way} has not begun")) }
        });
        assert!(none_left(temp.path()).is_err(), "{way}");
        starter.kill().unwrap();
        starter.wait().unwrap();
        wait_until(PATIENCE, "the end of all that it started", || none_left(temp.path()));
    }
}

#[test]
fn what_is_kept_ends_whatever_becomes_of_who_runs_it() {
    #[derive(Debug, Clone, Copy)]
    enum End {
        Cancelled,
        CancelledAfterItsOutput,
        GivenUp,
        Panicked,
    }
    let ends = [End::Cancelled, End::CancelledAfterItsOutput, End::GivenUp, End::Panicked];
    for (way, end) in WAYS.into_iter().flat_map(|way| ends.map(|end| (way, end))) {
        if way != "env" && !require("mount") {
            return;
        }
        let (temp, cancel) = (tempfile::tempdir().unwrap(), Cancel::default());
        let ended = panic::catch_unwind(AssertUnwindSafe(|| {
            let mut hear = ready(|| match end {
                End::Cancelled | End::CancelledAfterItsOutput => cancel.cancel(),
                End::GivenUp => {}
                End::Panicked => panic!("it has heard enough"),
            });
            stubborn(way, temp.path()).stream_heard(&cancel, &mut hear, |stdout| match end {
                End::Cancelled | End::Panicked => read_all(stdout).map(drop),
                End::CancelledAfterItsOutput => Ok(()),
                End::GivenUp => {
                    stdout.read_exact(&mut [0]).unwrap();
                    Err(ProgramError::TooMuchOutput { program: "test".into(), limit: 1 })
                }
            })
        }));
        match (end, &ended) {
            (End::Cancelled | End::CancelledAfterItsOutput, Ok(Err(ProgramError::Cancelled(_))))
            | (End::GivenUp, Ok(Err(ProgramError::TooMuchOutput { .. })))
            | (End::Panicked, Err(_)) => {}
            _ => panic!("{way}, {end:?}: {ended:?}"),
        }
        if way == "env" {
            wait_until(PATIENCE, "the end of all that it started", || none_left(temp.path()));
        } else {
            // Before the call returns: what it made can be deleted.
            none_left(temp.path()).unwrap_or_else(|left| panic!("{end:?}: {left}"));
        }
    }
}

#[test]
fn what_is_kept_ends_as_it_would_by_itself() {
    let temp = tempfile::tempdir().unwrap();
    for way in WAYS.into_iter().filter(|&way| way == "env" || require("mount")) {
        let run = |script: &str| {
            let program = sh(script);
            let program = if way == "env" { program.grouped() } else { program.contained(temp.path()) };
            program.capture(100, &Cancel::default())
        };
        assert_eq!(run("cat; echo done; sleep 1000 >/dev/null 2>&1 &").unwrap(), b"done\n", "{way}");
        let broken = run("echo broken >&2; exit 3").unwrap_err().to_string();
        assert!(broken.ends_with("failed (exit status: 3): broken"), "{way}: {broken}");
    }
}

#[test]
fn what_is_contained_has_its_directory_in_the_place_of_another() {
    if !require("mount") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    assert!(Program::can_be_contained(temp.path(), &Cancel::default()).unwrap());
    let out = sh("pwd; mount -t tmpfs none /mnt; : >/mnt/mounted; : >/var/tmp/made; ls /mnt");
    let out = out.contained(temp.path()).capture(100, &Cancel::default()).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(out.starts_with("/\n") && out.ends_with("\nmounted\n"), "{out}");
    assert!(temp.path().join("made").exists() && !Path::new("/mnt/mounted").exists());
}
