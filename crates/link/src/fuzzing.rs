//! Any bytes in a peer's place: what fuzzing drives, and what its corpus is replayed with. No session uses it.

use crate::{
    handshake::{GREETING, Greeting, Scanner},
    session::{Role, mux::Mux, parse::Parser},
    vsock,
};
use banger_proto::agent::link::{HELLO, REPLY};
use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

/// A pipe's bytes as either end takes them, in pieces as long as the first byte says. Panics when a bound does not hold.
pub fn pipe(data: &[u8]) {
    let Some((length, bytes)) = data.split_first() else { return };
    let length = usize::from(*length).max(1);
    for magic in [HELLO, REPLY] {
        greetings(Scanner::new(magic), bytes, length);
    }
    for role in [Role::Host, Role::Guest] {
        session(role, bytes, length);
    }
}

/// The line a hybrid-vsock client or server sends.
pub fn line(data: &[u8]) {
    let _ = at_once(vsock::server_port(&mut &data[..]));
    let _ = at_once(vsock::client_handshake(&mut tokio::io::join(data, tokio::io::sink()), 1024));
}

fn greetings(mut scanner: Scanner, bytes: &[u8], length: usize) {
    for mut piece in bytes.chunks(length) {
        while let Some((_, taken)) = scanner.feed(piece) {
            piece = &piece[taken..];
        }
    }
}

/// Streams of both ends, of which this end reads every other one, and sends what it has to send.
fn session(role: Role, bytes: &[u8], length: usize) {
    let waker = Waker::noop();
    let mut context = Context::from_waker(waker);
    let mut mux = Mux::new(role);
    let mut parser = Parser::new((role == Role::Guest).then_some(Greeting { magic: HELLO, nonce: [1; 16] }));
    let mut streams: Vec<u32> = (0..3).map(|port| mux.open(port).expect("a new session has room")).collect();
    let (mut out, mut read) = (Vec::new(), [0; 512]);
    for piece in bytes.chunks(length) {
        if let Err(broken) = parser.feed(piece, &mut mux) {
            assert!(broken.rest.len() <= piece.len() + GREETING, "bytes out of nothing");
            mux.end(&broken.reason);
        }
        while let Poll::Ready(Ok((stream, _))) = mux.poll_accept(&mut context) {
            streams.push(stream);
        }
        for stream in streams.iter().step_by(2) {
            while matches!(mux.poll_read(*stream, &mut context, &mut read), Poll::Ready(Ok(1..))) {}
            let _ = mux.poll_write(*stream, &mut context, b"an answer");
        }
        // A pipe that takes nothing, too.
        if length.is_multiple_of(2) {
            mux.fill(&mut out, waker);
            out.clear();
        }
        mux.assert_bounded();
        if mux.ended().is_some() {
            break;
        }
    }
    for (number, stream) in streams.into_iter().enumerate() {
        if number % 3 == 0 {
            mux.finish(stream);
        }
        mux.release(stream);
        mux.assert_bounded();
    }
}

/// Memory makes nobody wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits for bytes that are there"),
    }
}
