//! Component tests of the guest channel over socketpairs.

#![expect(clippy::unwrap_used, reason = "a test may panic anywhere, its helpers too")]

mod hostile;
mod interop;
mod resync;
mod streams;
mod vsock;

use banger_link::{Dialer, Ended, HostSession, Incoming, Stream, guest};
use std::{future::Future, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
    task::{JoinHandle, LocalSet},
};

/// Both ends of a session.
struct Pair {
    host: Dialer,
    from_guest: Incoming,
    host_end: JoinHandle<Ended>,
    guest: Dialer,
    from_host: Incoming,
}

/// The sessions of a guest, in order.
type Sessions = mpsc::UnboundedReceiver<(Dialer, Incoming)>;

/// A yamux frame header.
fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> [u8; 12] {
    let mut header = [0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&flags.to_be_bytes());
    header[4..8].copy_from_slice(&stream.to_be_bytes());
    header[8..].copy_from_slice(&length.to_be_bytes());
    header
}

/// Runs a test on one thread, as the shim and the agent do, and fails it when it hangs.
fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async { tokio::time::timeout(Duration::from_secs(100), test).await.expect("a hang") });
}

/// Starts a guest on `pipe`; its sessions come out of the receiver.
fn guest_on(pipe: UnixStream) -> Sessions {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(guest::run(pipe, move |dialer, incoming| drop(sender.send((dialer, incoming)))));
    receiver
}

async fn pair() -> Pair {
    let (host, guest) = UnixStream::pair().unwrap();
    let mut sessions = guest_on(guest);
    let HostSession { dialer, incoming, driver } = HostSession::open(host).await.unwrap();
    let host_end = tokio::spawn(driver.run());
    let (guest, from_host) = sessions.recv().await.unwrap();
    Pair { host: dialer, from_guest: incoming, host_end, guest, from_host }
}

/// Opens a stream and returns both ends.
async fn stream(dialer: &Dialer, incoming: &mut Incoming, port: u32) -> (Stream, Stream) {
    let (dialed, accepted) = tokio::join!(dialer.dial(port), async {
        let inbound = incoming.next().await.unwrap();
        assert_eq!(inbound.port(), port);
        inbound.accept().await
    });
    (dialed.unwrap(), accepted)
}

/// Fills in bytes that differ at every relevant offset: a scrambled counter.
fn pattern(offset: u64, into: &mut [u8]) {
    for (index, byte) in into.iter_mut().enumerate() {
        let at = offset + index as u64;
        *byte = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
}

/// Writes `total` bytes of the pattern and finishes.
async fn send_pattern(mut to: impl tokio::io::AsyncWrite + Unpin, total: u64) {
    let mut chunk = vec![0; 50_000];
    let mut at = 0;
    while at < total {
        let count = chunk.len().min(usize::try_from(total - at).unwrap());
        pattern(at, &mut chunk[..count]);
        to.write_all(&chunk[..count]).await.unwrap();
        at += count as u64;
    }
    to.shutdown().await.unwrap();
}

/// Reads to the end, checks every byte, and returns the count.
async fn check_pattern(mut from: impl tokio::io::AsyncRead + Unpin) -> u64 {
    let mut chunk = vec![0; 30_000];
    let mut expected = vec![0; 30_000];
    let mut at = 0;
    loop {
        let count = from.read(&mut chunk).await.unwrap();
        if count == 0 {
            return at;
        }
        pattern(at, &mut expected[..count]);
        assert!(chunk[..count] == expected[..count], "bytes differ after {at}");
        at += count as u64;
    }
}

/// Waits until `fact` returns a value, and returns it; on timeout prints what it waited for.
async fn wait_until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    for _ in 0..10_000 {
        if let Some(found) = fact() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited in vain for: {what}");
}
