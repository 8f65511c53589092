//! A daemon in a thread of the test: an HTTP server on the environment's socket with scripted answers.

use banger_proto::api::{API_VERSION, host::DaemonRecord};
use banger_testkit::{Invocation, TestEnv, wait_until};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    ffi::OsStr,
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};
use tokio::{net::UnixListener, sync::oneshot};

/// Time limit that nothing here reaches on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Answer to a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Status 200.
    Json(Value),
    /// A refusal with this status.
    Failure(u16, Value),
    /// A stream of bytes.
    Bytes(Vec<u8>),
    /// A finished operation.
    Events(Vec<Value>),
    /// An operation that sends these events and lasts until the client is gone.
    Held(Vec<Value>),
    /// An operation that says this and breaks off.
    Broken(Vec<Value>),
}

/// Request that every command begins with.
const VERSION: &str = "GET /v1/version";

type Answer = dyn Fn(&str, &Value) -> Option<Reply> + Send + Sync;

/// The running daemon and the requests it got.
pub(crate) struct Daemon {
    pub(crate) env: TestEnv,
    log: Arc<Mutex<Vec<String>>>,
    _server: Background,
}

/// A server in a thread of its own, which ends on drop.
pub(crate) struct Background(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

impl Background {
    /// Runs `serve` with a listener at `socket`.
    pub(crate) fn at<F: Future<Output = ()>>(
        socket: &Path,
        serve: impl FnOnce(UnixListener) -> F + Send + 'static,
    ) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(UnixListener::from_std(listener).unwrap()) => {}
                    _ = stopped => {}
                }
            });
        });
        Self(Some((stop, thread)))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Daemon {
    /// Starts a daemon that answers `METHOD /path?query` (and a body) with the result of `answer`; by default with its
    /// version or 404.
    pub(crate) fn answering(answer: impl Fn(&str, &Value) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let env = TestEnv::empty();
        let log = Arc::new(Mutex::new(Vec::new()));
        record(&env.layout().daemon_socket(), &env.layout().daemon_lock());
        let kept = Arc::clone(&log);
        let server = Background::at(&env.layout().daemon_socket(), |listener| serve(listener, Arc::new(answer), kept));
        Self { env, log, _server: server }
    }

    /// Builds a `banger` invocation with these arguments for this daemon.
    pub(crate) fn banger(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Invocation {
        banger(&self.env, args)
    }

    /// Returns the requests and closed operations in order, without the version requests.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().filter(|line| *line != VERSION).cloned().collect()
    }

    /// Whether there was any request.
    pub(crate) fn contacted(&self) -> bool {
        !self.log.lock().unwrap().is_empty()
    }

    /// Waits for this request or close.
    #[track_caller]
    pub(crate) fn wait_asked(&self, what: &str) {
        wait_until(DEADLINE, what, || {
            let asked = self.asked();
            if asked.iter().any(|line| line == what) { Ok(()) } else { Err(format!("{asked:?}")) }
        });
    }
}

