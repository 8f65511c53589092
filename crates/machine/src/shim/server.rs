//! The control socket: watchers get every message, and their requests go to the task that runs the machine.
//!
//! A watcher that is slow, stalls in the middle of a frame, or belongs to another user is dropped. None can delay
//! another.

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

/// Upper bound for concurrent watchers; a daemon needs one.
const MAX_WATCHERS: usize = 16;
/// Upper bound for the size of a request, in bytes; they have some fifty.
const MAX_REQUEST: usize = 4 << 10;
/// Time limit for a watcher to read a message, or to send the rest of a request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connection slots of a socket. They outlive the listener: when the socket is reopened, existing connections keep
/// theirs.
pub(super) type Slots = Arc<Semaphore>;

/// Slots for watchers.
pub(super) fn watcher_slots() -> Slots {
    Arc::new(Semaphore::new(MAX_WATCHERS))
}

/// Accepts connections of this user (and root) forever, one task each, with as many at once as there are slots; further
/// ones wait.
pub(super) async fn accept<F>(listener: UnixListener, slots: Slots, tasks: TaskTracker, serve: impl Fn(UnixStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
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

/// Checks the peer's user. The socket's mode already keeps others out; this holds even if its directory is opened up.
pub(super) fn is_trusted(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root())
}

/// Serves the control socket forever.
pub(super) async fn serve(
    listener: UnixListener,
    slots: Slots,
    hub: Arc<Hub>,
    requests: mpsc::Sender<ShimRequest>,
    tasks: TaskTracker,
) {
    accept(listener, slots, tasks, |stream| {
        let (hub, requests) = (hub.clone(), requests.clone());
        async move {
            let (reader, writer) = stream.into_split();
            // The end of either direction ends the connection.
            tokio::select! {
                _ = send_messages(writer, &hub) => {}
                _ = receive_requests(reader, &requests) => {}
            }
        }
    })
    .await;
}

async fn send_messages(mut writer: OwnedWriteHalf, hub: &Hub) -> io::Result<()> {
    let (status, ended, mut messages) = hub.watch();
    send(&mut writer, &status).await?;
    if let Some(ended) = ended {
        return send(&mut writer, &ended).await;
    }
    loop {
        // A watcher that is too far behind is dropped.
        let (frame, last) = messages.recv().await.map_err(io::Error::other)?;
        send(&mut writer, &frame).await?;
        if last {
            return Ok(());
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, frame: &Frame) -> io::Result<()> {
    timeout(TIMEOUT, writer.write_all(frame)).await?
}

async fn receive_requests(mut reader: OwnedReadHalf, requests: &mpsc::Sender<ShimRequest>) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER];
        // Between requests a watcher may be silent for any time.
        reader.read_exact(&mut header[..1]).await?;
        let body = timeout(TIMEOUT, async {
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
            // The machine has ended; the connection stays to deliver the last message.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        process::ProcessIdentity,
        shim::control::{ExitCause, ExitRecord, ShimMessage, ShimStatus},
    };
    use banger_proto::{agent::event::GuestEvent, api::vm::KillSignal};
    use std::{path::PathBuf, time::Instant};

    struct Served {
        _dir: tempfile::TempDir,
        socket: PathBuf,
        hub: Arc<Hub>,
        sender: mpsc::Sender<ShimRequest>,
        requests: mpsc::Receiver<ShimRequest>,
        tasks: TaskTracker,
        slots: Slots,
        serving: tokio::task::JoinHandle<()>,
    }

    fn served() -> Served {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("c");
        let shim = ProcessIdentity { pid: 1, start_time: 1 };
        let status = serde_json::from_value(serde_json::json!({
            "version": "0", "shim": shim, "vmm": null, "ready": null, "booted": null, "console_bytes": 0
        }));
        let hub = Arc::new(Hub::new(Instant::now(), status.unwrap()));
        let (sender, requests) = mpsc::channel(4);
        let tasks = TaskTracker::new();
        let listener = UnixListener::bind(&socket).unwrap();
        let slots = watcher_slots();
        let serving = tokio::spawn(serve(listener, slots.clone(), hub.clone(), sender.clone(), tasks.clone()));
        Served { _dir: dir, socket, hub, sender, requests, tasks, slots, serving }
    }

    async fn next(stream: &mut UnixStream) -> io::Result<ShimMessage> {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await?;
        let mut body = vec![0; framing::body_length(header).unwrap()];
        stream.read_exact(&mut body).await?;
        Ok(framing::decode(&body).unwrap())
    }

    async fn joined(served: &Served) -> UnixStream {
        let mut stream = UnixStream::connect(&served.socket).await.unwrap();
        assert!(matches!(next(&mut stream).await.unwrap(), ShimMessage::Status(ShimStatus { .. })));
        stream
    }

    fn long_message() -> ShimMessage {
        let event = GuestEvent::Trouble { message: "x".repeat(60 << 10) };
        ShimMessage::Guest { event, at_ms: 1 }
    }

    #[tokio::test]
    async fn a_watcher_that_does_not_read_is_dropped_and_holds_nobody_up() {
        let served = served();
        let (mut slow, mut quick) = (joined(&served).await, joined(&served).await);
        for _ in 0..1000 {
            served.hub.publish(&long_message());
            assert_eq!(next(&mut quick).await.unwrap(), long_message());
        }
        let end = ExitRecord { cause: ExitCause::Ended, reason: "over".into(), at: 1 };
        served.hub.publish(&ShimMessage::Ended(end.clone()));
        assert_eq!(next(&mut quick).await.unwrap(), ShimMessage::Ended(end.clone()));
        let mut seen = 0;
        while let Ok(message) = next(&mut slow).await {
            assert_ne!(message, ShimMessage::Ended(end.clone()), "it cannot have everything");
            seen += 1;
        }
        assert!(seen < 1000, "{seen}");
        served.tasks.close();
        timeout(Duration::from_secs(30), served.tasks.wait()).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_is_opened_again_has_no_more_places() {
        let served = served();
        let mut watchers = Vec::new();
        for _ in 0..MAX_WATCHERS {
            watchers.push(joined(&served).await);
        }
        served.serving.abort();
        std::fs::remove_file(&served.socket).unwrap();
        let listener = UnixListener::bind(&served.socket).unwrap();
        let (hub, sender, tasks) = (served.hub.clone(), served.sender.clone(), served.tasks.clone());
        tokio::spawn(serve(listener, served.slots.clone(), hub, sender, tasks));
        let late = joined(&served);
        tokio::pin!(late);
        for _ in 0..1000 {
            tokio::select! {
                biased;
                _ = &mut late => panic!("it has a slot of its own"),
                () = tokio::task::yield_now() => {}
            }
        }
        drop(watchers.pop());
        timeout(Duration::from_secs(30), late).await.unwrap();
    }

    #[tokio::test]
    async fn a_latecomer_is_told_of_the_end() {
        let served = served();
        let end = ExitRecord { cause: ExitCause::Poweroff, reason: "over".into(), at: 1 };
        served.hub.publish(&ShimMessage::Ended(end.clone()));
        let mut late = joined(&served).await;
        assert_eq!(next(&mut late).await.unwrap(), ShimMessage::Ended(end));
        assert!(next(&mut late).await.is_err());
    }

    #[tokio::test]
    async fn requests_arrive_and_nonsense_ends_a_connection() {
        let mut served = served();
        let mut stream = joined(&served).await;
        let request = ShimRequest::Signal { signal: KillSignal::Term };
        stream.write_all(&framing::encode(&request).unwrap()).await.unwrap();
        assert_eq!(served.requests.recv().await, Some(request));
        let too_long = u32::try_from(MAX_REQUEST + 1).unwrap().to_be_bytes();
        for nonsense in [&b"\xff\xff\xff\xff"[..], &too_long, b"\0\0\0\x02{}", b"\0\0\0\x01"] {
            let mut stream = joined(&served).await;
            stream.write_all(nonsense).await.unwrap();
            stream.shutdown().await.unwrap();
            assert!(next(&mut stream).await.is_err());
        }
        assert!(served.requests.try_recv().is_err());
    }
}
