//! A control connection, and the state learnt over it.
//!
//! A task owns the socket. It ends only when the machine has ended: a connection that breaks while the shim is alive is
//! made again, and for a dead shim an [`ExitRecord`] is made up.

use super::{CHANGE_TICK, CHANGE_TIMEOUT, SILENCE_TIMEOUT, ShimError, awake};
use crate::{
    process::{ProcessIdentity, ProvenProcess},
    record,
    shim::{
        control::{EXIT_FILE, ExitCause, ExitRecord, ShimMessage, ShimRequest, ShimStatus},
        power_off,
        server::is_trusted,
    },
};
use banger_proto::framing::{self, MAX_FRAME};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rustix::{net::sockopt::socket_peercred, process::Signal};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Number of messages a watcher may be behind; then it gets a status instead.
const BACKLOG: usize = 256;
/// Capacity of the queue of requests for the socket.
const REQUESTS: usize = 16;
/// Time limit for a shim's first message, and for sending it a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

type Frames = Framed<UnixStream, LengthDelimitedCodec>;
type Request = (ShimRequest, oneshot::Sender<io::Result<()>>);

/// State shared by all handles of a shim.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    end: watch::Sender<Option<ExitRecord>>,
    /// Remark about the end, in addition to the exit record.
    remark: OnceLock<String>,
}

#[derive(Debug)]
struct State {
    status: ShimStatus,
    /// `None` after the end; dropping the sender notifies watchers that subscribed too late for the last message.
    events: Option<broadcast::Sender<ShimMessage>>,
}

impl Shared {
    pub(super) fn status(&self) -> ShimStatus {
        self.lock().status.clone()
    }

    pub(super) fn subscribe(&self) -> (ShimStatus, broadcast::Receiver<ShimMessage>) {
        let state = self.lock();
        let receiver = state.events.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe);
        (state.status.clone(), receiver)
    }

    pub(super) async fn ended(&self) -> ExitRecord {
        let mut end = self.end.subscribe();
        let known = end.wait_for(Option::is_some).await.expect("the sender is in self");
        known.clone().expect("that is what was waited for")
    }

    pub(super) fn remark(&self) -> Option<String> {
        self.remark.get().cloned()
    }

    /// Applies a message: status and watchers change together.
    fn take(&self, message: ShimMessage) {
        let mut state = self.lock();
        state.status.apply(&message);
        let ended = match &message {
            ShimMessage::Ended(record) => Some(record.clone()),
            _ => None,
        };
        if let Some(events) = &state.events {
            // There may be no watcher.
            let _ = events.send(message);
        }
        if ended.is_some() {
            state.events = None;
            self.end.send_replace(ended);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live connection. Dropping it ends its task.
#[derive(Debug)]
pub(super) struct Connection {
    socket: PathBuf,
    state_dir: PathBuf,
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    pub(super) async fn open(socket: PathBuf, state_dir: PathBuf) -> Result<Self, ShimError> {
        Self::with_silence_limit(SILENCE_TIMEOUT, socket, state_dir).await
    }

    async fn with_silence_limit(limit: Duration, socket: PathBuf, state_dir: PathBuf) -> Result<Self, ShimError> {
        let (frames, status) = connect(&socket, &state_dir).await?;
        let shim = status.shim;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { status, events: Some(broadcast::channel(BACKLOG).0) }),
            end: watch::Sender::new(None),
            remark: OnceLock::new(),
        });
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let (again, directory) = (socket.clone(), state_dir.clone());
        let follower = Follower { socket, state_dir, shim, shared: shared.clone(), requests: receiver, limit };
        let task = tokio::spawn(follower.follow(frames));
        Ok(Self { socket: again, state_dir: directory, shared, requests, task })
    }

    /// Whether the shim leaves a new connection unanswered. The existing connection does not show it, because requests
    /// to a stopped shim wait in the socket. A missing socket says nothing about the shim behind the existing
    /// connection.
    pub(super) async fn is_silent(&self) -> bool {
        matches!(connect(&self.socket, &self.state_dir).await, Err(error) if error.kind() == io::ErrorKind::TimedOut)
    }

    /// The VM's state directory.
    pub(super) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) async fn request(&self, request: ShimRequest) -> Result<(), ShimError> {
        let (done, written) = oneshot::channel();
        let sent = async {
            self.requests.send((request, done)).await.ok()?;
            written.await.ok()
        };
        match timeout(ANSWER_TIMEOUT + CHANGE_TIMEOUT, sent).await {
            Ok(Some(result)) => Ok(result?),
            Ok(None) => Err(ShimError::Ended(self.shared.ended().await)),
            Err(_) => Err(ShimError::Io(io::ErrorKind::TimedOut.into())),
        }
    }
}

