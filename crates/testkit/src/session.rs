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
    os::unix::ffi::OsStrExt,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What a stream said so far, collected by a thread of its own so that no writer ever blocks on the test.
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

    /// Everything, once the stream has ended.
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

    /// The process.
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
        // A command that does not read all of it is no failure of the test.
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

/// A running command on a terminal of its own.
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
        // The command keeps its three copies until it is dropped, and with them the terminal open.
        drop(command);
        let master = File::from(master);
        let transcript = Collected::from(master.try_clone().expect("a descriptor"));
        Self { child, master, transcript }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types.
    #[track_caller]
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal is open");
    }

    /// Changes the window's size, as a person dragging its corner.
    pub fn resize(&self, cols: u16, rows: u16) {
        set_size(&self.master, cols, rows);
    }

    /// Waits until the screen has shown `text`.
    #[track_caller]
    pub fn wait_for(&self, text: &str, deadline: Duration) {
        self.transcript.wait_for(text, deadline);
    }

    /// What the screen has shown so far.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.transcript.so_far()).into_owned()
    }

    /// Waits for its end; stdout is all the screen has shown.
    #[track_caller]
    pub fn finish(mut self, deadline: Duration) -> Output {
        let started = Instant::now();
        let status =
            wait_for_end(&mut self.child, deadline, || String::from_utf8_lossy(&self.transcript.so_far()).into_owned());
        // A daemon that was started here may still hold the terminal, so its end may be long in coming.
        Output { status, stdout: self.transcript.so_far(), stderr: Vec::new(), elapsed: started.elapsed() }
    }
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
    // Not waited for yet, so the pid is still this child's.
    if matches!(child.try_wait(), Ok(None)) {
        let _ = child.kill();
        let _ = child.wait();
    }
}
