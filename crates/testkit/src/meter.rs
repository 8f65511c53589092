//! Somebody beside a VM's channel who counts what passes.

use crate::TestEnv;
use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Stands in the place of the socket through which commands reach a VM's agent, and passes on what comes. The socket has
/// its place again when this is dropped.
#[derive(Debug)]
pub struct Meter {
    socket: PathBuf,
    away: PathBuf,
    passed: Arc<AtomicU64>,
}

impl Meter {
    /// Counts what commands say to the agent of the VM `name`, and what it answers.
    #[track_caller]
    pub fn of(env: &TestEnv, name: &str) -> Self {
        let id = env.vm(name)["id"].as_str().expect("an id").parse().expect("a valid one");
        Self::at(&env.layout().vm_run(&id).join("vsock.sock"))
    }

    #[track_caller]
    fn at(socket: &Path) -> Self {
        let away = socket.with_extension("away");
        fs::rename(socket, &away).expect("the socket is there");
        let listener = UnixListener::bind(socket).expect("its place is free");
        let passed = Arc::new(AtomicU64::new(0));
        let meter = Self { socket: socket.to_owned(), away, passed };
        let (away, passed) = (meter.away.clone(), Arc::clone(&meter.passed));
        // It ends with the test's process: nobody finds its socket once the other one is back.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = UnixStream::connect(&away) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let passed = Arc::clone(&passed);
                    std::thread::spawn(move || {
                        // Either side may go away.
                        let _ = pass(&from, &to, &passed);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        meter
    }

    /// Bytes that passed so far, both ways.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // A VM that was deleted meanwhile has none.
        let _ = fs::rename(&self.away, &self.socket);
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

    #[test]
    fn it_counts_both_ways_and_goes_without_a_trace() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("vsock.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let mut stream = listener.accept().unwrap().0;
                let mut said = String::new();
                stream.read_to_string(&mut said).unwrap();
                stream.write_all(said.repeat(2).as_bytes()).unwrap();
            }
        });
        let ask = || {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let meter = Meter::at(&socket);
        assert_eq!((ask().as_str(), meter.passed()), ("hellohello", 15));
        drop(meter);
        assert_eq!(ask(), "hellohello");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        server.join().unwrap();
    }
}
