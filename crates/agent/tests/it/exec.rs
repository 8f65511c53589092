//! Tests of exec.

use crate::{
    Hosted, Options,
    client::{Ran, command, shell},
    on_one_thread, wait_until,
};
use banger_proto::agent::event::GuestEvent;
use banger_proto::agent::exec::{Channel, ExecSpec, MAX_MESSAGE, Outcome, TerminalSize};
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};
use tokio::time::timeout;

fn code(ran: &Ran) -> Option<u8> {
    ran.outcome.as_ref().map(Outcome::code)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn exit_codes_come_through() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        for (script, expected) in
            [("exit 0", 0), ("exit 42", 42), ("exit 255", 255), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)]
        {
            let ran = hosted.agent.run(&shell(script)).await;
            assert_eq!(ran.outcome, Some(Outcome::Exited(expected)), "{script}");
        }
    });
}

#[test]
fn the_first_command_that_runs_is_announced_and_no_other() {
    on_one_thread(async {
        let mut hosted = Hosted::start().await;
        for argv in [&["no-such-command-anywhere"][..], &["true"], &["true"]] {
            hosted.agent.run(&command(argv)).await;
        }
        hosted.agent.request(hyper::Method::POST, "/shutdown", r#"{"verb":"poweroff","grace_ms":0}"#).await;
        let mut announced = Vec::new();
        loop {
            match hosted.agent.events.recv().await.unwrap() {
                GuestEvent::Exec { asked_ms, started_ms } => announced.push((asked_ms, started_ms)),
                GuestEvent::Power { .. } => break,
                _ => {}
            }
        }
        assert!(matches!(announced.as_slice(), [(asked, started)] if asked <= started), "{announced:?}");
    });
}

#[test]
fn what_cannot_start_says_why() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let plain = hosted.dir.path().join("plain");
        fs::write(&plain, "no program").unwrap();
        let nul = "a\0b";
        let cases: [(&[&str], u8, &str); 7] = [
            (&["no-such-command-anywhere"], 127, "no-such-command-anywhere"),
            (&["/no/such/path"], 127, "/no/such/path"),
            (&[plain.to_str().unwrap()], 126, "ermission denied"),
            (&["/"], 126, "ermission denied"),
            (&["/etc/passwd/x"], 126, "ot a directory"),
            (&["echo", nul], 125, "NUL"),
            (&[""], 127, ""),
        ];
        for (argv, expected, part) in cases {
            let ran = hosted.agent.run(&command(argv)).await;
            let Some(Outcome::NotStarted { code, message }) = &ran.outcome else { panic!("{argv:?}: {ran:?}") };
            assert_eq!(*code, expected, "{argv:?}: {message}");
            assert!(message.contains(part), "{argv:?}: {message}");
        }
        let mut spec = command(&["true"]);
        spec.cwd = Some("/no/such/dir".into());
        let Some(Outcome::NotStarted { code: 126, message }) = hosted.agent.run(&spec).await.outcome else { panic!() };
        assert!(message.contains("/no/such/dir"), "{message}");
        let mut spec = command(&["true"]);
        spec.user = Some("no-such-user".into());
        let Some(Outcome::NotStarted { code: 125, message }) = hosted.agent.run(&spec).await.outcome else { panic!() };
        assert!(message.contains("no-such-user"), "{message}");
    });
}

#[test]
fn a_file_without_a_shebang_is_a_shell_script() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let script = hosted.dir.path().join("script");
        fs::write(&script, "echo ran $1\n").unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let ran = hosted.agent.run(&command(&[script.to_str().unwrap(), "a b"])).await;
        assert_eq!(text(&ran.stdout), "ran a b\n");
    });
}

#[test]
fn arguments_are_a_list() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let ran = hosted.agent.run(&command(&["printf", "%s|", "", "a b", "$HOME", "'\"\\", "*", "é\n"])).await;
        assert_eq!(text(&ran.stdout), "|a b|$HOME|'\"\\|*|é\n|");
    });
}

