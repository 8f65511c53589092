//! Somebody beside a VM's channel who counts what passes.

use crate::{TestEnv, launcher::Launcher};
use std::{
    ffi::OsString,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Passes on what comes to the socket through which commands reach a VM's agent, for the programs that find the meter's own
/// there: in a mount namespace of theirs. The VM's shim, which would make its socket anew where it saw another in its place,
/// sees nothing of that, so nobody's connection depends on who of the two was the faster.
#[derive(Debug)]
pub struct Meter {
    dir: tempfile::TempDir,
    over: PathBuf,
    passed: Arc<AtomicU64>,
}

impl Meter {
    /// Counts what counted commands say to the agent of the VM `name`, and what it answers.
    #[track_caller]
    pub fn of(env: &TestEnv, name: &str) -> Self {
        let id = env.vm(name)["id"].as_str().expect("an id").parse().expect("a valid one");
        Self::over(env.layout().vm_run(&id).join("vsock.sock"))
    }

    #[track_caller]
    fn over(over: PathBuf) -> Self {
        let (dir, passed) = (tempfile::tempdir().expect("a directory"), Arc::new(AtomicU64::new(0)));
        let meter = Self { dir, over, passed };
        let listener = UnixListener::bind(meter.socket()).expect("a place for a socket");
        let (to, passed) = (meter.over.clone(), meter.passed.clone());
        // It ends with the test's process: nobody finds its socket once the meter is gone.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                carry(&client, &to, &passed);
            }
        });
        meter
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The words that come before those of a program that is to be counted; this process must be root.
    pub fn prefix(&self) -> Vec<OsString> {
        Launcher { binds: vec![(self.socket(), self.over.clone())], ..Launcher::default() }.prefix()
    }

    /// Bytes that passed so far, both ways.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

/// Passes a connection on to where the VM's socket is.
fn carry(client: &UnixStream, to: &Path, passed: &Arc<AtomicU64>) {
    let Ok(server) = UnixStream::connect(to) else { return };
    for (from, to) in [(client, &server), (&server, client)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
        let passed = Arc::clone(passed);
        thread::spawn(move || {
            // Either side may go away.
            let _ = pass(&from, &to, &passed);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

/// They count before they go on, so that who has seen an answer finds all of it counted.
fn pass(mut from: &UnixStream, mut to: &UnixStream, passed: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => {
                passed.fetch_add(count as u64, Ordering::SeqCst);
                to.write_all(&buffer[..count])?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, process::Command};

    /// Says hello at the socket it is given, and prints what comes back.
    const ASK: &str = "
import socket, sys
with socket.socket(socket.AF_UNIX) as stream:
    stream.connect(sys.argv[1])
    stream.sendall(b'hello')
    stream.shutdown(socket.SHUT_WR)
    while answer := stream.recv(64):
        sys.stdout.write(answer.decode())
";

    #[test]
    fn it_counts_both_ways_and_only_what_is_to_be_counted() {
        if !crate::require("mount") {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("vsock.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            for _ in 0..3 {
                let mut stream = listener.accept().unwrap().0;
                let mut said = String::new();
                stream.read_to_string(&mut said).unwrap();
                stream.write_all(said.repeat(2).as_bytes()).unwrap();
            }
        });
        let meter = Meter::over(socket.clone());
        let asks = |mut words: Vec<OsString>| {
            words.extend(["python3", "-c", ASK].map(OsString::from));
            let out = Command::new(&words[0]).args(&words[1..]).arg(&socket).output().unwrap();
            assert_eq!((String::from_utf8(out.stdout), out.status.success()), (Ok("hellohello".into()), true));
            meter.passed()
        };
        assert_eq!([asks(Vec::new()), asks(meter.prefix()), asks(Vec::new())], [0, 15, 15]);
        server.join().unwrap();
        // It leaves nothing where the socket is.
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