struct Follower {
    socket: PathBuf,
    state_dir: PathBuf,
    shim: ProcessIdentity,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    /// Time limit for a silent shim that is alive.
    limit: Duration,
}

impl Follower {
    async fn follow(mut self, mut frames: Frames) {
        loop {
            self.exchange(&mut frames).await;
            if self.shared.end.borrow().is_some() {
                return;
            }
            match self.reconnect().await {
                Ok((again, status)) => {
                    frames = again;
                    self.shared.take(ShimMessage::Status(status));
                }
                Err(end) => return self.shared.take(ShimMessage::Ended(end)),
            }
        }
    }

    /// Passes messages and requests on, until the connection breaks or the machine ends.
    async fn exchange(&mut self, frames: &mut Frames) {
        loop {
            tokio::select! {
                frame = frames.next() => match frame.map(|frame| frame.map(|body| framing::decode(&body))) {
                    Some(Ok(Ok(message))) => {
                        let last = matches!(message, ShimMessage::Ended(_));
                        self.shared.take(message);
                        if last {
                            return;
                        }
                    }
                    // A newer shim may send messages that this daemon does not know.
                    Some(Ok(Err(error))) => tracing::debug!(%error, pid = self.shim.pid, "a message not understood"),
                    Some(Err(_)) | None => return,
                },
                Some((request, done)) = self.requests.recv() => {
                    // The caller gave up while the connection was being made again, and was told that the request
                    // failed.
                    if done.is_closed() {
                        continue;
                    }
                    let result = write(frames, &request).await;
                    let broken = result.is_err();
                    // The caller may be gone.
                    let _ = done.send(result);
                    if broken {
                        return;
                    }
                }
            }
        }
    }

    /// Reconnects after the connection broke, or returns the end of the machine: the shim may have ended, died, or
    /// merely closed this connection.
    async fn reconnect(&self) -> Result<(Frames, ShimStatus), ExitRecord> {
        let began = tokio::time::Instant::now();
        loop {
            if let Ok(Some(end)) = record::read(&self.state_dir, EXIT_FILE) {
                return Err(end);
            }
            if self.shim.is_gone() {
                let pid = self.shim.pid;
                return Err(self.end_without_record(format!("the shim died (pid {pid}), and its VMM with it")).await);
            }
            awake::wake("shim", self.shim);
            match connect(&self.socket, &self.state_dir).await {
                Ok((frames, status)) if status.shim == self.shim => return Ok((frames, status)),
                Ok(_) | Err(_) if began.elapsed() < self.limit => {
                    tokio::time::sleep(CHANGE_TICK).await;
                }
                Ok(_) | Err(_) => {
                    // A shim that does not answer cannot be managed, nor can its machine. Its guest may have unwritten
                    // data.
                    return Err(match power_off::end_silent(self.shim, self.limit, &self.state_dir).await {
                        Ok((end, remark)) => {
                            self.shared.remark.get_or_init(|| remark);
                            end
                        }
                        Err(reason) => self.end_without_record(reason).await,
                    });
                }
            }
        }
    }

    /// The end of a machine whose shim left no record. The VMM dies with its shim; this makes sure of it.
    async fn end_without_record(&self, reason: String) -> ExitRecord {
        if let Ok(Some(end)) = record::read(&self.state_dir, EXIT_FILE) {
            return end;
        }
        let vmm = self.shared.status().vmm;
        if let Some(process) = vmm.and_then(|vmm| ProvenProcess::open(vmm).ok().flatten()) {
            let _ = process.signal(Signal::KILL);
            let _ = timeout(CHANGE_TIMEOUT, process.ended()).await;
        }
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        ExitRecord { cause: ExitCause::VmmFailed, reason, at }
    }
}

