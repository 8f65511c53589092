//! Finds the daemon of this state directory, starts it if none runs, and checks that it belongs to this user.

use super::spawn::{self, READY_DEADLINE, Spawned};
use crate::exit::Result;
use banger_proto::{
    api::host::DaemonRecord,
    failure::{Code, Failure},
    layout::Layout,
};
use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;

/// Time to wait for the holder of the lock before checking again whether it still holds it.
const LOCK_HELD_ROUND: Duration = Duration::from_secs(2);
/// Pause between attempts to connect to a socket that is about to appear.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Time limit for a listener with a full queue.
const QUEUE_DEADLINE: Duration = Duration::from_secs(10);

/// Connects to the daemon, and starts it if none runs. Several processes may do so at once: the daemon's lock lets one
/// daemon win, and the others find the winner's socket, for which they wait as long as the process that started it.
pub(crate) async fn connect(layout: &Layout) -> Result<UnixStream> {
    if let Some(stream) = find(layout).await? {
        return Ok(stream);
    }
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        let spawned = spawn::spawn(layout).await?;
        let round = Instant::now() + LOCK_HELD_ROUND;
        loop {
            if let Some(stream) = find(layout).await? {
                return Ok(stream);
            }
            if Instant::now() >= round {
                break;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        if matches!(spawned, Spawned::Ready) || Instant::now() >= deadline {
            return Err(silent(layout).into());
        }
    }
}

/// Connects to the running daemon, if there is one.
pub(crate) async fn find(layout: &Layout) -> Result<Option<UnixStream>> {
    for socket in sockets(layout) {
        match dial(&socket).await {
            Ok(stream) => {
                check_peer(&stream, &socket)?;
                return Ok(Some(stream));
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                let code =
                    if error.kind() == io::ErrorKind::PermissionDenied { Code::Denied } else { Code::Unavailable };
                let message = format!("cannot connect to the daemon at {}", socket.display());
                return Err(Failure::caused_by(code, message, &error).into());
            }
        }
    }
    Ok(None)
}

/// Connects to a Unix socket. Retries while the listener's queue is full, because connect(2) then fails instead of
/// waiting.
pub(crate) async fn dial(socket: &Path) -> io::Result<UnixStream> {
    let deadline = Instant::now() + QUEUE_DEADLINE;
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            result => return result,
        }
    }
}

/// Reads the record that the daemon of this state directory left.
pub(crate) fn record(layout: &Layout) -> Option<DaemonRecord> {
    serde_json::from_slice(&std::fs::read(layout.daemon_lock()).ok()?).ok()
}

/// Returns the sockets to try: the one in the daemon's record, which may come from another environment (ssh, cron),
/// then the default of this environment.
fn sockets(layout: &Layout) -> Vec<PathBuf> {
    let default = layout.daemon_socket();
    match record(layout) {
        Some(record) if record.socket != default => vec![record.socket, default],
        _ => vec![default],
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory)
}

/// Refuses a daemon of another user, who may have made the socket in a shared directory.
fn check_peer(stream: &UnixStream, socket: &Path) -> Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(stream)
        .map_err(|error| crate::exit::internal("cannot tell who listens on the daemon's socket", &error))?;
    let (theirs, ours) = (peer.uid.as_raw(), rustix::process::getuid().as_raw());
    if theirs == ours {
        return Ok(());
    }
    Err(Failure::new(Code::Denied, format!("the daemon at {} belongs to user {theirs}, not to you", socket.display()))
        .hint("set XDG_RUNTIME_DIR to a directory of your own")
        .into())
}

fn silent(layout: &Layout) -> Failure {
    let failure = Failure::new(Code::Timeout, "the daemon does not answer")
        .cause(format!("lock {}, socket {}", layout.daemon_lock().display(), sockets(layout)[0].display()))
        .hint(format!("its log is {}", layout.daemon_log().display()));
    match record(layout) {
        Some(record) => failure.hint(format!("'kill {}' ends it; VMs keep running", record.pid)),
        None => failure,
    }
}
