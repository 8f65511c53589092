//! Guests that are slow, and guests that only seem so.

use super::*;
use crate::progress_stream::ProgressStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::Notify,
};

const SHORT: StallTimeout = StallTimeout { idle: Duration::from_secs(2), work: Duration::from_secs(60 * 60) };
/// Limits for a guest that never finishes.
const ENDING: StallTimeout = StallTimeout { idle: Duration::from_secs(1), work: Duration::from_secs(4) };
/// Pauses of a slow guest: each shorter than the time limit, together longer.
const PAUSES: (u32, Duration) = (8, Duration::from_millis(400));

async fn connection() -> (Connection, DuplexStream) {
    let (ours, guest) = duplex(1 << 10);
    (Connection::open(ours, Vec::new()).await.unwrap(), guest)
}

async fn head(guest: &mut DuplexStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(guest.read_u8().await.unwrap());
    }
}

fn pieces(count: usize) -> Body {
    let pieces = (0..count).map(|_| Ok::<_, io::Error>(Frame::data(Bytes::from_static(&[b'x'; 4096]))));
    http::Body::new(StreamBody::new(futures_util::stream::iter(pieces)))
}

#[tokio::test]
async fn a_guest_that_does_not_answer_or_take_anything_is_given_up() {
    for body in [None, Some(pieces(1)), Some(pieces(1000))] {
        let (mut connection, _guest) = connection().await;
        let failure = SHORT.exchange(&mut connection, Method::PUT, "/", body).await.unwrap_err();
        assert_eq!(failure.code, Code::Timeout, "{failure}");
    }
}

