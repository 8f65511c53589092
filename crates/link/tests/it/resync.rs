//! Finding the other end in spite of garbage before, between and within sessions.

use crate::{Sessions, check_pattern, frame, guest_on, on_one_thread, send_pattern, stream};
use banger_link::{Ended, HostSession, Incoming, Stream};
use banger_proto::agent::link::{HELLO, REPLY};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Opens a session on `pipe` and checks that streams work in it.
async fn opens(pipe: UnixStream, sessions: &mut Sessions) {
    let mut session = HostSession::open(pipe).await.unwrap();
    let driver = tokio::spawn(session.driver.run());
    // The guest may have found a session in the bytes before this one; it is over when the dial is answered.
    let ((guest, b), a) = tokio::join!(
        async {
            loop {
                let (guest, mut from_host) = sessions.recv().await.expect("the guest stopped looking");
                if let Some(stream) = accepts(&mut from_host).await {
                    break (guest, stream);
                }
            }
        },
        session.dialer.dial(1)
    );
    let ((), read) = tokio::join!(send_pattern(a.unwrap(), 100_000), check_pattern(b));
    assert_eq!(read, 100_000);
    let (a, b) = stream(&guest, &mut session.incoming, 2).await;
    let ((), read) = tokio::join!(send_pattern(a, 100_000), check_pattern(b));
    assert_eq!(read, 100_000);
    driver.abort();
}

/// Accepts the first stream to port 1; `None` if the session ended before one came.
async fn accepts(from_host: &mut Incoming) -> Option<Stream> {
    loop {
        match from_host.next().await {
            Ok(inbound) if inbound.port() == 1 => return Some(inbound.accept().await),
            // A truncated header, completed by a hello, may open a stream to any port.
            Ok(other) => other.refuse().await,
            Err(Ended::Superseded | Ended::Protocol(_)) => return None,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_guest_that_comes_late_is_found_and_greeted_once() {
    on_one_thread(async {
        let (host, guest) = UnixStream::pair().unwrap();
        let host = tokio::task::spawn_local(HostSession::open(host));
        tokio::time::sleep(Duration::from_millis(700)).await;
        let mut sessions = guest_on(guest);
        let session = host.await.unwrap().unwrap();
        let driver = tokio::spawn(session.driver.run());
        let (_, mut from_host) = sessions.recv().await.unwrap();
        let (a, b) = stream(&session.dialer, &mut from_host, 1).await;
        let ((), read) = tokio::join!(send_pattern(a, 300_000), check_pattern(b));
        assert_eq!(read, 300_000);
        // The unanswered hellos were skipped and opened no second session.
        assert!(sessions.try_recv().is_err());
        driver.abort();
    });
}

#[test]
fn garbage_before_the_greeting_is_dropped_at_both_ends() {
    on_one_thread(async {
        let mut garbage = vec![0xa5; 70_000];
        garbage.extend(&HELLO[..9]);
        // A reply to another hello.
        garbage.extend(REPLY);
        garbage.extend([1; 16]);
        let (mut host, mut guest) = UnixStream::pair().unwrap();
        host.write_all(&garbage).await.unwrap();
        guest.write_all(&garbage).await.unwrap();
        let mut sessions = guest_on(guest);
        opens(host, &mut sessions).await;
    });
}

#[test]
fn a_guest_cut_off_anywhere_in_a_session_takes_the_next_one() {
    on_one_thread(async {
        let mut bytes = HELLO.to_vec();
        bytes.extend([9; 16]);
        bytes.extend(frame(0, 1, 1, 4));
        bytes.extend(77_u32.to_be_bytes());
        for _ in 0..2 {
            bytes.extend(frame(0, 0, 1, 16 << 10));
            bytes.extend(vec![0; 16 << 10]);
        }
        // Within the greeting, a header, a port, a payload, and right between two frames.
        let frames = [32, 44, 48, 60, 60 + (16 << 10), bytes.len()];
        let near = frames.iter().flat_map(|at| [at - 1, *at, at + 1]);
        for cut in [0, 1, 15, 16, 20].into_iter().chain(near).chain([5_000, 20_000]).filter(|cut| *cut <= bytes.len()) {
            let (mut host, guest) = UnixStream::pair().unwrap();
            let mut sessions = guest_on(guest);
            host.write_all(&bytes[..cut]).await.unwrap();
            // Let the guest proceed as far as it can before another host comes.
            tokio::task::yield_now().await;
            tokio::time::timeout(Duration::from_secs(20), opens(host, &mut sessions))
                .await
                .unwrap_or_else(|_| panic!("no session after a cut at {cut}"));
        }
    });
}

#[test]
fn nonsense_in_a_session_ends_it_and_the_next_host_is_heard() {
    on_one_thread(async {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let mut sessions = guest_on(guest);
        for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &frame(0, 0, 1, u32::MAX), &[1; 100]] {
            let mut bytes = HELLO.to_vec();
            bytes.extend([9; 16]);
            host.write_all(&bytes).await.unwrap();
            let (guest, mut from_host) = sessions.recv().await.unwrap();
            let mut reply = [0; 32];
            host.read_exact(&mut reply).await.unwrap();
            assert_eq!((&reply[..16], &reply[16..]), (&REPLY[..], &[9; 16][..]));
            host.write_all(nonsense).await.unwrap();
            let ended = from_host.next().await.unwrap_err();
            assert!(matches!(ended, Ended::Protocol(_)), "{ended:?}");
            assert!(guest.dial(1).await.is_err());
        }
        opens(host, &mut sessions).await;
    });
}

#[test]
fn another_hello_replaces_the_session() {
    on_one_thread(async {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let mut sessions = guest_on(guest);
        let hello = |nonce: u8| [&HELLO[..], &[nonce; 16]].concat();
        let mut reply = [0; 32];
        host.write_all(&[hello(1), hello(1)].concat()).await.unwrap();
        let (_, mut first) = sessions.recv().await.unwrap();
        host.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[16..], [1; 16]);
        host.write_all(&hello(2)).await.unwrap();
        assert_eq!(first.next().await.unwrap_err(), Ended::Superseded);
        sessions.recv().await.unwrap();
        host.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[16..], [2; 16]);
    });
}

#[test]
fn a_guest_that_takes_over_ends_the_session_of_the_one_before() {
    on_one_thread(async {
        let (host, guest) = UnixStream::pair().unwrap();
        let first = guest.into_std().unwrap();
        let mut second = UnixStream::from_std(first.try_clone().unwrap()).unwrap();
        let host = host.into_std().unwrap();
        let opened =
            tokio::task::spawn_local(HostSession::open(UnixStream::from_std(host.try_clone().unwrap()).unwrap()));
        let dying = tokio::spawn(banger_link::guest::run(UnixStream::from_std(first).unwrap(), |_, _| {}));
        let driver = tokio::spawn(opened.await.unwrap().unwrap().driver.run());
        dying.abort();
        banger_link::guest::end_previous(&mut second).await.unwrap();
        assert_eq!(driver.await.unwrap(), Ended::GoAway);
        // A host that waits for an answer ignores it.
        banger_link::guest::end_previous(&mut second).await.unwrap();
        let mut sessions = guest_on(second);
        opens(UnixStream::from_std(host).unwrap(), &mut sessions).await;
    });
}

#[test]
fn a_pipe_that_ends_before_the_answer_says_so() {
    on_one_thread(async {
        let (host, guest) = UnixStream::pair().unwrap();
        drop(guest);
        let ended = HostSession::open(host).await.unwrap_err();
        assert!(matches!(ended, Ended::Closed | Ended::Pipe(_)), "{ended:?}");
    });
}
