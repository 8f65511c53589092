//! Counts the bytes that pass through a VM's channel.

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

/// Proxy for the socket through which commands reach a VM's agent. Only programs in a mount namespace of their own find
/// the meter's socket in its place. The VM's shim, which would create its socket again if it saw another one there,
/// does not see the meter's, so no connection depends on which of the two was faster.
#[derive(Debug)]
pub struct Meter {
    dir: tempfile::TempDir,
    over: PathBuf,
    passed: Arc<AtomicU64>,
}

impl Meter {
    /// Creates a meter for the agent of the VM `name`; it counts both directions.
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
        // The thread ends with the test's process: nobody finds its socket once the meter is gone.
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

    /// Command line to put before that of a program to be counted; this process must be root.
    pub fn prefix(&self) -> Vec<OsString> {
        Launcher { binds: vec![(self.socket(), self.over.clone())], ..Launcher::default() }.prefix()
    }

    /// Bytes counted so far, in both directions.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

/// Forwards a connection to the VM's socket.
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

/// Bytes are counted before they are forwarded, so that whoever has an answer finds all of it counted.
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

    /// Python script that writes to the socket and prints the answer.
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
        // Nothing else is left in the socket's directory.
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
