//! The hybrid-vsock sockets: `CONNECT <port>` becomes a stream to the guest.

use super::server::accept;
use banger_link::{Dialer, vsock};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// Bytes that are carried at once, either way.
const CHUNK: usize = 64 << 10;
/// How long a client may take for its line.
const LINE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a guest may take to accept a stream. Software emulation on a loaded host is slow.
const DIAL_PATIENCE: Duration = Duration::from_secs(20);

/// Serves for ever, at most `limit` connections at once: further ones wait. While there is no session with the guest,
/// connections are closed at once: there is nothing to wait for, since the agent announces itself.
pub(super) async fn serve(listener: UnixListener, limit: usize, session: watch::Receiver<Option<Dialer>>) {
    let number = Arc::new(AtomicU32::new(1));
    accept(listener, limit, TaskTracker::new(), |stream| {
        let (session, number) = (session.clone(), number.clone());
        async move {
            // The client sees the connection closed; why is for neither side's eyes.
            let _ = carry(stream, session, number.fetch_add(1, Ordering::Relaxed)).await;
        }
    })
    .await;
}

async fn carry(mut client: UnixStream, session: watch::Receiver<Option<Dialer>>, number: u32) -> io::Result<()> {
    let Some(port) = timeout(LINE_PATIENCE, vsock::server_port(&mut client)).await?? else { return Ok(()) };
    let Some(dialer) = session.borrow().clone() else { return Ok(()) };
    let dialled = timeout(DIAL_PATIENCE, dialer.dial(port)).await?;
    let mut guest = dialled.map_err(io::Error::other)?;
    vsock::server_accept(&mut client, number).await?;
    copy_bidirectional_with_sizes(&mut client, &mut guest, CHUNK, CHUNK).await.map(drop)
}
