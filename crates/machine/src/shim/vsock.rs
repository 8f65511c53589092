//! The hybrid-vsock sockets: a client sends `CONNECT <port>` and gets a stream to the guest.

use super::{
    server::{Slots, accept},
    stream_quota::{DAEMON, USER},
};
use banger_link::{Dialer, Stream, vsock};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{copy, copy_bidirectional_with_sizes, split},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// Size of the copy buffer for each direction, in bytes.
const CHUNK: usize = 64 << 10;
/// Time limit for the client's request line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for the guest to accept a stream. Software emulation on a loaded host is slow.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// The user of a socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum Caller {
    User,
    Daemon,
}

impl Caller {
    pub(super) fn slots(self) -> Slots {
        let limit = match self {
            Self::User => USER,
            Self::Daemon => DAEMON,
        };
        Arc::new(Semaphore::new(limit))
    }
}

/// Serves forever, with as many concurrent connections as there are slots; further ones wait. Without a session with
/// the guest, connections are closed at once: waiting would be pointless, since the agent announces itself.
pub(super) async fn serve(
    listener: UnixListener,
    slots: Slots,
    caller: Caller,
    session: watch::Receiver<Option<Dialer>>,
) {
    let number = Arc::new(AtomicU32::new(1));
    accept(listener, slots, TaskTracker::new(), |stream| {
        let (session, number) = (session.clone(), number.clone());
        async move {
            // The client sees the connection closed; the protocol has no way to tell it why.
            let _ = forward(stream, caller, session, number.fetch_add(1, Ordering::Relaxed)).await;
        }
    })
    .await;
}

async fn forward(
    mut client: UnixStream,
    caller: Caller,
    session: watch::Receiver<Option<Dialer>>,
    number: u32,
) -> io::Result<()> {
    let Some(port) = timeout(LINE_TIMEOUT, vsock::server_port(&mut client)).await?? else { return Ok(()) };
    let Some(dialer) = session.borrow().clone() else { return Ok(()) };
    let dialled = timeout(DIAL_TIMEOUT, dialer.dial(port)).await?;
    let mut guest = dialled.map_err(io::Error::other)?;
    vsock::server_accept(&mut client, number).await?;
    match caller {
        Caller::User => copy_bidirectional_with_sizes(&mut client, &mut guest, CHUNK, CHUNK).await.map(drop),
        Caller::Daemon => until_either_ends(client, guest).await,
    }
}

/// Copies until one direction ends. The daemon closes both at once, and when it does it has given up its request: a
/// guest that hangs must not block the slot for the next one.
async fn until_either_ends(mut client: UnixStream, guest: Stream) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_guest, mut to_guest) = split(guest);
    tokio::select! {
        copied = copy(&mut from_client, &mut to_guest) => copied.map(drop),
        copied = copy(&mut from_guest, &mut to_client) => copied.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_link::{HostSession, guest};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc,
    };

    /// Far longer than anything here takes.
    const HANG: Duration = Duration::from_secs(60);

    /// A guest that echoes the input when the client has sent everything; or one that accepts connections and never
    /// answers.
    async fn served(
        caller: Caller,
        hangs: bool,
    ) -> (tempfile::TempDir, std::path::PathBuf, watch::Sender<Option<Dialer>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, mut sessions) = mpsc::unbounded_channel();
        tokio::spawn(guest::run(theirs, move |_, incoming| drop(sender.send(incoming))));
        let HostSession { dialer, driver, incoming: unused } = HostSession::open(ours).await.unwrap();
        tokio::spawn(async move {
            let _unused = unused;
            driver.run().await
        });
        let mut incoming = sessions.recv().await.unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok(inbound) = incoming.next().await {
                let mut stream = inbound.accept().await;
                if hangs {
                    held.push(stream);
                    continue;
                }
                tokio::spawn(async move {
                    let mut input = Vec::new();
                    stream.read_to_end(&mut input).await.unwrap();
                    stream.write_all(&input).await.unwrap();
                    stream.shutdown().await.unwrap();
                });
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (session, watching) = watch::channel(Some(dialer));
        tokio::spawn(serve(UnixListener::bind(&socket).unwrap(), caller.slots(), caller, watching));
        (dir, socket, session)
    }

    #[tokio::test]
    async fn requests_to_a_guest_that_hangs_leave_room_for_the_next_once_they_are_given_up() {
        let (_dir, socket, _session) = served(Caller::Daemon, true).await;
        for _ in 0..=DAEMON {
            let mut client = timeout(HANG, vsock::connect(&socket, 1)).await.expect("a slot").unwrap();
            client.write_all(b"GET /stats HTTP/1.1\r\n\r\n").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_user_who_has_said_everything_still_hears_the_answer() {
        let (_dir, socket, _session) = served(Caller::User, false).await;
        let mut client = vsock::connect(&socket, 1).await.unwrap();
        client.write_all(b"everything").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        timeout(HANG, client.read_to_end(&mut answer)).await.expect("the answer").unwrap();
        assert_eq!(answer, b"everything");
    }
}
