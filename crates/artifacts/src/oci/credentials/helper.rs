//! Programs that keep logins for Docker and Podman.
//!
//! Decides how long one is listened to: until it ends, is too late or is no longer needed. What it may have started and
//! left behind, with its output still open, is not waited for.

use super::{Credential, CredentialError, MAX_FILE};
use crate::{
    fetch::{NOTICE_AFTER, Secret},
    job::Job,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process_group},
};
use serde::Deserialize;
use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How often one that says nothing is looked at.
const TICK: Duration = Duration::from_millis(20);
/// What a helper says a token's user is.
const TOKEN_USER: &str = "<token>";

/// How helper programs are asked.
#[derive(Clone, Copy)]
pub(super) struct Helpers<'a> {
    /// Where they are looked for; else in `PATH`.
    pub(super) directory: Option<&'a Path>,
    /// How long one may think.
    pub(super) patience: Duration,
    /// Who hears of one that thinks, and may end that.
    pub(super) job: Job<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// How asking went wrong.
enum Silence {
    Cancelled(crate::job::Cancelled),
    Failed(String),
}

impl Helpers<'_> {
    /// Asks one; `None` when it knows nothing of that registry.
    pub(super) fn ask(&self, helper: &str, registry: &str) -> Result<Option<Credential>, CredentialError> {
        let program = format!("docker-credential-{}", helper.chars().take(80).collect::<String>());
        let failed = |why: String| CredentialError::Helper { program: program.clone(), why };
        if !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(failed("its name is not one".into()));
        }
        let path = self.directory.map_or_else(|| PathBuf::from(&program), |directory| directory.join(&program));
        let (status, said) = self.run(Command::new(path), &program, registry).map_err(|silence| match silence {
            Silence::Cancelled(cancelled) => cancelled.into(),
            Silence::Failed(why) => failed(why),
        })?;
        if !status.success() {
            let words: String = String::from_utf8_lossy(&said).chars().filter(|c| !c.is_control()).take(200).collect();
            // What all of them say when they have none.
            let unknown = words.contains("credentials not found");
            return if unknown { Ok(None) } else { Err(failed(format!("{status} {words:?}"))) };
        }
        let helped: Helped = serde_json::from_slice(&said).map_err(|error| {
            // What the parser says would quote the secret.
            failed(format!("its answer is malformed in line {}, column {}", error.line(), error.column()))
        })?;
        let secret = Secret::new(helped.secret);
        Ok(Some(match helped.username.as_str() {
            TOKEN_USER => Credential::Identity(secret),
            _ => Credential::Basic(helped.username, secret),
        }))
    }

    /// Starts one, and listens until it ends. One that is given up on is killed, with all it started.
    fn run(&self, mut command: Command, program: &str, registry: &str) -> Result<(ExitStatus, Vec<u8>), Silence> {
        let mut child = command
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map_err(|error| Silence::Failed(error.to_string()))?;
        let heard = self.hear(&mut child, program, registry);
        // One that was waited for has no group any more that would be its own.
        if heard.is_err() && !matches!(child.try_wait(), Ok(Some(_))) {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
        heard
    }

    fn hear(&self, child: &mut Child, program: &str, registry: &str) -> Result<(ExitStatus, Vec<u8>), Silence> {
        let failed = |error: io::Error| Silence::Failed(error.to_string());
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not listen answers nonsense, and is told so.
            let _ = stdin.write_all(registry.as_bytes());
        }
        let mut stdout = child.stdout.take().ok_or_else(|| Silence::Failed("it has no output".into()))?;
        fcntl_getfl(&stdout)
            .and_then(|flags| fcntl_setfl(&stdout, flags | OFlags::NONBLOCK))
            .map_err(|error| failed(error.into()))?;
        let mut said = Vec::new();
        let (since, mut told) = (Instant::now(), false);
        loop {
            // Asked before reading, so that nothing it said before its end is missed.
            let ended = child.try_wait().map_err(failed)?;
            let open = take_in(&mut stdout, &mut said).map_err(failed)?;
            if let Some(status) = ended {
                return Ok((status, said));
            }
            self.job.cancel.check().map_err(Silence::Cancelled)?;
            if since.elapsed() >= self.patience {
                return Err(Silence::Failed("it does not answer".into()));
            }
            if !told && since.elapsed() >= NOTICE_AFTER {
                told = true;
                self.job.progress.notice(&format!("waiting for {program} to say who asks {registry}"));
            }
            if open {
                let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
                // A signal or an error costs a turn of the loop; reading finds out what it was.
                let _ = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&tick));
            } else {
                std::thread::sleep(TICK);
            }
        }
    }
}

