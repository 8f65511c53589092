//! Somebody beside a VM's channel who counts what passes.

use crate::TestEnv;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::{
        fs::MetadataExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Time between two looks at who comes, and whether the place is still the meter's.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Stands in the place of the socket through which commands reach a VM's agent, and passes on what comes. The socket has
/// its place again when this is dropped.
#[derive(Debug)]
pub struct Meter {
    passed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    standing: Option<JoinHandle<()>>,
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
        let mut place = Place::take(socket).expect("the socket is there");
        let (passed, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counts, is_over) = (Arc::clone(&passed), Arc::clone(&over));
        let standing = thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                match place.listener.accept() {
                    Ok((client, _)) => carry(&client, &place.away, &counts),
                    Err(_) if place.is_lost() => place.take_again(),
                    Err(_) => thread::sleep(LOOK_EVERY),
                }
            }
            place.give_back();
        });
        Self { passed, over, standing: Some(standing) }
    }

    /// Bytes that passed so far, both ways.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(standing) = self.standing.take() {
            let _ = standing.join();
        }
    }
}

/// A socket's place, which somebody else has taken.
struct Place {
    socket: PathBuf,
    /// Where the socket itself is.
    away: PathBuf,
    listener: UnixListener,
    inode: u64,
}

impl Place {
    fn take(socket: &Path) -> io::Result<Self> {
        let away = socket.with_extension("away");
        let _ = fs::remove_file(&away);
        let listener = UnixListener::bind(&away)?;
        listener.set_nonblocking(true)?;
        let inode = fs::symlink_metadata(&away)?.ino();
        // At no moment there is none.
        renameat_with(CWD, &away, CWD, socket, RenameFlags::EXCHANGE)?;
        Ok(Self { socket: socket.to_owned(), away, listener, inode })
    }

    /// A shim that sees that its socket's place is not its own makes another.
    fn is_lost(&self) -> bool {
        fs::symlink_metadata(&self.socket).is_ok_and(|meta| meta.ino() != self.inode)
    }

    fn take_again(&mut self) {
        // It is just being made, where this fails.
        if let Ok(again) = Self::take(&self.socket) {
            *self = again;
        }
    }

    fn give_back(self) {
        // A VM that was deleted meanwhile has none.
        let _ = fs::rename(&self.away, &self.socket);
    }
}

/// Passes a connection on to where the socket is.
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

    #[test]
    fn it_counts_both_ways_and_goes_without_a_trace() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("vsock.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
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

    #[test]
    fn a_place_that_is_taken_from_it_is_taken_again() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("vsock.sock");
        let first = UnixListener::bind(&socket).unwrap();
        let meter = Meter::at(&socket);
        drop(first);
        // As a shim does that misses its socket.
        fs::remove_file(&socket).unwrap();
        let second = UnixListener::bind(&socket).unwrap();
        let own = fs::symlink_metadata(&socket).unwrap().ino();
        let is_counted = || fs::symlink_metadata(&socket).is_ok_and(|meta| meta.ino() != own);
        let seen = || if is_counted() { Ok(()) } else { Err("it is the shim's".into()) };
        crate::wait_until(Duration::from_secs(60), "the meter", seen);
        let server = thread::spawn(move || second.accept().unwrap().0.write_all(b"hello").unwrap());
        let mut said = String::new();
        UnixStream::connect(&socket).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((said.as_str(), meter.passed()), ("hello", 5));
        server.join().unwrap();
        drop(meter);
        assert_eq!(fs::symlink_metadata(&socket).unwrap().ino(), own);
    }
}
