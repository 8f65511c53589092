//! A command that runs while the test goes on, on pipes or on a terminal.

use crate::{command::Output, process::Identity, wait::wait_until};
use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{Read, Write},
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Output of a stream so far, collected by a thread of its own so that no writer ever blocks on the test.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn from(mut stream: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            // A terminal whose last user is gone answers EIO, which is its end.
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..count]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns everything once the stream has ended.
    fn whole(&mut self, deadline: Duration) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            wait_until(deadline, "the end of the output (somebody still holds it open)", || {
                if reader.is_finished() { Ok(()) } else { Err(format!("{} bytes so far", self.so_far().len())) }
            });
        }
        self.so_far()
    }

    #[track_caller]
    fn wait_for(&self, text: &str, deadline: Duration) {
        wait_until(deadline, &format!("{text:?}"), || {
            let seen = String::from_utf8_lossy(&self.so_far()).into_owned();
            if seen.contains(text) { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
}

/// A running command on pipes.
#[derive(Debug)]
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Collected,
    stderr: Collected,
    started: Instant,
}

impl Session {
    #[track_caller]
    pub(crate) fn spawn(mut command: Command) -> Self {
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Collected::from(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Collected::from(child.stderr.take().expect("stderr is a pipe"));
        Self { stdin: child.stdin.take(), child, stdout, stderr, started }
    }

    /// Pid of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its stdin, which stays open.
    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(bytes.as_ref()).and_then(|()| stdin.flush()).expect("it reads its stdin");
    }

    /// Ends its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Writes everything to its stdin, in the background, and ends it.
    pub(crate) fn feed(&mut self, bytes: Vec<u8>) {
        let mut stdin = self.stdin.take().expect("stdin is open");
        // A command that does not read all its input is no failure of the test.
        std::thread::spawn(move || drop(stdin.write_all(&bytes)));
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let identity = Identity::of(self.pid()).expect("it runs");
        assert!(identity.signal(signal), "process {} ended before the signal", self.pid());
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits until its stdout contains `text`.
    #[track_caller]
    pub fn wait_stdout(&self, text: &str, deadline: Duration) {
        self.stdout.wait_for(text, deadline);
    }

    /// Waits until its stderr contains `text`.
    #[track_caller]
    pub fn wait_stderr(&self, text: &str, deadline: Duration) {
        self.stderr.wait_for(text, deadline);
    }

    /// What is on its stdout so far.
    pub fn stdout_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stdout.so_far()).into_owned()
    }

    /// What is on its stderr so far.
    pub fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stderr.so_far()).into_owned()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self, deadline: Duration) -> Output {
        let status = wait_for_end(&mut self.child, deadline, || {
            format!(
                "--- stdout\n{}\n--- stderr\n{}",
                String::from_utf8_lossy(&self.stdout.so_far()),
                String::from_utf8_lossy(&self.stderr.so_far())
            )
        });
        let elapsed = self.started.elapsed();
        Output { status, stdout: self.stdout.whole(deadline), stderr: self.stderr.whole(deadline), elapsed }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Byte that a terminal's leader writes around the exit status, after all output of the command.
const STATUS_MARK: u8 = 0o36;

/// A running command on a terminal of its own. A shell leads the session and outlives the command.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    transcript: Collected,
}

impl Terminal {
    #[track_caller]
    pub(crate) fn spawn(mut command: Command, cols: u16, rows: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let user = File::options().read(true).write(true).open(OsStr::from_bytes(name.as_bytes())).expect("the pty");
        set_size(&user, cols, rows);
        let copy = || Stdio::from(user.try_clone().expect("a descriptor"));
        command.stdin(copy()).stdout(copy()).stderr(copy());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // The command holds three copies of the terminal until it is dropped, which keep it open.
        drop(command);
        let master = File::from(master);
        let transcript = Collected::from(master.try_clone().expect("a descriptor"));
        Self { child, master, transcript }
    }

    /// Pid of the session leader, whose child the command is.
    pub fn leader(&self) -> u32 {
        self.child.id()
    }

