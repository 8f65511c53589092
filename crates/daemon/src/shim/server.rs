//! The control socket: watchers get every message, their requests go to the one place that decides.
//!
//! A watcher that is slow, silent in the middle of a frame, or not this user is dropped. None can hold up another.

use super::{
    control::ShimRequest,
    hub::{Frame, Hub},
};
use banger_proto::framing::{self, HEADER};
use rustix::{net::sockopt::socket_peercred, process::geteuid};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// Most watchers at once; a daemon needs one.
const MAX_WATCHERS: usize = 16;
/// Largest request, in bytes; they have some fifty.
const MAX_REQUEST: usize = 4 << 10;
/// How long a watcher may take to read a message, or to send the rest of a request it began.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections of this user (and root) for ever, one task each, at most `limit` at once: further ones wait.
pub(super) async fn accept<F>(listener: UnixListener, limit: usize, tasks: TaskTracker, serve: impl Fn(UnixStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limit));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) if is_trusted(&stream) => {
                let connection = serve(stream);
                tasks.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// The socket's mode keeps others out; this does too, should its directory be opened up.
fn is_trusted(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root())
}

/// Serves the control socket for ever.
pub(super) async fn serve(
    listener: UnixListener,
    hub: Arc<Hub>,
    requests: mpsc::Sender<ShimRequest>,
    tasks: TaskTracker,
) {
    accept(listener, MAX_WATCHERS, tasks, |stream| {
        let (hub, requests) = (hub.clone(), requests.clone());
        async move {
            let (reader, writer) = stream.into_split();
            // Either direction's end is the connection's.
            tokio::select! {
                _ = tell(writer, &hub) => {}
                _ = listen(reader, &requests) => {}
            }
        }
    })
    .await;
}

async fn tell(mut writer: OwnedWriteHalf, hub: &Hub) -> io::Result<()> {
    let (status, ended, mut messages) = hub.watch();
    send(&mut writer, &status).await?;
    if let Some(ended) = ended {
        return send(&mut writer, &ended).await;
    }
    loop {
        // One that is too far behind is as good as gone.
        let (frame, last) = messages.recv().await.map_err(io::Error::other)?;
        send(&mut writer, &frame).await?;
        if last {
            return Ok(());
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, frame: &Frame) -> io::Result<()> {
    timeout(PATIENCE, writer.write_all(frame)).await?
}

async fn listen(mut reader: OwnedReadHalf, requests: &mpsc::Sender<ShimRequest>) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER];
        // Between requests a watcher may be silent for as long as it likes.
        reader.read_exact(&mut header[..1]).await?;
        let body = timeout(PATIENCE, async {
            reader.read_exact(&mut header[1..]).await?;
            let length = framing::body_length(header).map_err(io::Error::other)?;
            if length > MAX_REQUEST {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).await?;
            Ok::<_, io::Error>(body)
        });
        let request = framing::decode(&body.await??).map_err(io::Error::other)?;
        if requests.send(request).await.is_err() {
            // The machine has ended; what is left to this connection is to be told so.
            std::future::pending::<()>().await;
        }
    }
}
