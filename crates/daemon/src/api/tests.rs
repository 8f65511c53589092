//! The API over a real socket, with a daemon without VMMs.

use super::{Context, serve};
use crate::vm::tests::World;
use banger_proto::{
    api::{MAX_REQUEST, event::Event, vm::VmState},
    failure::{Code, Failure},
};
use std::{path::PathBuf, time::Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

struct Server {
    world: World,
    socket: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn new() -> Self {
        let world = World::new();
        world.services.vms.reconcile().await.unwrap();
        let socket = world.layout.daemon_socket();
        let listener = UnixListener::bind(&socket).unwrap();
        let stop = CancellationToken::new();
        let context = Context::new(
            world.layout.clone(),
            world.config.clone(),
            world.services.clone(),
            stop.clone(),
            Instant::now(),
        );
        let task = tokio::spawn(serve(listener, context, stop.clone()));
        Self { world, socket, stop, task }
    }

    /// Status and body of one request.
    async fn ask(&self, request: &str, body: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let length = body.len();
        let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses a body need not read it.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request}: {answer:?}"));
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn refused(&self, request: &str, body: &[u8]) -> (u16, Failure) {
        let (status, body) = self.ask(request, body).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{request}: {error}: {body}")))
    }
}

#[tokio::test]
async fn refusals_have_one_shape_and_an_operation() {
    let server = Server::new().await;
    for (request, body, status, code) in [
        ("GET /v1/nothing", "", 404, Code::NotFound),
        ("GET /", "", 404, Code::NotFound),
        ("PUT /v1/vms", "", 400, Code::Invalid),
        ("GET /v1/vms?runing=true", "", 400, Code::Invalid),
        ("GET /v1/vms/nope", "", 404, Code::NotFound),
        ("GET /v1/vms/..%2f..", "", 404, Code::NotFound),
        ("GET /v1/vms/%ff", "", 400, Code::Invalid),
        ("GET /v1/vms/nope/logs?tail=-1", "", 400, Code::Invalid),
        ("POST /v1/vms", "{", 400, Code::Invalid),
        ("POST /v1/vms", "{\"name\":\"Not Ok\"}", 400, Code::Invalid),
        ("POST /v1/vms/nope/start", "", 404, Code::NotFound),
        ("DELETE /v1/vms/nope", "", 404, Code::NotFound),
        ("GET /v1/kernels/..%2fx", "", 400, Code::Invalid),
        ("POST /v1/kernels/pull", "{}", 400, Code::Invalid),
        ("POST /v1/kernels/pull", "{\"kernel\":\"nope-1.0\"}", 404, Code::NotFound),
        ("GET /v1/kernels/x?verify=maybe", "", 400, Code::Invalid),
        ("POST /v1/kernels/import", "{\"kernel\":\"x\"}", 400, Code::Invalid),
        ("POST /v1/images/register", "{\"name\":\"x\",\"rootfs\":\"/r\",\"rw\":true}", 400, Code::Invalid),
        ("DELETE /v1/images/nope", "", 404, Code::NotFound),
        // Names that are words of other paths.
        ("GET /v1/images/pull", "", 404, Code::NotFound),
        ("GET /v1/images/cache", "", 404, Code::NotFound),
        ("DELETE /v1/images/build", "", 404, Code::NotFound),
        ("GET /v1/kernels/import", "", 404, Code::NotFound),
        ("DELETE /v1/kernels/pull", "", 404, Code::NotFound),
        ("PUT /v1/images/register", "", 400, Code::Invalid),
    ] {
        let (got, failure) = server.refused(request, body.as_bytes()).await;
        assert_eq!((got, failure.code), (status, code), "{request} {body}: {failure}");
        assert!(failure.operation.is_some(), "{request}");
    }
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let server = Server::new().await;
    let (status, failure) = server.refused("POST /v1/vms", &vec![b' '; MAX_REQUEST + 1]).await;
    assert_eq!((status, failure.code), (400, Code::Invalid));
}

#[tokio::test]
async fn an_operation_streams_from_started_to_its_end() {
    let server = Server::new().await;
    let (status, body) = server.ask("POST /v1/vms", b"{\"image\":\"Nope\"}").await;
    let events: Vec<Event<()>> =
        body.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(status, 200);
    let [Event::Started { operation }, Event::Failed { failure }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((failure.code, failure.operation.as_ref()), (Code::NotFound, Some(operation)));
}

#[tokio::test]
async fn a_vm_is_listed_without_its_secrets_and_its_console_read() {
    let server = Server::new().await;
    let row = server.world.vm("demo", VmState::Stopped).await;
    let console = server.world.layout.vm(&row.id).join("console.log");
    std::fs::write(console, "one\ntwo\n\u{1b}[31mthree").unwrap();
    let (_, body) = server.ask("GET /v1/vms/demo", b"").await;
    assert!(body.contains("\"env\":[\"A\"]") && body.contains("\"state\":\"stopped\""), "{body}");
    let (_, body) = server.ask("GET /v1/vms?running=true", b"").await;
    assert_eq!(body, "[]");
    let (_, body) = server.ask("GET /v1/vms/demo/logs?tail=1&follow=true", b"").await;
    assert!(body.contains("\u{1b}[31mthree") && !body.contains("two"), "{body:?}");
    let (status, failure) = server.refused("GET /v1/vms/demo/guest", b"").await;
    assert_eq!((status, failure.hints[0].as_str()), (409, "banger vm start demo"));
}

#[tokio::test]
async fn stopping_answers_first_and_cuts_what_hangs() {
    let server = Server::new().await;
    let mut hanging = UnixStream::connect(&server.socket).await.unwrap();
    hanging.write_all(b"GET /v1/version HTTP/1.1\r\n").await.unwrap();
    let (status, body) = server.ask("POST /v1/daemon/stop", b"").await;
    assert!(status == 200 && body.contains("\"running_vms\":0"), "{body}");
    assert!(server.stop.is_cancelled());
    server.task.await.unwrap();
    UnixStream::connect(&server.socket).await.unwrap_err();
}
