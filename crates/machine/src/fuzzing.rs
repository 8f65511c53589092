//! Entry points for fuzzing: arbitrary bytes in place of a guest's or a VMM's output. The corpora are replayed through
//! them too. Nothing else uses them, but the daemon's own entry points.
//!
//! Each function panics when its input was not refused, bounded or escaped as the reader promises.

use crate::{
    shim,
    vmm::{firecracker::client, qemu::qmp::Qmp},
};
use std::future::Future;
use tokio::{io::AsyncWriteExt, net::UnixStream};

/// Announcements of an agent.
pub fn events(data: &[u8]) {
    run(shim::fuzz_read_events(data));
}

/// An agent's response when it is asked to connect to a port of the guest: nothing after the response may be consumed.
pub fn ports(data: &[u8]) {
    run(shim::fuzz_read_answer(data));
}

/// Console output of a guest: returns the panic that is found in it.
pub fn panic_on(data: &[u8]) -> Option<String> {
    shim::panic_on(data)
}

/// Input on QEMU's QMP socket, while events are read and while a response is awaited.
pub fn qmp(data: &[u8]) {
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

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}