#[tokio::test]
async fn a_head_that_drips_is_no_answer() {
    let (mut connection, mut guest) = connection().await;
    tokio::spawn(async move {
        head(&mut guest).await;
        guest.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
        while guest.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let failure = SHORT.exchange(&mut connection, Method::GET, "/", None).await.unwrap_err();
    assert_eq!(failure.code, Code::Timeout, "{failure}");
}

#[tokio::test]
async fn a_guest_that_is_slow_may_take_its_time_both_ways() {
    let (mut connection, mut guest) = connection().await;
    let (count, pause) = PAUSES;
    tokio::spawn(async move {
        head(&mut guest).await;
        let mut taken = [0; 4096];
        for _ in 0..count {
            guest.read_exact(&mut taken).await.unwrap();
            tokio::time::sleep(pause).await;
        }
        guest.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.unwrap();
        for _ in 0..count {
            guest.write_all(b"x").await.unwrap();
            tokio::time::sleep(pause).await;
        }
    });
    let body = Some(pieces(count as usize));
    let response = SHORT.exchange(&mut connection, Method::PUT, "/", body).await.unwrap();
    let (mut body, mut got) = (response.into_body(), 0);
    while let Some(data) = SHORT.data(&mut body).await {
        got += data.unwrap().len();
    }
    assert_eq!(got, count as usize);
}

/// A guest that has received everything and works is asked whether it is alive, and given up if it does not answer.
#[tokio::test]
async fn a_guest_that_works_may_be_silent_while_it_is_there() {
    for (times, answers) in [(3, true), (0, false)] {
        let (mut connection, mut guest) = connection().await;
        let asked = AtomicUsize::new(0);
        let enough = Notify::new();
        let works = async {
            head(&mut guest).await;
            // Three chunks and the end.
            guest.read_exact(&mut vec![0; 3 * 4096 + 3 * 8 + 5]).await.unwrap();
            enough.notified().await;
            guest.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        };
        let responds = async || {
            let asked = asked.fetch_add(1, Ordering::Relaxed) + 1;
            if asked == times {
                enough.notify_one();
            }
            asked <= times
        };
        let exchange = SHORT.exchange_while(&mut connection, Method::PUT, "/", Some(pieces(3)), responds);
        let answer = tokio::select! { answer = exchange => answer, () = works => unreachable!() };
        assert_eq!(
            answer.map(|answer| answer.status().is_success()).map_err(|it| it.code).ok(),
            answers.then_some(true)
        );
    }
}

/// Bytes that the guest does not take are owed, even if it answers other requests.
#[tokio::test]
async fn a_guest_that_takes_nothing_is_not_asked() {
    let (mut connection, _guest) = connection().await;
    let asked = async || panic!("asked");
    let exchange = SHORT.exchange_while(&mut connection, Method::PUT, "/", Some(pieces(1000)), asked);
    assert_eq!(exchange.await.unwrap_err().code, Code::Timeout);
}

#[tokio::test]
async fn work_ends_when_the_guest_is_gone() {
    let asked = AtomicUsize::new(0);
    let responds = async || asked.fetch_add(1, Ordering::Relaxed) < 2;
    let nothing = SHORT.supervise(std::future::pending::<crate::exit::Result<()>>(), &[], responds);
    assert!(nothing.await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    let done = SHORT.supervise(async { Ok(1) }, &[], async || false).await;
    assert_eq!(done.ok(), Some(1));
}

/// Neither a guest that claims to be alive nor one that drips bytes is waited for without limit.
#[tokio::test]
async fn nobody_waits_for_ever() {
    let (mut silent, _guest) = connection().await;
    let there = async || true;
    let exchange = ENDING.exchange_while(&mut silent, Method::PUT, "/", Some(pieces(0)), there);
    let nothing = ENDING.supervise(std::future::pending::<crate::exit::Result<()>>(), &[], there);
    let mut sink = ProgressStream::new(tokio::io::sink());
    let outputs = [sink.last_write()];
    let drips = async {
        while sink.write_all(b"x").await.is_ok() {
            sleep(ENDING.idle / 10).await;
        }
        Ok(())
    };
    let drips = ENDING.supervise(drips, &outputs, there);
    let (mut dripping, mut guest) = connection().await;
    tokio::spawn(async move {
        head(&mut guest).await;
        guest.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.unwrap();
        while guest.write_all(b"x").await.is_ok() {
            sleep(ENDING.idle / 10).await;
        }
    });
    let ending = StallTimeout { idle: Duration::from_secs(60), ..ENDING };
    let collect = async {
        let response = ending.exchange(&mut dripping, Method::GET, "/", None).await.unwrap();
        ending.collect(response.into_body(), 1 << 20).await.map(drop)
    };
    let (exchanged, nothing, drips, collected) = tokio::join!(exchange, nothing, drips, collect);
    for failure in [exchanged.map(drop).unwrap_err(), collected.unwrap_err()] {
        assert!(failure.message.contains("did not finish"), "{failure:?}");
    }
    assert!(nothing.is_err() && drips.is_err());
}

#[tokio::test]
async fn one_answer_that_is_missed_ends_no_work() {
    let (asked, enough) = (AtomicUsize::new(0), Notify::new());
    let every_other = async || {
        let asked = asked.fetch_add(1, Ordering::Relaxed);
        if asked == 3 {
            enough.notify_one();
        }
        if asked == 0 { std::future::pending().await } else { asked % 2 == 1 }
    };
    let work = async {
        enough.notified().await;
        Ok(1)
    };
    assert_eq!(SHORT.supervise(work, &[], every_other).await.ok(), Some(1));
}

#[tokio::test]
async fn a_guest_that_is_heard_is_not_asked() {
    let mut sink = ProgressStream::new(tokio::io::sink());
    let (outputs, (count, pause)) = (sink.last_write(), PAUSES);
    let work = async {
        for _ in 0..count {
            sink.write_all(b"x").await.unwrap();
            tokio::time::sleep(pause).await;
        }
        Ok(1)
    };
    assert_eq!(SHORT.supervise(work, &[outputs], async || panic!("asked")).await.ok(), Some(1));
}

#[tokio::test]
async fn an_answer_that_stops_in_its_middle_is_given_up() {
    let (mut connection, mut guest) = connection().await;
    let silent = tokio::spawn(async move {
        head(&mut guest).await;
        guest.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
        guest
    });
    let response = SHORT.exchange(&mut connection, Method::GET, "/", None).await.unwrap();
    let _guest = silent.await.unwrap();
    let mut body = response.into_body();
    assert_eq!(SHORT.data(&mut body).await.unwrap().unwrap(), "half");
    assert_eq!(SHORT.data(&mut body).await.unwrap().unwrap_err().code, Code::Timeout);
}

#[tokio::test]
async fn a_source_here_that_is_slow_is_not_the_guests_fault() {
    let (mut connection, mut guest) = connection().await;
    tokio::spawn(async move {
        head(&mut guest).await;
        let mut taken = [0; 1];
        while guest.read_exact(&mut taken).await.is_ok() && taken[0] != b'!' {}
        // The end of the chunk and of the body.
        let mut rest = [0; 7];
        guest.read_exact(&mut rest).await.unwrap();
        guest.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    });
    let late = futures_util::stream::once(async {
        tokio::time::sleep(SHORT.idle * 2).await;
        Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"!")))
    });
    let body = http::Body::new(StreamBody::new(Box::pin(late)));
    let response = SHORT.exchange(&mut connection, Method::PUT, "/", Some(body)).await.unwrap();
    assert!(response.status().is_success());
}
