//! A guest that breaks the rules costs its host a bounded amount and one session.

use crate::{frame, on_one_thread, stream};
use banger_link::{Ended, HostSession, MAX_GUEST_STREAMS, WINDOW, fuzzing};
use banger_proto::agent::link::{HELLO, NONCE_LEN, REPLY};
use banger_testkit::replay;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
};

/// A host session whose guest is the test itself.
async fn raw_guest() -> (UnixStream, HostHandles) {
    let (host, mut guest) = UnixStream::pair().unwrap();
    let opened = tokio::task::spawn_local(HostSession::open(host));
    let mut hello = [0; 16 + NONCE_LEN];
    guest.read_exact(&mut hello).await.unwrap();
    assert_eq!(hello[..16], HELLO);
    guest.write_all(&REPLY).await.unwrap();
    guest.write_all(&hello[16..]).await.unwrap();
    let session = opened.await.unwrap().unwrap();
    let end = tokio::spawn(session.driver.run());
    (guest, HostHandles { dialer: session.dialer, incoming: session.incoming, end })
}

struct HostHandles {
    dialer: banger_link::Dialer,
    incoming: banger_link::Incoming,
    end: JoinHandle<Ended>,
}

#[test]
fn broken_rules_end_the_session_with_a_reason() {
    on_one_thread(async {
        let port = 1025_u32.to_be_bytes();
        let with_payload = |header: [u8; 12], payload: usize| [&header[..], &vec![0; payload]].concat();
        let open = [&frame(0, 1, 2, 4)[..], &port].concat();
        let window_full: Vec<u8> =
            std::iter::repeat_n(with_payload(frame(0, 0, 2, 16 << 10), 16 << 10), WINDOW / (16 << 10))
                .flatten()
                .collect();
        for (what, bytes) in [
            ("another version", vec![1; 12]),
            ("an unknown kind", frame(4, 0, 0, 0).to_vec()),
            ("a huge frame", frame(0, 0, 2, 1 << 20).to_vec()),
            ("a stream of the host", frame(0, 1, 1, 0).to_vec()),
            ("stream zero", frame(0, 1, 0, 0).to_vec()),
            ("a stream twice", [open.clone(), open.clone()].concat()),
            ("more than the window", [open.clone(), window_full].concat()),
            (
                "data after the end",
                [open.clone(), frame(0, 4, 2, 0).to_vec(), with_payload(frame(0, 0, 2, 1), 1)].concat(),
            ),
            ("a flood of pings", std::iter::repeat_n(frame(2, 0, 0, 7), 1_000_000).flatten().collect()),
        ] {
            let (mut guest, host) = raw_guest().await;
            // The host may hang up meanwhile.
            let _ = guest.write_all(&bytes).await;
            let ended = host.end.await.unwrap();
            assert!(matches!(ended, Ended::Protocol(_)), "{what}: {ended:?}");
        }
    });
}

#[test]
fn streams_without_a_header_use_up_only_the_guests_share() {
    on_one_thread(async {
        let (mut guest, mut host) = raw_guest().await;
        for id in 1..=200_u32 {
            guest.write_all(&frame(0, 1, id * 2, 1)).await.unwrap();
            guest.write_all(&[0]).await.unwrap();
        }
        // Every stream beyond the limit is reset, and the session goes on.
        let mut reset = 0;
        while reset < 200 - MAX_GUEST_STREAMS {
            let mut header = [0; 12];
            guest.read_exact(&mut header).await.unwrap();
            reset += usize::from(header[3] == 8);
        }
        // The host still dials. Its first frame opens stream 1 with the port.
        let dial = tokio::task::spawn_local(async move { host.dialer.dial(5).await });
        let mut opened = [0; 16];
        guest.read_exact(&mut opened).await.unwrap();
        assert_eq!(opened[..], [&frame(0, 1, 1, 4)[..], &5_u32.to_be_bytes()].concat());
        guest.write_all(&[&frame(0, 2, 1, 1)[..], &[0]].concat()).await.unwrap();
        dial.await.unwrap().unwrap();
        // A header that is completed late is valid, too.
        guest.write_all(&[&frame(0, 0, 2, 3)[..], &[0, 0, 9]].concat()).await.unwrap();
        assert_eq!(host.incoming.next().await.unwrap().port(), 9);
    });
}