/// Builds an invocation of this build's `banger` in `env`.
pub(crate) fn banger(env: &TestEnv, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Invocation {
    env.program(env!("CARGO_BIN_EXE_banger")).args(args).env("TERM", "xterm").patience(DEADLINE)
}

/// Writes a record of a daemon at `socket` to `lock`, and creates the directories of both.
pub(crate) fn record(socket: &Path, lock: &Path) {
    for file in [socket, lock] {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    }
    let record = DaemonRecord { pid: std::process::id(), socket: socket.to_owned(), version: "0.0.0".into() };
    std::fs::write(lock, serde_json::to_vec(&record).unwrap()).unwrap();
}

/// Serves every connection until the runtime ends.
pub(crate) async fn serve(listener: UnixListener, answer: Arc<Answer>, log: Arc<Mutex<Vec<String>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
        let service = service_fn(move |request| handle(request, Arc::clone(&answer), Arc::clone(&log)));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

async fn handle(
    request: Request<Incoming>,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Body>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    assert!(request.headers().contains_key("banger-client-version"), "{line}");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    log.lock().unwrap().push(line.clone());
    let reply = answer(&line, &body).unwrap_or_else(|| {
        if line == VERSION {
            Reply::Json(json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": API_VERSION }))
        } else {
            not_found(&line)
        }
    });
    Ok(respond(reply, line, log))
}

fn not_found(line: &str) -> Reply {
    let name = line.rsplit('/').next().unwrap();
    Reply::Failure(
        404,
        json!({ "code": "not_found", "message": format!("there is no {name}"), "hints": ["banger ps -a"] }),
    )
}

fn respond(reply: Reply, line: String, log: Arc<Mutex<Vec<String>>>) -> Response<Body> {
    let whole = |status: u16, bytes: Vec<u8>| {
        let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
        Response::builder().status(status).body(body).unwrap()
    };
    let lines = |events: &[Value]| events.iter().flat_map(|event| [event.to_string(), "\n".into()]).collect::<String>();
    match reply {
        Reply::Json(value) => whole(200, value.to_string().into()),
        Reply::Failure(status, failure) => whole(status, failure.to_string().into()),
        Reply::Bytes(bytes) => whole(200, bytes),
        Reply::Events(events) => whole(200, lines(&events).into()),
        Reply::Held(events) => {
            let closed = Closed { line, log };
            let first = stream::iter([Ok(Frame::data(Bytes::from(lines(&events))))]);
            let rest = stream::pending().map(move |frame| {
                let _ = &closed;
                frame
            });
            Response::new(UnsyncBoxBody::new(StreamBody::new(first.chain(rest))))
        }
        Reply::Broken(events) => {
            let first = stream::iter([Ok(Frame::data(Bytes::from(lines(&events))))]);
            // The events are sent while the rest is waited for.
            let rest = stream::once(async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("broken"))
            });
            Response::new(UnsyncBoxBody::new(StreamBody::new(first.chain(rest))))
        }
    }
}

/// Logs that the client of a held operation is gone.
struct Closed {
    line: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Drop for Closed {
    fn drop(&mut self) {
        if let Ok(mut log) = self.log.lock() {
            log.push(format!("closed {}", self.line));
        }
    }
}

/// JSON of a running VM.
pub(crate) fn vm(id: &str, name: &str) -> Value {
    // The macro does not take one more field.
    let mut vm = json!({
        "id": id, "name": name, "state": "running", "reason": null, "ip": "10.213.0.2",
        "nat": true, "allow": ["10.0.0.0/8:22"], "deny": [], "network": null, "published": ["127.0.0.1:8080:80"], "vmm": "qemu", "accelerator": "tcg",
        "vmm_reason": "no /dev/kvm", "vmm_pid": 41, "shim_pid": 40,
        "image": "debian-bookworm", "image_id": "00112233445566aa", "kernel": "debian-6.1",
        "vcpu": 2, "memory": 2_147_483_648_u64, "disk_size": 8_589_934_592_u64, "disk_used": 4_194_304,
        "sources": { "vcpu": "default", "memory": "flag" },
        "init": "agent", "env": ["TOKEN"], "workdir": null, "user": null, "workspace": null,
        "created_at": "1990-01-01T00:00:00Z", "started_at": "1990-01-01T00:00:00Z",
        "boot_id": "11111111-2222-3333-4444-555555555555", "boot_state": null,
        "last_used_at": null, "expires_at": null, "pending": [],
        "phases": [
            { "name": "disk", "started_ms": 0, "duration_ms": 3 },
            { "name": "kernel", "started_ms": 3, "duration_ms": 700 }
        ]
    });
    vm["unconfined"] = Value::Null;
    vm
}

/// Final event of a successful operation.
pub(crate) fn done(result: &Value) -> Value {
    json!({ "event": "done", "result": result })
}
