//! Streams between two honest ends.

use crate::{Pair, check_pattern, on_one_thread, pair, send_pattern, stream, wait_until};
use banger_link::{DialError, Ended, OUTBOX, WINDOW};
use banger_proto::agent::link::MAX_STREAMS;
use std::io::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};

#[test]
fn a_hundred_megabytes_both_ways_at_once() {
    on_one_thread(async {
        const TOTAL: u64 = 100_000_000;
        let mut pair = pair().await;
        let (a, b) = stream(&pair.host, &mut pair.from_host, 7).await;
        let ((ar, aw), (br, bw)) = (split(a), split(b));
        let ((), (), to_b, to_a) =
            tokio::join!(send_pattern(aw, TOTAL), send_pattern(bw, TOTAL), check_pattern(br), check_pattern(ar));
        assert_eq!((to_a, to_b), (TOTAL, TOTAL));
    });
}

#[test]
fn a_slow_reader_stops_its_writer_and_nobody_else() {
    on_one_thread(async {
        let mut pair = pair().await;
        let (mut slow, slow_end) = stream(&pair.host, &mut pair.from_host, 1).await;
        let mut written = 0;
        // Until a write waits because the outbox and the window are full.
        while let Ok(count) =
            tokio::time::timeout(std::time::Duration::from_millis(200), slow.write(&[7; 10_000])).await
        {
            written += count.unwrap();
            assert!(written <= OUTBOX + WINDOW, "{written} bytes went nowhere");
        }
        // The port at the beginning of the stream used some of the window.
        assert_eq!(written, OUTBOX + WINDOW - 4);
        let (fast, fast_end) = stream(&pair.host, &mut pair.from_host, 2).await;
        let ((), read) = tokio::join!(send_pattern(fast, 5_000_000), check_pattern(fast_end));
        assert_eq!(read, 5_000_000);
        // The slow stream continues where it was.
        slow.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let mut slow_end = slow_end;
        slow_end.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len(), written);
    });
}

