//! Credential helpers: programs that keep logins for Docker and Podman.
//!
//! Decides how long one is waited for: until it ends, times out or is no longer needed. Processes it left behind, with
//! its output still open, are not waited for.

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

/// Interval at which a silent helper is checked.
const TICK: Duration = Duration::from_millis(20);
/// User name in a helper's answer that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// Settings for running helper programs.
#[derive(Clone, Copy)]
pub(super) struct Helpers<'a> {
    /// Directory of the programs; `PATH` if there is none.
    pub(super) directory: Option<&'a Path>,
    /// Timeout of one program.
    pub(super) timeout: Duration,
    /// Job that is notified of a slow program, and may cancel it.
    pub(super) job: Job<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Reason why a helper gave no answer.
enum RunError {
    Cancelled(crate::job::Cancelled),
    Failed(String),
}

impl Helpers<'_> {
    /// Asks a helper; `None` if it has no credentials for that registry.
    pub(super) fn ask(&self, helper: &str, registry: &str) -> Result<Option<Credential>, CredentialError> {
        let program = format!("docker-credential-{}", helper.chars().take(80).collect::<String>());
        let failed = |why: String| CredentialError::Helper { program: program.clone(), why };
        if !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(failed("its name is not one".into()));
        }
        let path = self.directory.map_or_else(|| PathBuf::from(&program), |directory| directory.join(&program));
        let (status, output) = self.run(Command::new(path), &program, registry).map_err(|error| match error {
            RunError::Cancelled(cancelled) => cancelled.into(),
            RunError::Failed(why) => failed(why),
        })?;
        if !status.success() {
            let shown: String =
                String::from_utf8_lossy(&output).chars().filter(|c| !c.is_control()).take(200).collect();
            // Message of all helpers that have none.
            let unknown = shown.contains("credentials not found");
            return if unknown { Ok(None) } else { Err(failed(format!("{status} {shown:?}"))) };
        }
        let answer: HelperAnswer = serde_json::from_slice(&output).map_err(|error| {
            // The parser's message would quote the secret.
            failed(format!("its answer is malformed in line {}, column {}", error.line(), error.column()))
        })?;
        let secret = Secret::new(answer.secret);
        Ok(Some(match answer.username.as_str() {
            TOKEN_USER => Credential::Identity(secret),
            _ => Credential::Basic(answer.username, secret),
        }))
    }

    /// Runs a helper until it ends. One that is given up is killed, with every process it started.
    fn run(&self, mut command: Command, program: &str, registry: &str) -> Result<(ExitStatus, Vec<u8>), RunError> {
        let mut child = command
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map_err(|error| RunError::Failed(error.to_string()))?;
        let outcome = self.read_answer(&mut child, program, registry);
        // A process that was reaped has no process group of its own any more.
        if outcome.is_err() && !matches!(child.try_wait(), Ok(Some(_))) {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
        outcome
    }

    fn read_answer(&self, child: &mut Child, program: &str, registry: &str) -> Result<(ExitStatus, Vec<u8>), RunError> {
        let failed = |error: io::Error| RunError::Failed(error.to_string());
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input answers nonsense, which is reported.
            let _ = stdin.write_all(registry.as_bytes());
        }
        let mut stdout = child.stdout.take().ok_or_else(|| RunError::Failed("it has no output".into()))?;
        fcntl_getfl(&stdout)
            .and_then(|flags| fcntl_setfl(&stdout, flags | OFlags::NONBLOCK))
            .map_err(|error| failed(error.into()))?;
        let mut output = Vec::new();
        let (since, mut noticed) = (Instant::now(), false);
        loop {
            // Checked before reading, so that no output before the end is missed.
            let ended = child.try_wait().map_err(failed)?;
            let open = read_available(&mut stdout, &mut output).map_err(failed)?;
            if let Some(status) = ended {
                return Ok((status, output));
            }
            self.job.cancel.check().map_err(RunError::Cancelled)?;
            if since.elapsed() >= self.timeout {
                return Err(RunError::Failed("it does not answer".into()));
            }
            if !noticed && since.elapsed() >= NOTICE_AFTER {
                noticed = true;
                self.job.progress.notice(&format!("waiting for {program} to say who asks {registry}"));
            }
            if open {
                let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
                // A signal or an error costs one iteration; the read finds out what it was.
                let _ = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&tick));
            } else {
                std::thread::sleep(TICK);
            }
        }
    }
}

/// Reads the available output; false if that was the end of it.
fn read_available(stdout: &mut ChildStdout, output: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(got) if (output.len() + got) as u64 > MAX_FILE => return Err(io::Error::other("it says too much")),
            Ok(got) => output.extend(&buffer[..got]),
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

    /// Creates a directory with one helper, `docker-credential-test`, that is this shell script.
    fn helper(script: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-test");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn ask(script: &str, timeout: Duration, cancel: &Cancel) -> Result<Option<Credential>, CredentialError> {
        let dir = helper(script);
        let job = Job { progress: &Silent, cancel };
        Helpers { directory: Some(dir.path()), timeout, job }.ask("test", "reg.local")
    }

    const ANSWER: &str = r#"printf '{"Username":"me","Secret":"pw"}'"#;
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn what_a_helper_leaves_behind_is_not_waited_for() {
        // The child keeps the output open, in a session of its own.
        let script = format!("{ANSWER}\nsetsid sleep 300 &\necho $! > \"$0.pid\"");
        let dir = helper(&script);
        let job = Job { progress: &Silent, cancel: &Cancel::default() };
        let helpers = Helpers { directory: Some(dir.path()), timeout: LONG, job };
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
        let helpers = Helpers { directory: Some(dir.path()), timeout: LONG, job };
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
        // The child was killed; it is gone, or waits to be reaped by whoever inherited it.
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::sleep(TICK);
        }
        let late = ask("exec sleep 300", Duration::ZERO, &Cancel::default()).unwrap_err().to_string();
        assert!(late.contains("it does not answer"), "{late}");
    }

    /// Creates the file a helper waits for once there is a notice about it.
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
        let helpers = Helpers { directory: Some(dir.path()), timeout: LONG, job };
        assert!(helpers.ask("test", "reg.local").unwrap().is_some());
    }

    #[test]
    fn answers_of_every_kind() {
        let output = |script: &str| ask(script, LONG, &Cancel::default());
        assert_eq!(output("echo credentials not found in native keychain; exit 1").unwrap(), None);
        let token = r#"read who; printf '{"Username":"<token>","Secret":"%s"}' "$who""#;
        assert_eq!(output(token).unwrap(), Some(Credential::Identity(Secret::new("reg.local"))));
        for (script, part) in [("echo oops; exit 3", "oops"), ("echo x", "malformed"), ("yes", "it says too much")] {
            let error = output(script).unwrap_err().to_string();
            assert!(error.contains("docker-credential-test gave no credentials") && error.contains(part), "{error}");
        }
        let error = output(r#"echo '{"Username":"me","Secret":271828}'"#).unwrap_err().to_string();
        assert!(error.contains("malformed") && !error.contains("271828"), "a password: {error}");
    }
}