#[test]
fn environment_directory_and_user() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let mut spec = shell("echo $VM:$OWN:$HOSTNAME:$LANG:$TERM; pwd");
        spec.env = [("OWN".to_owned(), "own value".to_owned())].into();
        spec.cwd = Some("/usr".into());
        let ran = hosted.agent.run(&spec).await;
        assert_eq!(text(&ran.stdout), "vm value:own value:hosted:C.UTF-8:\n/usr\n");
        // The program is searched in the PATH of the spec.
        let program = hosted.dir.path().join("only-here");
        fs::write(&program, "#!/bin/sh\necho found\n").unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut spec = command(&["only-here"]);
        spec.env = [("PATH".to_owned(), hosted.dir.path().to_str().unwrap().to_owned())].into();
        assert_eq!(text(&hosted.agent.run(&spec).await.stdout), "found\n");
        if rustix::process::geteuid().is_root() {
            let mut spec = shell("id -u; id -g; id -G; echo $HOME $USER");
            spec.user = Some("daemon".into());
            let ran = hosted.agent.run(&spec).await;
            assert!(text(&ran.stdout).starts_with("1\n1\n1\n"), "{}", text(&ran.stdout));
            let mut spec = shell("id -u; id -g; id -G");
            spec.user = Some("4242:4343".into());
            assert_eq!(text(&hosted.agent.run(&spec).await.stdout), "4242\n4343\n4343\n");
        }
    });
}

#[test]
fn the_vms_own_defaults_are_used() {
    on_one_thread(async {
        let config = |config: &mut banger_proto::agent::boot::BootConfig| config.workdir = Some("/usr/bin".into());
        let hosted = Hosted::start_with(Options { config, ..Options::default() }).await;
        assert_eq!(text(&hosted.agent.run(&command(&["pwd"])).await.stdout), "/usr/bin\n");
    });
}

#[test]
fn streams_are_separate_and_exact() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let ran = hosted.agent.run(&shell(r"printf 'out\0\377'; printf 'err\1' >&2")).await;
        assert_eq!((ran.stdout.as_slice(), ran.stderr.as_slice()), (&b"out\0\xff"[..], &b"err\x01"[..]));
        let mut exec = hosted.agent.exec(&command(&["cat"])).await;
        let every: Vec<u8> = (0..=255).collect();
        exec.stdin(&every).await;
        exec.stdin(b"").await;
        exec.stdin(b"end").await;
        exec.close_stdin().await;
        let ran = exec.collect().await;
        assert_eq!(code(&ran), Some(0));
        assert_eq!(ran.stdout, [&every[..], b"end"].concat());
    });
}

#[test]
fn input_nobody_reads_is_no_trouble() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let mut exec = hosted.agent.exec(&shell("exec <&-; echo closed; sleep 0.3; exit 7")).await;
        assert!(exec.read_until("closed").await.contains("closed"));
        for _ in 0..20 {
            exec.stdin(&[0; 10_000]).await;
        }
        assert_eq!(code(&exec.collect().await), Some(7));
    });
}

#[test]
fn a_hundred_megabytes_each_way() {
    on_one_thread(async {
        use futures_util::{SinkExt, StreamExt};
        use tokio_tungstenite::tungstenite::Message;
        const TOTAL: usize = 100_000_000;
        let hosted = Hosted::start().await;
        let exec = hosted.agent.exec(&command(&["cat"])).await;
        let (mut to, mut from) = exec.socket.split();
        let piece: Vec<u8> = (0..251).cycle().take(MAX_MESSAGE - 1).collect();
        let pieces = TOTAL.div_ceil(piece.len());
        let message = Channel::Stdin.message(&piece);
        let send = async {
            for _ in 0..pieces {
                to.send(Message::Binary(message.clone().into())).await.unwrap();
            }
            to.send(Message::Binary(Channel::Close.message(&[0]).into())).await.unwrap();
        };
        let receive = async {
            let mut at = 0_usize;
            while let Some(Ok(Message::Binary(bytes))) = from.next().await {
                if bytes[0] != Channel::Stdout as u8 {
                    break;
                }
                for byte in &bytes[1..] {
                    assert_eq!(usize::from(*byte), at % piece.len() % 251, "at {at}");
                    at += 1;
                }
            }
            at
        };
        let ((), received) = tokio::join!(send, receive);
        assert_eq!(received, pieces * piece.len());
    });
}