#[test]
fn each_half_closes_by_itself() {
    on_one_thread(async {
        let mut pair = pair().await;
        let (mut a, mut b) = stream(&pair.guest, &mut pair.from_guest, 9).await;
        a.write_all(b"question").await.unwrap();
        a.shutdown().await.unwrap();
        let mut question = String::new();
        b.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        b.write_all(b"answer").await.unwrap();
        let mut answer = vec![0; 6];
        a.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        drop(b);
        // Dropped without a shutdown: the answer is followed by a reset, not by an end.
        assert_eq!(a.read(&mut answer).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn what_was_written_before_shutdown_and_drop_arrives_whole() {
    on_one_thread(async {
        let mut pair = pair().await;
        let (a, b) = stream(&pair.guest, &mut pair.from_guest, 9).await;
        // More than outbox and window hold, so that the drop comes long before the end is sent.
        let reader = tokio::task::spawn_local(check_pattern(b));
        send_pattern(a, 1_000_000).await;
        assert_eq!(reader.await.unwrap(), 1_000_000);
    });
}

#[test]
fn a_vanished_reader_is_an_error_for_its_writer_even_after_a_half_close() {
    on_one_thread(async {
        let mut pair = pair().await;
        for half_closed in [false, true] {
            let (mut a, mut b) = stream(&pair.host, &mut pair.from_host, 5).await;
            if half_closed {
                a.shutdown().await.unwrap();
                assert_eq!(b.read(&mut [0]).await.unwrap(), 0);
            }
            drop(a);
            let error = loop {
                if let Err(error) = b.write(&[0; 4096]).await {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::BrokenPipe, "half closed: {half_closed}");
        }
    });
}

#[test]
fn a_vanished_peer_is_noticed_behind_unread_bytes() {
    on_one_thread(async {
        let mut pair = pair().await;
        let (mut a, b) = stream(&pair.host, &mut pair.from_host, 5).await;
        let gone = b.gone();
        a.write_all(&[1; 1000]).await.unwrap();
        tokio::pin!(gone);
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(a);
        gone.await;
    });
}

#[test]
fn a_port_without_listener_is_refused() {
    on_one_thread(async {
        let mut pair = pair().await;
        let (dialed, ()) = tokio::join!(pair.host.dial(22), async {
            pair.from_host.next().await.unwrap().refuse().await;
        });
        assert_eq!(dialed.unwrap_err(), DialError::Refused(22));
        // An unanswered stream is refused, too.
        let (dialed, ()) = tokio::join!(pair.host.dial(23), async {
            drop(pair.from_host.next().await.unwrap());
        });
        assert_eq!(dialed.unwrap_err(), DialError::Dropped(23));
    });
}

#[test]
fn the_stream_limit_refuses_one_stream_and_spares_the_session() {
    on_one_thread(async {
        let mut pair = pair().await;
        let mut streams = Vec::new();
        for _ in 0..MAX_STREAMS {
            streams.push(stream(&pair.host, &mut pair.from_host, 3).await);
        }
        assert_eq!(pair.host.dial(3).await.unwrap_err(), DialError::Full);
        streams.pop();
        let (mut a, mut b) = stream(&pair.host, &mut pair.from_host, 4).await;
        a.write_all(b"x").await.unwrap();
        assert_eq!(b.read_u8().await.unwrap(), b'x');
        drop(streams);
        // Both ends have forgotten all of them: the same number fits again.
        let mut again = Vec::new();
        for _ in 0..MAX_STREAMS - 1 {
            again.push(stream(&pair.host, &mut pair.from_host, 5).await);
        }
    });
}

#[test]
fn a_guest_has_few_streams_of_its_own_at_a_host() {
    on_one_thread(async {
        let mut pair = pair().await;
        let mut kept = Vec::new();
        for _ in 0..banger_link::MAX_GUEST_STREAMS {
            kept.push(stream(&pair.guest, &mut pair.from_guest, 1025).await);
        }
        assert_eq!(pair.guest.dial(1025).await.unwrap_err(), DialError::Dropped(1025));
        kept.pop();
        kept.push(stream(&pair.guest, &mut pair.from_guest, 1025).await);
    });
}

#[test]
fn the_end_of_the_session_reaches_every_handle() {
    on_one_thread(async {
        let Pair { host, mut from_guest, host_end, guest, mut from_host } = pair().await;
        let (mut a, mut b) = stream(&host, &mut from_host, 1).await;
        b.write_all(b"last words").await.unwrap();
        let mut first = [0];
        a.read_exact(&mut first).await.unwrap();
        host_end.abort();
        let mut rest = Vec::new();
        let error = a.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!((error.kind(), rest.as_slice()), (ErrorKind::ConnectionAborted, &b"ast words"[..]));
        assert_eq!(from_guest.next().await.unwrap_err(), Ended::Dropped);
        assert_eq!(host.dial(1).await.unwrap_err(), DialError::Ended(Ended::Dropped));
        // The pipe was dropped with the driver, so the guest notices.
        assert_eq!(from_host.next().await.unwrap_err(), Ended::Closed);
        assert_eq!(guest.dial(1).await.unwrap_err(), DialError::Ended(Ended::Closed));
        assert_eq!(b.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_dial_that_is_given_up_leaves_nothing() {
    on_one_thread(async {
        let mut pair = pair().await;
        for _ in 0..3 * MAX_STREAMS {
            let dial = pair.host.dial(1);
            tokio::pin!(dial);
            // Polled once, so that the stream exists, and dropped unanswered.
            assert!(futures_util::poll!(&mut dial).is_pending());
            tokio::task::yield_now().await;
        }
        let (_a, b) = stream_after_the_dead(&mut pair).await;
        drop(b);
    });
}

/// Opens a stream after streams that were given up, which may still be queued.
async fn stream_after_the_dead(pair: &mut Pair) -> (banger_link::Stream, banger_link::Stream) {
    let (dialed, accepted) = tokio::join!(pair.host.dial(77), async {
        loop {
            let inbound = pair.from_host.next().await.unwrap();
            if inbound.port() == 77 {
                return inbound.accept().await;
            }
        }
    });
    (dialed.unwrap(), accepted)
}

#[test]
fn many_streams_share_the_pipe_fairly() {
    on_one_thread(async {
        let mut pair = pair().await;
        let mut jobs = Vec::new();
        for port in 0..50 {
            let (a, b) = stream(&pair.host, &mut pair.from_host, port).await;
            jobs.push(tokio::task::spawn_local(async move {
                let ((), read) = tokio::join!(send_pattern(a, 500_000), check_pattern(b));
                assert_eq!(read, 500_000);
            }));
        }
        wait_until("fifty streams to end", || jobs.iter().all(tokio::task::JoinHandle::is_finished).then_some(()))
            .await;
        for job in jobs {
            job.await.unwrap();
        }
    });
}
