//! Tests of the other routes.

use crate::{Hosted, client::command, on_one_thread};
use banger_proto::{
    agent::{
        boot::Init,
        event::GuestEvent,
        http::{API_VERSION, Health, Port, Stats},
        link::AGENT_PORT,
    },
    failure::{Code, Failure},
};
use hyper::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[test]
fn it_announces_itself() {
    on_one_thread(async {
        let mut hosted = Hosted::start().await;
        let Some(GuestEvent::Ready(ready)) = hosted.agent.events.recv().await else { panic!() };
        assert_eq!((ready.api_version, ready.init), (API_VERSION, Init::Agent));
        assert!(!ready.boot_id.is_empty() && !ready.kernel_release.is_empty());
        assert_eq!(ready.phases.last().unwrap().name, "agent");
        assert_eq!(hosted.agent.events.recv().await, Some(GuestEvent::Booted { state: "running".into() }));
    });
}

#[test]
fn health_stats_and_ports() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let (status, body) = hosted.agent.request(Method::GET, "/healthz", "").await;
        let health: Health = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, health.execs), (StatusCode::OK, 0));
        let mut exec = hosted.agent.exec(&command(&["sh", "-c", "echo up; sleep 100"])).await;
        exec.read_until("up").await;
        let (_, body) = hosted.agent.request(Method::GET, "/healthz", "").await;
        assert_eq!(serde_json::from_slice::<Health>(&body).unwrap().execs, 1);

        let (_, body) = hosted.agent.request(Method::GET, "/stats", "").await;
        let stats: Stats = serde_json::from_slice(&body).unwrap();
        assert!(stats.memory_total > stats.memory_available && stats.disk_total > 0 && stats.cpu_ms > 0);

        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_, body) = hosted.agent.request(Method::GET, "/ports", "").await;
        let ports: Vec<Port> = serde_json::from_slice(&body).unwrap();
        assert!(ports.iter().any(|found| found.port == port && found.address == "127.0.0.1"), "{ports:?}");
    });
}

#[test]
fn connect_reaches_a_port() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let echo = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&all).await.unwrap();
        };
        let talk = async {
            let mut stream = hosted.agent.dialer.dial(AGENT_PORT).await.unwrap();
            let request = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
            stream.write_all(&vec![7; 500_000]).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert_eq!(back.len(), 500_000);
        };
        tokio::join!(echo, talk);
    });
}

#[test]
fn refusals_have_a_body() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        for (method, path, status, code) in [
            (Method::GET, "/nope", StatusCode::NOT_FOUND, Code::NotFound),
            (Method::POST, "/healthz", StatusCode::NOT_FOUND, Code::NotFound),
            (Method::GET, "/exec", StatusCode::BAD_REQUEST, Code::Invalid),
            (Method::POST, "/shutdown", StatusCode::BAD_REQUEST, Code::Invalid),
            (Method::GET, "/archive?path=relative", StatusCode::BAD_REQUEST, Code::Invalid),
            (Method::GET, "/archive?path=/no/such/thing", StatusCode::NOT_FOUND, Code::NotFound),
            (Method::PUT, "/archive?path=/no/such/thing", StatusCode::NOT_FOUND, Code::NotFound),
        ] {
            let (got, body) = hosted.agent.request(method, path, "").await;
            let failure: Failure = serde_json::from_slice(&body).unwrap();
            assert_eq!((got, failure.code), (status, code), "{path}: {failure}");
        }
        // A port without a listener, and an address that is not the guest's.
        for target in ["127.0.0.1:1", "example.com:80"] {
            let mut stream = hosted.agent.dialer.dial(AGENT_PORT).await.unwrap();
            stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert!(head.starts_with(b"HTTP/1.1 503") || head.starts_with(b"HTTP/1.1 400"), "{head:?}");
        }
        assert!(hosted.agent.dialer.dial(4).await.is_err());
    });
}

#[test]
fn garbage_on_a_stream_harms_nobody() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        for garbage in [&b"\x16\x03\x01garbage\r\n\r\n"[..], &vec![b'a'; 100_000]] {
            let mut stream = hosted.agent.dialer.dial(AGENT_PORT).await.unwrap();
            let _ = stream.write_all(garbage).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
        }
        assert_eq!(hosted.agent.request(Method::GET, "/healthz", "").await.0, StatusCode::OK);
    });
}
