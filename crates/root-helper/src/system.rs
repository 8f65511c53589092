//! The helper for a whole machine: the socket comes from systemd, and the kernel says who is at its other end.
//!
//! Every user has tables, bridges and taps of an own name; none can name another's. One request is carried out at a time.

#![expect(unsafe_code, reason = "a descriptor that systemd hands over has a number and no owner")]

use crate::{Host, Tools, names::Owner, rules::Ground, serve};
use rustix::{fd::FromRawFd, net::sockopt::socket_peercred};
use std::{
    collections::HashMap,
    io,
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Conversations at once; one more is hung up on.
const MAX_CONVERSATIONS: usize = 64;
/// How long an answer may take to be read.
const PATIENCE: Duration = Duration::from_secs(5);

type Hosts = Mutex<HashMap<u32, Host>>;

/// Serves for ever. Must be called before there is a thread: what confines this one confines those after it.
pub fn run() -> io::Result<()> {
    let listener = inherited()?;
    let tools = Tools::confine()?;
    let hosts: Arc<Hosts> = Arc::default();
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = stream?;
        if open.load(Ordering::SeqCst) >= MAX_CONVERSATIONS {
            continue;
        }
        let uid = socket_peercred(&stream)?.uid.as_raw();
        let (hosts, open, tools) = (hosts.clone(), open.clone(), tools.clone());
        open.fetch_add(1, Ordering::SeqCst);
        std::thread::Builder::new().spawn(move || {
            // What breaks a conversation is its other end's affair.
            let _ = converse(stream, uid, &tools, &hosts);
            open.fetch_sub(1, Ordering::SeqCst);
        })?;
    }
    Ok(())
}

fn converse(stream: UnixStream, uid: u32, tools: &Tools, hosts: &Hosts) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut fresh = Some(Host::new(Owner(uid), Ground::Machine, tools.clone())?);
    serve::serve(stream, |request| {
        let mut hosts = hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = fresh.take() {
            hosts.entry(uid).or_insert(host);
        }
        hosts.get_mut(&uid).expect("it was put there").carry_out(request)
    })
}

/// The one socket that was passed (`sd_listen_fds(3)`).
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