async fn connect(socket: &Path, state_dir: &Path) -> io::Result<(Frames, ShimStatus)> {
    let attempt = async {
        let stream = UnixStream::connect(socket).await?;
        if !is_trusted(&stream) && !serves_owner_of(&stream, state_dir)? {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let codec = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec();
        let mut frames = Framed::new(stream, codec);
        let body = frames.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
        match framing::decode(&body).map_err(io::Error::other)? {
            ShimMessage::Status(status) => Ok((frames, status)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a shim begins with its status")),
        }
    };
    timeout(ANSWER_TIMEOUT, attempt).await?
}

/// Whether the server of the socket is the owner of the VM's state directory. In a directory that everybody may write
/// to, the socket may have been replaced by another user's; the state directory is writable by its user only. Not
/// sufficient by itself: a file system may report one and the same owner for every file.
fn serves_owner_of(stream: &UnixStream, state_dir: &Path) -> io::Result<bool> {
    Ok(socket_peercred(stream)?.uid.as_raw() == fs::metadata(state_dir)?.uid())
}

async fn write(frames: &mut Frames, request: &ShimRequest) -> io::Result<()> {
    let body = Bytes::from(serde_json::to_vec(request)?);
    timeout(ANSWER_TIMEOUT, frames.send(body)).await?
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use banger_proto::api::vm::KillSignal;
    use futures_util::FutureExt;
    use tokio::net::UnixListener;

    /// Accepts a connection and sends the status of a shim.
    pub(in crate::shim) async fn greet(listener: &UnixListener, shim: ProcessIdentity) -> Frames {
        let status = serde_json::from_value(serde_json::json!({
            "version": "0", "shim": shim, "vmm": null, "ready": null, "booted": null, "console_bytes": 0
        }));
        let greeting = framing::encode(&ShimMessage::Status(status.unwrap())).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &greeting).await.unwrap();
        Framed::new(stream, LengthDelimitedCodec::new())
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_asked_of_a_shim() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("c");
        let listener = UnixListener::bind(&socket).unwrap();
        let shim = ProcessIdentity { pid: 1, start_time: 1 };
        let opened = Connection::open(socket.clone(), dir.path().to_owned());
        let (connection, mut served) = tokio::join!(opened, greet(&listener, shim));
        let connection = connection.unwrap();
        // Cancelled as soon as it is queued.
        assert!(connection.request(ShimRequest::End).now_or_never().is_none());
        let waited_for = ShimRequest::Signal { signal: KillSignal::Term };
        connection.request(waited_for.clone()).await.unwrap();
        let first = framing::decode::<ShimRequest>(&served.next().await.unwrap().unwrap()).unwrap();
        assert_eq!(first, waited_for);
    }

    /// A connection to a shim that greets, and then does not answer any more.
    async fn broken_off(dir: &Path, shim: ProcessIdentity) -> Connection {
        let socket = dir.join("c");
        let listener = UnixListener::bind(&socket).unwrap();
        let opened = Connection::with_silence_limit(Duration::ZERO, socket.clone(), dir.to_owned());
        let (connection, served) = tokio::join!(opened, greet(&listener, shim));
        drop((served, listener));
        connection.unwrap()
    }

    #[tokio::test]
    async fn a_shim_that_answers_no_more_is_told_to_end_before_it_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let end = ExitRecord { cause: ExitCause::Poweroff, reason: "the guest powered off".into(), at: 1 };
        record::write(dir.path(), "prepared", &end).unwrap();
        let (mut process, shim) = power_off::tests::shim(dir.path(), &format!("mv prepared {EXIT_FILE}; exit 0"));
        let connection = broken_off(dir.path(), shim).await;
        assert_eq!(connection.shared().ended().await, end);
        let remark = connection.shared().remark();
        assert!(remark.is_some_and(|words| words.ends_with("its guest was told to power off")));
        assert!(process.wait().unwrap().success(), "it was killed");
    }

    #[tokio::test]
    async fn one_that_dies_when_it_is_told_was_not_killed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut process, shim) = power_off::tests::shim(dir.path(), "exit 1");
        let connection = broken_off(dir.path(), shim).await;
        let end = connection.shared().ended().await;
        assert_eq!(end.cause, ExitCause::VmmFailed);
        assert!(end.reason.ends_with("it died without a word, and its VMM with it"), "{}", end.reason);
        assert_eq!(connection.shared().remark(), None);
        assert_eq!(process.wait().unwrap().code(), Some(1));
    }
}
