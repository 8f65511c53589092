//! Real shells that fail, flood, fork and ignore signals.

use super::*;
use banger_testkit::wait_until;
use std::{fs, process::Command, thread, time::Instant};

fn sh(script: &str) -> Program {
    Program::new("sh", "dash").arg("-c").arg(script)
}

fn run(script: &str) -> Result<Vec<u8>, ProgramError> {
    sh(script).capture(1 << 20, &Cancel::default())
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

/// Tidies up when it is told to and its helper, which does not listen, is gone; says more of it than a pipe holds.
const TIDY: &str = r#"
mkdir "$0/work" "$0/work/helper"
sh -c 'trap "" TERM; echo ready >&2; while :; do sleep 300; done' &
helper=$!
trap 'i=0
while [ "$i" -lt 5000 ]; do echo "step $i of a great many" >&2; i=$((i + 1)); done
while kill -0 "$helper" 2>/dev/null; do wait "$helper"; done
rmdir "$0/work/helper" "$0/work"
exit' TERM
echo ready >&2
while :; do sleep 300 & wait "$!"; done
"#;

/// Not a test by itself: the next one starts it as a process that it kills.
#[test]
fn child() {
    let Some(directory) = std::env::var_os("BANGER_TEST_TIDIED").map(PathBuf::from) else { return };
    let mut ready = 0;
    let mut hear = |line: &str| {
        ready += u32::from(line == "ready");
        if ready == 2 {
            fs::write(directory.join("ready"), "").unwrap();
            loop {
                thread::park();
            }
        }
    };
    let ended = sh(TIDY).arg(&directory).tidied().stream_heard(&Cancel::default(), &mut hear, |stdout| {
        stdout.read_to_end(&mut Vec::new()).map_err(|source| ProgramError::Io { program: "test".into(), source })
    });
    panic!("it ended: {ended:?}");
}

#[test]
fn what_tidies_up_is_heard_to_the_end_when_its_starter_is_killed() {
    let temp = tempfile::tempdir().unwrap();
    let (ready, work) = (temp.path().join("ready"), temp.path().join("work"));
    let mut starter = Command::new(std::env::current_exe().unwrap());
    starter.args(["--exact", "program::tests::child"]).env("BANGER_TEST_TIDIED", temp.path());
    let mut starter = starter.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let reached = |path: &Path, there: bool| if path.exists() == there { Ok(()) } else { Err(format!("{path:?}")) };
    let patience = Duration::from_secs(60);
    wait_until(patience, "a program at work", || reached(&ready, true));
    assert!(work.join("helper").exists());
    starter.kill().unwrap();
    starter.wait().unwrap();
    wait_until(patience, "a program that has tidied up", || reached(&work, false));
}

#[test]
fn what_is_cancelled_tidies_up_whoever_of_it_does_not_listen() {
    let (temp, cancel) = (tempfile::tempdir().unwrap(), Cancel::default());
    let mut ready = 0;
    let mut hear = |line: &str| {
        ready += u32::from(line == "ready");
        if ready == 2 {
            cancel.cancel();
        }
    };
    // Its helper alone would have it wait for ever, and be killed before it has tidied up.
    let ended =
        sh(TIDY).arg(temp.path()).tidied().grace(Duration::from_secs(600)).stream_heard(&cancel, &mut hear, |stdout| {
            stdout.read_to_end(&mut Vec::new()).map_err(|source| ProgramError::Io { program: "x".into(), source })
        });
    assert!(matches!(ended, Err(ProgramError::Cancelled(_))), "{ended:?}");
    assert!(!temp.path().join("work").exists());
}

#[test]
fn what_is_tidied_ends_as_it_would_by_itself() {
    let run = |script: &str| sh(script).tidied().capture(100, &Cancel::default());
    assert_eq!(run("echo done; sleep 1000 >/dev/null 2>&1 &").unwrap(), b"done\n");
    assert_eq!(run("echo broken >&2; exit 3").unwrap_err().to_string(), "sh failed (exit status: 3): broken");
    // Told to end, it is waited for.
    let (temp, cancel) = (tempfile::tempdir().unwrap(), Cancel::default());
    let mut hear = |_: &str| cancel.cancel();
    let script = "trap ': >\"$0/tidied\"; exit' TERM; echo ready >&2; while :; do sleep 300 & wait \"$!\"; done";
    let ended = sh(script).arg(temp.path()).tidied().grace(Duration::from_secs(60)).stream_heard(
        &cancel,
        &mut hear,
        |stdout| stdout.read_to_end(&mut Vec::new()).map_err(|source| ProgramError::Io { program: "x".into(), source }),
    );
    assert!(matches!(ended, Err(ProgramError::Cancelled(_))), "{ended:?}");
    assert!(temp.path().join("tidied").exists());
}
