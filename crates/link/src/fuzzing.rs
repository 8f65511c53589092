//! Entry points for fuzzing and for the replay of the corpus: arbitrary bytes in the place of a peer. No session uses
//! this module.

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

/// Reads a pipe's bytes as either end does, in pieces of the length in the first byte. Panics if a bound does not hold.
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

/// Reads the line that a hybrid-vsock client or server sends.
pub fn line(data: &[u8]) {
    let _ = poll_once(vsock::server_port(&mut &data[..]));
    let _ = poll_once(vsock::client_handshake(&mut tokio::io::join(data, tokio::io::sink()), 1024));
}

fn greetings(mut scanner: Scanner, bytes: &[u8], length: usize) {
    for mut piece in bytes.chunks(length) {
        while let Some((_, taken)) = scanner.feed(piece) {
            piece = &piece[taken..];
        }
    }
}

/// Runs a session with streams of both ends, reads every other stream, and sends what is due.
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
        // Also a pipe that accepts no bytes.
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

/// Polls a future that reads from memory, which is never pending.
fn poll_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits for bytes that are there"),
    }
}
