//! System mode: the socket comes from systemd, and the kernel identifies the peer.
//!
//! Each user has tables, bridges and taps named after the user; no request can name another's. Requests of one user are
//! carried out one at a time, those of different users side by side: no user waits for another.

#![expect(unsafe_code, reason = "a descriptor that systemd hands over has a number and no owner")]

use crate::{Host, Tools, names::Owner, rules::Scope, serve};
use banger_proto::network::Cidr;
use rustix::{fd::FromRawFd, net::sockopt::socket_peercred};
use std::{
    collections::HashMap,
    io,
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Most connections of all users and of one. A further one of the same user is closed. When there are too many in all,
/// the one that was idle longest is closed, so that a person with many user ids cannot keep others out.
const MAX_CONNECTIONS: (usize, usize) = (200, 8);
/// Pause after a failed accept, when this process is short of something.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves forever. Must be called before there is a second thread: confinement is inherited by threads made later.
pub fn run(pool: Cidr) -> io::Result<()> {
    let listener = inherited()?;
    let tools = Tools::confine()?;
    let connections: Arc<Mutex<Connections>> = Arc::default();
    loop {
        // An error with one client must not end the service for the others.
        if receive(&listener, pool, &tools, &connections).is_err() {
            std::thread::sleep(PAUSE);
        }
    }
}

fn receive(
    listener: &UnixListener,
    pool: Cidr,
    tools: &Tools,
    connections: &Arc<Mutex<Connections>>,
) -> io::Result<()> {
    let stream = Arc::new(listener.accept()?.0);
    let uid = socket_peercred(&stream)?.uid.as_raw();
    let host = || Host::new(Owner(uid), Scope::Machine(pool), tools.clone());
    let Some((number, host)) = lock(connections).admit(uid, &stream, host)? else { return Ok(()) };
    let guard = ConnectionGuard { connections: connections.clone(), number };
    std::thread::Builder::new().spawn(move || {
        // An error ends only this connection.
        let _ = serve::serve(&stream, |request| {
            lock(&guard.connections).note_request(number);
            lock(&host).carry_out(request)
        });
    })?;
    Ok(())
}

/// Open connections, and the state of their users.
#[derive(Default)]
struct Connections {
    open: Vec<Connection>,
    hosts: HashMap<u32, Arc<Mutex<Host>>>,
    last: u64,
}

struct Connection {
    number: u64,
    uid: u32,
    stream: Arc<UnixStream>,
    last_request: Instant,
}

impl Connections {
    /// Admits a connection if there is room; connections of one user share a [`Host`].
    fn admit(
        &mut self,
        uid: u32,
        stream: &Arc<UnixStream>,
        host: impl FnOnce() -> io::Result<Host>,
    ) -> io::Result<Option<(u64, Arc<Mutex<Host>>)>> {
        if self.open.iter().filter(|other| other.uid == uid).count() >= MAX_CONNECTIONS.1 {
            return Ok(None);
        }
        if self.open.len() >= MAX_CONNECTIONS.0
            && let Some((silent, _)) = self.open.iter().enumerate().min_by_key(|(_, other)| other.last_request)
        {
            // The peer may have closed it already.
            let _ = self.open.swap_remove(silent).stream.shutdown(Shutdown::Both);
        }
        let host = match self.hosts.get(&uid) {
            Some(host) => host.clone(),
            None => self.hosts.entry(uid).or_insert(Arc::new(Mutex::new(host()?))).clone(),
        };
        self.last += 1;
        self.open.push(Connection { number: self.last, uid, stream: stream.clone(), last_request: Instant::now() });
        Ok(Some((self.last, host)))
    }

    fn note_request(&mut self, number: u64) {
        self.open.iter_mut().filter(|open| open.number == number).for_each(|open| open.last_request = Instant::now());
    }
}

/// Removes a connection at its end. With a user's last one its state is dropped; it is read from the kernel again.
struct ConnectionGuard {
    connections: Arc<Mutex<Connections>>,
    number: u64,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut connections = lock(&self.connections);
        let Connections { open, hosts, .. } = &mut *connections;
        open.retain(|open| open.number != self.number);
        hosts.retain(|uid, _| open.iter().any(|open| open.uid == *uid));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one socket passed by systemd (`sd_listen_fds(3)`).
fn inherited() -> io::Result<UnixListener> {
    const FIRST: i32 = 3;
    let variable = |name| std::env::var(name).ok();
    let ours = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    if !ours || variable("LISTEN_FDS").as_deref() != Some("1") {
        return Err(io::Error::new(io::ErrorKind::NotFound, "systemd passed no socket: this mode is for its unit"));
    }
    // SAFETY: systemd passes the descriptor and nothing else in this process knows of it.
    Ok(unsafe { UnixListener::from_raw_fd(FIRST) })
}