#[test]
fn a_slow_reader_holds_its_command_and_nobody_else() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let mark = hosted.dir.path().join("mark");
        // Writes 8 MB, which nobody reads, and then creates a file.
        let script = format!("head -c 8000000 /dev/zero; touch {}", mark.display());
        let slow = hosted.agent.exec(&shell(&script)).await;
        for _ in 0..3 {
            let ran = hosted.agent.run(&shell("head -c 1000000 /dev/zero")).await;
            assert_eq!((ran.stdout.len(), code(&ran)), (1_000_000, Some(0)));
        }
        assert!(!mark.exists(), "8 MB went somewhere");
        let resident = fs::read_to_string(format!("/proc/{}/status", hosted.child.id())).unwrap();
        let resident = resident.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kilobytes: u64 = resident.split_whitespace().next().unwrap().parse().unwrap();
        assert!(kilobytes < 8_000, "{kilobytes} kB");
        let ran = slow.collect().await;
        assert_eq!((ran.stdout.len(), code(&ran)), (8_000_000, Some(0)));
        assert!(mark.exists());
    });
}

#[test]
fn several_at_once() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let runs = (0..20).map(|number| {
            let spec = shell(&format!("echo {number}; echo e{number} >&2; exit {number}"));
            let agent = &hosted.agent;
            async move { (number, agent.run(&spec).await) }
        });
        for (number, ran) in futures_util::future::join_all(runs).await {
            assert_eq!(text(&ran.stdout), format!("{number}\n"));
            assert_eq!(text(&ran.stderr), format!("e{number}\n"));
            assert_eq!(code(&ran), Some(number));
        }
    });
}

#[test]
fn signals_reach_the_whole_group() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let mut exec = hosted.agent.exec(&shell("trap 'echo got; exit 3' USR1; echo up; sleep 100 & wait")).await;
        exec.read_until("up").await;
        exec.signal(10).await;
        exec.read_until("got").await;
        assert_eq!(code(&exec.collect().await), Some(3));
        let mut exec = hosted.agent.exec(&shell("echo up; exec sleep 100")).await;
        exec.read_until("up").await;
        exec.signal(2).await;
        assert_eq!(code(&exec.collect().await), Some(130));
    });
}

#[test]
fn a_background_process_does_not_keep_the_status() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let mut exec = hosted.agent.exec(&shell("sleep 1000 & echo $!; exit 5")).await;
        exec.close_stdin().await;
        let ran = timeout(Duration::from_secs(20), exec.collect()).await.expect("the status never came");
        assert_eq!(code(&ran), Some(5));
        // The background process runs on: its command ended, and the client did not leave.
        let pid: i32 = text(&ran.stdout).trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::test_kill_process(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
}

#[test]
fn output_written_just_before_the_end_is_never_lost() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        for round in 0..30 {
            let ran = hosted.agent.run(&shell("head -c 60000 /dev/zero; echo end >&2")).await;
            assert_eq!((ran.stdout.len(), text(&ran.stderr)), (60_000, "end\n"), "round {round}");
        }
    });
}

#[test]
fn a_vanished_client_hangs_up_on_its_process() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let mark = hosted.dir.path().join("mark");
        let script = format!("trap 'echo hup > {}; exit' HUP; echo up; while :; do sleep 0.05; done", mark.display());
        let mut exec = hosted.agent.exec(&shell(&script)).await;
        exec.read_until("up").await;
        drop(exec);
        wait_until("the trap to run", || mark.exists().then_some(())).await;
    });
}

