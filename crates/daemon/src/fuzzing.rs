//! Entry points for fuzzing: arbitrary bytes in place of a guest's or a VMM's output. The corpora are replayed through
//! them too. No other part of the daemon uses them.
//!
//! Each function panics when its input was not refused, bounded or escaped as the reader promises.

use crate::{
    network, shim,
    vm::{MAX_GUEST_TEXT, QUOTED_LINE, QUOTED_LINES, agent_refusal, quoted},
    vmm::{firecracker::client, qemu::qmp::Qmp},
};
use banger_proto::agent::http::{Health, Port, Stats};
use hyper::StatusCode;
use std::future::Future;
use tokio::{io::AsyncWriteExt, net::UnixStream};

/// Announcements of an agent.
pub fn events(data: &[u8]) {
    run(shim::fuzz_read_events(data));
}

/// An agent's responses to requests.
pub fn answers(data: &[u8]) {
    let _ = serde_json::from_slice::<Health>(data);
    let _ = serde_json::from_slice::<Stats>(data);
    let _ = serde_json::from_slice::<Vec<Port>>(data);
    let told = agent_refusal("/", StatusCode::INTERNAL_SERVER_ERROR, data);
    assert!(told.hints.is_empty() && told.operation.is_none(), "{told:?}");
    for cause in &told.causes {
        assert!(cause.chars().count() <= MAX_GUEST_TEXT, "{} characters", cause.len());
        assert!(!cause.contains(char::is_control), "{cause:?}");
    }
}

/// An agent's response when it is asked to connect to a port of the guest: nothing after the response may be consumed.
pub fn ports(data: &[u8]) {
    run(shim::fuzz_read_answer(data));
}

/// Console output of a guest: searched for a panic, and quoted.
pub fn console(data: &[u8]) {
    let lines = quoted(data);
    assert!(lines.len() <= QUOTED_LINES, "{} lines", lines.len());
    for line in lines.iter().chain(&shim::panic_on(data)) {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(lines.iter().all(|line| line.chars().count() <= QUOTED_LINE), "{lines:?}");
}

/// Input on QEMU's QMP socket, while events are read and while a response is awaited.
pub fn monitor(data: &[u8]) {
    run(async {
        for asks in [false, true] {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
            let mut qmp = Qmp::begin(ours).expect("the first word finds room");
            // Ends when everything is sent, or with the reader.
            let speak = async {
                let _ = theirs.write_all(data).await;
                drop(theirs);
            };
            let listen = async move {
                if asks {
                    let _ = qmp.execute("query-status", serde_json::json!({})).await;
                }
                while qmp.shutdown().await.is_ok() {}
            };
            tokio::join!(speak, listen);
        }
    });
}

/// Firecracker's response on its API socket.
pub fn api(data: &[u8]) {
    run(async {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let speak = async {
            // Ends when everything is sent, or with the reader.
            let _ = theirs.write_all(data).await;
            drop(theirs);
        };
        let ((), heard) = tokio::join!(speak, client::fuzz_read(ours));
        if let Err(error) = heard {
            let said = error.to_string();
            assert!(said.len() < 16 << 10 && !said.contains(char::is_control), "{said:?}");
        }
    });
}

/// A guest's query to the resolver, and the response of an outside resolver.
pub fn names(data: &[u8]) {
    network::read_as_any(data);
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}