/// Reads what there is; false when that was all there will be.
fn take_in(stdout: &mut ChildStdout, said: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(got) if (said.len() + got) as u64 > MAX_FILE => return Err(io::Error::other("it says too much")),
            Ok(got) => said.extend(&buffer[..got]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Cancel, Progress, Silent};
    use std::{fs, os::unix::fs::PermissionsExt as _};

    /// A directory with one helper, `docker-credential-test`, that is this shell script.
    fn helper(script: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-test");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn ask(script: &str, patience: Duration, cancel: &Cancel) -> Result<Option<Credential>, CredentialError> {
        let dir = helper(script);
        let job = Job { progress: &Silent, cancel };
        Helpers { directory: Some(dir.path()), patience, job }.ask("test", "reg.local")
    }

    const ANSWER: &str = r#"printf '{"Username":"me","Secret":"pw"}'"#;
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn what_a_helper_leaves_behind_is_not_waited_for() {
        // It keeps the output open, in a session of its own.
        let script = format!("{ANSWER}\nsetsid sleep 300 &\necho $! > \"$0.pid\"");
        let dir = helper(&script);
        let job = Job { progress: &Silent, cancel: &Cancel::default() };
        let helpers = Helpers { directory: Some(dir.path()), patience: LONG, job };
        let credential = helpers.ask("test", "reg.local").unwrap();
        assert_eq!(credential, Some(Credential::Basic("me".into(), Secret::new("pw"))));
        let pid = fs::read_to_string(dir.path().join("docker-credential-test.pid")).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn one_that_does_not_answer_is_killed_with_what_it_started() {
        let dir = helper("sleep 300 & echo $! > \"$0.pid\"; wait");
        let pid_file = dir.path().join("docker-credential-test.pid");
        let cancel = Cancel::default();
        let job = Job { progress: &Silent, cancel: &cancel };
        let helpers = Helpers { directory: Some(dir.path()), patience: LONG, job };
        let outcome = std::thread::scope(|scope| {
            let asking = scope.spawn(|| helpers.ask("test", "reg.local"));
            while !asking.is_finished() && !fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')) {
                std::thread::sleep(TICK);
            }
            cancel.cancel();
            asking.join().unwrap()
        });
        assert!(matches!(outcome, Err(CredentialError::Cancelled(_))), "{outcome:?}");
        let pid = Pid::from_raw(fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap()).unwrap();
        // It was sent the signal; it is gone, or waits to be reaped by whoever inherited it.
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::sleep(TICK);
        }
        let late = ask("exec sleep 300", Duration::ZERO, &Cancel::default()).unwrap_err().to_string();
        assert!(late.contains("it does not answer"), "{late}");
    }

    /// Lets a helper that waits for this file answer once there is a word about it.
    struct Go(PathBuf);

    impl Progress for Go {
        fn phase(&self, _what: &str) {}
        fn advance(&self, _done: u64, _total: Option<u64>) {}
        fn notice(&self, text: &str) {
            assert_eq!(text, "waiting for docker-credential-test to say who asks reg.local");
            fs::write(&self.0, "").unwrap();
        }
    }

    #[test]
    fn one_that_asks_a_person_is_said() {
        let dir = helper(&format!("until [ -e \"$0.go\" ]; do sleep 0.02; done\n{ANSWER}"));
        let go = Go(dir.path().join("docker-credential-test.go"));
        let job = Job { progress: &go, cancel: &Cancel::default() };
        let helpers = Helpers { directory: Some(dir.path()), patience: LONG, job };
        assert!(helpers.ask("test", "reg.local").unwrap().is_some());
    }

    #[test]
    fn answers_of_every_kind() {
        let said = |script: &str| ask(script, LONG, &Cancel::default());
        assert_eq!(said("echo credentials not found in native keychain; exit 1").unwrap(), None);
        let token = r#"read who; printf '{"Username":"<token>","Secret":"%s"}' "$who""#;
        assert_eq!(said(token).unwrap(), Some(Credential::Identity(Secret::new("reg.local"))));
        for (script, part) in [("echo oops; exit 3", "oops"), ("echo x", "malformed"), ("yes", "it says too much")] {
            let error = said(script).unwrap_err().to_string();
            assert!(error.contains("docker-credential-test gave no credentials") && error.contains(part), "{error}");
        }
        let error = said(r#"echo '{"Username":"me","Secret":271828}'"#).unwrap_err().to_string();
        assert!(error.contains("malformed") && !error.contains("271828"), "a password: {error}");
    }
}