#[test]
fn a_huge_window_does_not_make_the_host_hold_more() {
    on_one_thread(async {
        let (mut guest, host) = raw_guest().await;
        let dial = tokio::task::spawn_local(async move { host.dialer.dial(5).await });
        let mut opened = [0; 16];
        guest.read_exact(&mut opened).await.unwrap();
        guest.write_all(&[&frame(0, 2, 1, 1)[..], &[0]].concat()).await.unwrap();
        for _ in 0..10 {
            guest.write_all(&frame(1, 0, 1, u32::MAX)).await.unwrap();
        }
        let mut stream = dial.await.unwrap().unwrap();
        let mut written = 0;
        // The guest reads nothing: a write waits once the outbox and the pipe are full.
        while let Ok(count) =
            tokio::time::timeout(std::time::Duration::from_millis(200), stream.write(&[7; 10_000])).await
        {
            written += count.unwrap();
            assert!(written < 2 << 20, "{written} bytes are held");
        }
    });
}

#[test]
fn streams_that_end_before_they_say_where_to_are_a_flood_when_nobody_reads_the_resets() {
    on_one_thread(async {
        let (mut guest, mut host) = raw_guest().await;
        // A task that waits for streams gets none of these.
        let waits = tokio::task::spawn_local(async move { host.incoming.next().await.map(drop) });
        let flood: Vec<u8> = (1..=200_000_u32).flat_map(|number| frame(0, 1 | 4, number * 2, 0)).collect();
        let _ = guest.write_all(&flood).await;
        let ended = host.end.await.unwrap();
        assert!(matches!(ended, Ended::Protocol("a flood of pings or streams")), "{ended:?}");
        assert_eq!(waits.await.unwrap(), Err(ended));
    });
}

/// Replays the corpora of fuzzing, and inputs made by hand; `fuzz/` has the targets that extend them.
#[test]
fn the_corpora_are_replayed() {
    replay(env!("CARGO_MANIFEST_DIR"), &[("channel", fuzzing::pipe), ("dial", fuzzing::line)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest sends, the host neither panics nor hangs.
    #[test]
    fn any_bytes_end_or_go_on(frames in proptest::collection::vec(
        (0_u8..5, 0_u16..16, 0_u32..8, prop_oneof![0_u32..64, Just(16 << 10), any::<u32>()], 0_usize..100), 0..60,
    )) {
        on_one_thread(async {
            let (mut guest, mut host) = raw_guest().await;
            let mut bytes = Vec::new();
            for (kind, flags, id, length, payload) in frames {
                bytes.extend(frame(kind, flags, id, length));
                bytes.extend(vec![1; payload]);
            }
            let _ = guest.write_all(&bytes).await;
            drop(guest);
            let dial = host.dialer.clone();
            let (ended, _) = tokio::join!(host.end, dial.dial(3));
            ended.unwrap();
            while let Ok(inbound) = host.incoming.next().await {
                drop(inbound.accept().await);
            }
        });
    }
}

#[test]
fn the_helpers_of_this_file_speak_the_protocol() {
    on_one_thread(async {
        let mut pair = crate::pair().await;
        let _ = stream(&pair.host, &mut pair.from_host, 1).await;
        let (mut guest, mut host) = raw_guest().await;
        guest.write_all(&[&frame(0, 1, 2, 4)[..], &8_u32.to_be_bytes()].concat()).await.unwrap();
        assert_eq!(host.incoming.next().await.unwrap().port(), 8);
    });
}