#[test]
fn a_client_that_vanishes_behind_unread_input_is_noticed() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let mark = hosted.dir.path().join("mark");
        let script = format!("trap 'echo hup > {}; exit' HUP; echo up; while :; do sleep 0.05; done", mark.display());
        let mut exec = hosted.agent.exec(&shell(&script)).await;
        exec.read_until("up").await;
        // More than pipe, queue, window and outbox hold together: the last send waits for ever.
        let filling = async {
            for _ in 0..200 {
                exec.stdin(&vec![0; 100_000]).await;
            }
        };
        assert!(timeout(Duration::from_millis(500), filling).await.is_err());
        drop(exec);
        wait_until("the trap to run", || mark.exists().then_some(())).await;
    });
}

fn terminal(argv: &[&str]) -> ExecSpec {
    ExecSpec { tty: Some(TerminalSize { cols: 100, rows: 30 }), ..command(argv) }
}

#[test]
fn a_terminal_is_one() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let script = "test -t 0 && test -t 1 && test -t 2 && stty size && echo $TERM && tty && echo err >&2; \
                      read line; echo got:$line; stty size; exit 9";
        let mut exec = hosted.agent.exec(&terminal(&["sh", "-c", script])).await;
        let seen = exec.read_until("err").await;
        assert!(seen.contains("30 100\r\nxterm-256color\r\n/dev/pts/"), "{seen:?}");
        exec.resize(77, 22).await;
        exec.stdin(b"typed\n").await;
        let seen = exec.read_until("22 77").await;
        assert!(seen.contains("typed\r\ngot:typed\r\n"), "{seen:?}");
        assert_eq!(code(&exec.collect().await), Some(9));
    });
}

#[test]
fn control_c_and_control_d_mean_what_they_do() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let mut exec = hosted.agent.exec(&terminal(&["sh", "-c", "echo up; exec sleep 100"])).await;
        exec.read_until("up").await;
        exec.stdin(b"\x03").await;
        assert_eq!(code(&exec.collect().await), Some(130));
        // Closing the input of a terminal types the end of transmission.
        let mut exec = hosted.agent.exec(&terminal(&["cat"])).await;
        exec.stdin(b"line\n").await;
        exec.close_stdin().await;
        let ran = exec.collect().await;
        assert_eq!((text(&ran.stdout), code(&ran)), ("line\r\nline\r\n", Some(0)));
    });
}

#[test]
fn no_command_is_the_login_shell() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let mut exec = hosted.agent.exec(&terminal(&[])).await;
        exec.stdin(b"echo \"zero=$0\"; exit 4\n").await;
        exec.read_until("zero=-").await;
        assert_eq!(code(&exec.collect().await), Some(4));
    });
}

#[test]
fn nonsense_is_answered() {
    on_one_thread(async {
        use futures_util::SinkExt;
        use tokio_tungstenite::tungstenite::Message;
        let hosted = Hosted::start().await;
        let mut exec = hosted.agent.exec(&shell("echo up; exec sleep 100")).await;
        exec.read_until("up").await;
        // A channel that does not exist ends the session and the process.
        exec.socket.send(Message::Binary(vec![99, 1].into())).await.unwrap();
        assert_eq!(exec.collect().await.outcome, None);
        // A message over the limit does so, too.
        let mut exec = hosted.agent.exec(&shell("echo up; exec sleep 100")).await;
        exec.read_until("up").await;
        let _ = exec.socket.send(Message::Binary(vec![0; MAX_MESSAGE + 1].into())).await;
        assert_eq!(exec.collect().await.outcome, None);
        assert_eq!(code(&hosted.agent.run(&command(&["true"])).await), Some(0));
    });
}