    /// Types text.
    #[track_caller]
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal is open");
    }

    /// Changes the size of the window.
    pub fn resize(&self, cols: u16, rows: u16) {
        set_size(&self.master, cols, rows);
    }

    /// Waits until the screen has shown `text`.
    #[track_caller]
    pub fn wait_for(&self, text: &str, deadline: Duration) {
        self.transcript.wait_for(text, deadline);
    }

    /// Output on the screen so far.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.transcript.so_far()).into_owned()
    }

    /// Waits for its end; stdout is everything the screen has shown.
    #[track_caller]
    pub fn finish(mut self, deadline: Duration) -> Output {
        let started = Instant::now();
        // A daemon that was started here may hold the terminal open for a while after the command's end.
        let (status, stdout) = wait_until(deadline, "the end of the command", || {
            let leader = self.child.try_wait().expect("it is a child");
            let shown = self.transcript.so_far();
            match (parted(&shown), leader) {
                (Some((shown, status)), _) => Ok((status, shown.to_vec())),
                // The leader ended before its command.
                (None, Some(status)) => Ok((status, shown)),
                (None, None) => Err(String::from_utf8_lossy(&shown).into_owned()),
            }
        });
        Output { status, stdout, stderr: Vec::new(), elapsed: started.elapsed() }
    }
}

/// Splits the output into what the command wrote and its status, once the leader has written that.
fn parted(shown: &[u8]) -> Option<(&[u8], ExitStatus)> {
    let shown = shown.strip_suffix(&[STATUS_MARK])?;
    let mark = shown.iter().rposition(|byte| *byte == STATUS_MARK)?;
    let code: i32 = std::str::from_utf8(&shown[mark + 1..]).ok()?.parse().ok()?;
    Some((&shown[..mark], ExitStatus::from_raw(code << 8)))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

#[track_caller]
fn wait_for_end(child: &mut Child, deadline: Duration, evidence: impl Fn() -> String) -> ExitStatus {
    wait_until(deadline, "the end of the command", || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err(format!("it runs (process {}):\n{}", child.id(), evidence())),
        Err(error) => panic!("waiting for process {}: {error}", child.id()),
    })
}

fn set_size(terminal: &File, cols: u16, rows: u16) {
    let size = Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("the size of a terminal can be set");
}

fn end(child: &mut Child) {
    // The child is not reaped yet, so the pid is still its own.
    if matches!(child.try_wait(), Ok(None)) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use crate::command::Invocation;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(60);

    fn shell(line: &str) -> Invocation {
        Invocation::new("sh").env("PATH", std::env::var_os("PATH").unwrap()).args(["-c", line])
    }

    #[test]
    fn a_terminal_shows_all_that_was_written_to_it_however_soon_the_command_ended() {
        for round in 0..20 {
            let out = shell("seq 1 5000; exit 7").spawn_on_terminal(80, 24).finish(SOON).expect(7);
            assert!(out.out().ends_with("\r\n4999\r\n5000\r\n"), "round {round}: {out}");
        }
    }

    #[test]
    fn how_a_command_on_a_terminal_ended_is_told_and_its_keys_are_its_own() {
        shell("kill -TERM $$").spawn_on_terminal(80, 24).finish(SOON).expect(128 + 15);
        Invocation::new("/no/such/program").spawn_on_terminal(80, 24).finish(SOON).expect(127);
        // The command does not inherit the leader's trap.
        for (line, code) in [("trap 'exit 9' INT; ", 9), ("", 128 + 2)] {
            let line = format!("{line}echo up; while :; do sleep 0.05; done");
            let mut terminal = shell(&line).spawn_on_terminal(80, 24);
            terminal.wait_for("up", SOON);
            terminal.type_in("\u{3}");
            terminal.finish(SOON).expect(code);
        }
    }

    #[test]
    fn a_leader_that_is_ended_first_is_the_end_of_a_terminal() {
        let terminal = shell("echo up; exec sleep 1000").spawn_on_terminal(80, 24);
        terminal.wait_for("up", SOON);
        let leader = crate::Identity::of(terminal.leader()).unwrap();
        assert!(leader.signal(rustix::process::Signal::HUP));
        terminal.finish(SOON).expect(128 + 1);
    }
}
