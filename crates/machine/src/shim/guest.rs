//! The channel to the guest: sessions over its byte stream, and the announcements of the agent.
//!
//! All input is hostile. A line is bounded by [`MAX_LINE`], the announcements by a [`budget`], streams by the link's
//! own limits. A guest that breaks a session gets another one.

mod budget;

use banger_link::{Dialer, Ended, HostSession, Inbound, Incoming};
use banger_proto::agent::{
    event::{GuestEvent, MAX_LINE, POWER_ACK},
    link::EVENTS_PORT,
};
pub(super) use budget::GuestBudget;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

/// Upper bound for concurrent event streams. An agent has one, and another for the shutdown hook.
const MAX_STREAMS: usize = 4;
/// Pause before a new session, after one that the guest broke or left.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// An announcement of the agent. After a power event the agent waits for `taken`.
#[derive(Debug)]
pub(super) struct Announcement {
    pub(super) event: GuestEvent,
    pub(super) taken: oneshot::Sender<()>,
}

/// Runs sessions over `pipe` until the VMM closes it. A session borrows the pipe, because a duplicate might not be
/// possible: clients of the published ports may have used up all descriptors.
pub(super) async fn follow(
    mut pipe: UnixStream,
    session: watch::Sender<Option<Dialer>>,
    announcements: mpsc::Sender<Announcement>,
    budget: &Arc<GuestBudget>,
) {
    loop {
        let ended = match HostSession::open(&mut pipe).await {
            Ok(HostSession { dialer, incoming, driver }) => {
                session.send_replace(Some(dialer));
                let ended = tokio::select! {
                    biased;
                    ended = driver.run() => ended,
                    ended = receive(incoming, &announcements, budget) => ended,
                };
                session.send_replace(None);
                ended
            }
            Err(ended) => ended,
        };
        match ended {
            Ended::Closed | Ended::Pipe(_) => return,
            Ended::Protocol(_) | Ended::GoAway | Ended::Superseded | Ended::Dropped => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn receive(
    mut incoming: Incoming,
    announcements: &mpsc::Sender<Announcement>,
    budget: &Arc<GuestBudget>,
) -> Ended {
    let mut streams = JoinSet::new();
    loop {
        let inbound: Inbound = tokio::select! {
            inbound = incoming.next() => match inbound {
                Ok(inbound) => inbound,
                Err(ended) => return ended,
            },
            Some(_) = streams.join_next() => continue,
        };
        if inbound.port() == EVENTS_PORT && streams.len() < MAX_STREAMS {
            let (announcements, budget) = (announcements.clone(), budget.clone());
            streams.spawn(async move { read_events(inbound.accept().await, announcements, budget).await });
        } else {
            inbound.refuse().await;
        }
    }
}

async fn read_events(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    announcements: mpsc::Sender<Announcement>,
    budget: Arc<GuestBudget>,
) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&chunk[..count]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            take(&line, &mut stream, &announcements, &budget).await?;
        }
        if pending.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Handles a line. One that is not a known event is skipped: a newer agent may send others.
async fn take(
    line: &[u8],
    stream: &mut (impl AsyncWrite + Unpin),
    announcements: &mpsc::Sender<Announcement>,
    budget: &GuestBudget,
) -> io::Result<()> {
    let Ok(event) = serde_json::from_slice::<GuestEvent>(line) else { return Ok(()) };
    let power = match event {
        GuestEvent::Power { verb, .. } => Some(verb),
        _ => None,
    };
    if !power.is_some_and(|verb| budget.is_repeated(verb)) {
        if !budget.may_take(&event) {
            return Ok(());
        }
        let (taken, wait) = oneshot::channel();
        announcements.send(Announcement { event, taken }).await.map_err(io::Error::other)?;
        wait.await.map_err(io::Error::other)?;
    }
    if power.is_some() {
        stream.write_all(POWER_ACK.as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// Reads the events in `data` as from a guest, for [`crate::fuzzing`].
pub(crate) async fn fuzz_read(data: &[u8]) {
    let (sender, mut announcements) = mpsc::channel(1);
    let read = read_events(tokio::io::join(data, tokio::io::sink()), sender, Arc::new(GuestBudget::new()));
    let take = async {
        let mut count = 0;
        while let Some(Announcement { taken, .. }) = announcements.recv().await {
            count += 1;
            assert!(count <= budget::MAX, "more than an honest agent says");
            // The reader may have given up.
            let _ = taken.send(());
        }
    };
    let (_, ()) = tokio::join!(read, take);
}

#[cfg(test)]
mod tests {
    use super::{
        budget::{MAX_EVENTS, MAX_POWER_EVENTS, PROGRESS_EVENTS},
        *,
    };
    use banger_link::{Stream, guest};
    use banger_proto::agent::event::Power;
    use tokio::{task::JoinHandle, time::Instant};

    /// A guest that sends arbitrary data, and the host's side of it.
    struct Peers {
        stream: Stream,
        announcements: mpsc::Receiver<Announcement>,
        session: watch::Receiver<Option<Dialer>>,
        follow: JoinHandle<()>,
        guest: JoinHandle<Ended>,
        dialers: mpsc::UnboundedReceiver<(Dialer, Incoming)>,
    }

    async fn connect() -> Peers {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, announcements) = mpsc::channel(8);
        let (session, watching) = watch::channel(None);
        let follow = tokio::spawn(async move { follow(ours, session, sender, &Arc::new(GuestBudget::new())).await });
        let (dialled, mut dialers) = mpsc::unbounded_channel();
        let guest = tokio::spawn(guest::run(theirs, move |dialer, incoming| drop(dialled.send((dialer, incoming)))));
        let (dialer, _incoming) = dialers.recv().await.unwrap();
        let stream = dialer.dial(EVENTS_PORT).await.unwrap();
        Peers { stream, announcements, session: watching, follow, guest, dialers }
    }

    fn line(event: &GuestEvent) -> Vec<u8> {
        [serde_json::to_vec(event).unwrap(), b"\n".to_vec()].concat()
    }

    fn trouble(message: &str) -> GuestEvent {
        GuestEvent::Trouble { message: message.into() }
    }

    const POWEROFF: GuestEvent = GuestEvent::Power { verb: Power::Poweroff, within_ms: 0 };

    /// Takes announcements as the shim does, until a power-off; returns how many came before it.
    async fn until_power_off(announcements: &mut mpsc::Receiver<Announcement>) -> usize {
        let mut count = 0;
        while let Some(Announcement { event, taken }) = announcements.recv().await {
            taken.send(()).unwrap();
            if event == POWEROFF {
                return count;
            }
            count += 1;
        }
        panic!("the announcements ended after {count}");
    }

    #[tokio::test]
    async fn only_a_last_word_that_was_taken_is_acknowledged() {
        let mut peers = connect().await;
        peers.stream.write_all(&line(&POWEROFF)).await.unwrap();
        let Announcement { event, taken } = peers.announcements.recv().await.unwrap();
        assert_eq!(event, POWEROFF);
        let mut answer = vec![0; POWER_ACK.len()];
        {
            let early = peers.stream.read(&mut answer);
            tokio::select! {
                biased;
                read = early => panic!("acknowledged before it was taken: {read:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        taken.send(()).unwrap();
        peers.stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, POWER_ACK.as_bytes());
    }

    #[tokio::test]
    async fn lines_that_are_no_events_are_skipped_and_too_many_are_not_taken() {
        let mut peers = connect().await;
        let Peers { stream, announcements, .. } = &mut peers;
        let send = async {
            let mut text = b"\n{}\n[1]\n\xff\xfe\n{\"event\":\"from the future\"}\n".to_vec();
            for number in 0..MAX_EVENTS + 200 {
                text.extend(line(&trouble(&number.to_string())));
            }
            text.extend(line(&POWEROFF));
            stream.write_all(&text).await.unwrap();
        };
        let ((), count) = tokio::join!(send, until_power_off(announcements));
        assert_eq!(count, MAX_EVENTS);
    }

    /// Sends events on a new stream of a boot that has sent some before; returns how many announcements and how many
    /// acknowledgements resulted.
    async fn send_events(budget: &Arc<GuestBudget>, events: &[GuestEvent]) -> (usize, usize) {
        let text: Vec<u8> = events.iter().flat_map(line).collect();
        let (sender, mut announcements) = mpsc::channel(1);
        let mut answers = Vec::new();
        let read = read_events(tokio::io::join(&*text, &mut answers), sender, budget.clone());
        let take = async {
            let mut count = 0;
            while let Some(Announcement { event, taken }) = announcements.recv().await {
                count += 1;
                if let GuestEvent::Power { verb, .. } = event {
                    budget.record(verb);
                }
                taken.send(()).unwrap();
            }
            count
        };
        let (read, count) = tokio::join!(read, take);
        read.unwrap();
        (count, answers.len() / POWER_ACK.len())
    }

    #[tokio::test]
    async fn what_a_boot_says_again_in_another_session_is_counted_on() {
        let budget = Arc::new(GuestBudget::new());
        let troubles: Vec<_> = (0..MAX_EVENTS - 1).map(|number| trouble(&number.to_string())).collect();
        assert_eq!(send_events(&budget, &troubles).await, (MAX_EVENTS - 1, 0));
        assert_eq!(send_events(&budget, &troubles).await, (1, 0));
        assert_eq!(send_events(&budget, &[trouble("x"), POWEROFF]).await, (1, 1), "only the last word");
    }

    #[tokio::test]
    async fn a_guest_that_reboots_over_and_over_is_heard_as_often_as_one_that_does_not() {
        // Taken before the budget is made: on a busy host, time that passes in between would count.
        let mut now = Instant::now();
        let budget = Arc::new(GuestBudget::new());
        let troubles: Vec<_> = (0..2 * MAX_EVENTS).map(|number| trouble(&number.to_string())).collect();
        assert_eq!(send_events(&budget, &troubles).await, (MAX_EVENTS, 0));
        assert_eq!(send_events(&budget, &[POWEROFF]).await, (1, 1));
        budget.begin(now);
        assert_eq!(send_events(&budget, &[POWEROFF]).await, (1, 1), "it is another boot's");
        for (passed, expected) in [(0, 0), (30, 30), (5, 5), (24 * 3600, MAX_EVENTS)] {
            now += Duration::from_secs(passed);
            budget.begin(now);
            assert_eq!(send_events(&budget, &troubles).await, (expected, 0), "after {passed} s");
            let booted = vec![GuestEvent::Booted { state: "running".into() }; 2 * PROGRESS_EVENTS];
            assert_eq!(send_events(&budget, &booted).await, (PROGRESS_EVENTS, 0), "how far it came is heard in each");
        }
        now += Duration::from_secs(50);
        budget.begin(now);
        assert_eq!(send_events(&budget, &troubles[..40]).await, (40, 0));
        budget.begin(now + Duration::from_secs(15));
        assert_eq!(send_events(&budget, &troubles).await, (25, 0), "what the boot before it left");
    }

    #[tokio::test]
    async fn a_word_said_again_is_acknowledged_and_told_nobody() {
        const REBOOT: GuestEvent = GuestEvent::Power { verb: Power::Reboot, within_ms: 0 };
        let budget = Arc::new(GuestBudget::new());
        assert_eq!(send_events(&budget, &[POWEROFF, POWEROFF, POWEROFF]).await, (1, 3));
        assert_eq!(send_events(&budget, &[POWEROFF, REBOOT, REBOOT, POWEROFF]).await, (2, 4), "the last one counts");
        let fickle: Vec<_> = [REBOOT, POWEROFF].into_iter().cycle().take(3 * MAX_POWER_EVENTS).collect();
        let (accepted, _) = send_events(&budget, &fickle).await;
        assert_eq!(accepted, MAX_POWER_EVENTS - 3);
    }

    #[tokio::test]
    async fn a_line_without_an_end_ends_the_stream_and_nothing_else() {
        let mut peers = connect().await;
        let chunk = vec![b'x'; 8 << 10];
        let mut sent = 0;
        while peers.stream.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
            assert!(sent < 4 << 20, "the host reads on and on");
        }
        assert!(peers.session.borrow().is_some(), "the session goes on");
    }

    #[tokio::test]
    async fn a_guest_that_breaks_its_session_gets_another() {
        let mut peers = connect().await;
        peers.guest.abort();
        // The guest's end is dropped with its task, so the pipe ends.
        tokio::time::timeout(Duration::from_secs(30), peers.follow).await.unwrap().unwrap();
        assert!(peers.session.borrow_and_update().is_none());
        assert!(peers.dialers.recv().await.is_none());

        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (sender, _announcements) = mpsc::channel(8);
        let (session, mut watching) = watch::channel(None);
        let follow = tokio::spawn(async move { follow(ours, session, sender, &Arc::new(GuestBudget::new())).await });
        for _ in 0..2 {
            // Answers the greeting, and then sends an invalid frame.
            let mut hello = [0; 32];
            loop {
                theirs.read_exact(&mut hello).await.unwrap();
                if hello.starts_with(&banger_proto::agent::link::HELLO) {
                    break;
                }
            }
            hello[..16].copy_from_slice(&banger_proto::agent::link::REPLY);
            theirs.write_all(&hello).await.unwrap();
            watching.wait_for(Option::is_some).await.unwrap();
            theirs.write_all(&[0xff; 64]).await.unwrap();
            watching.wait_for(Option::is_none).await.unwrap();
        }
        drop(theirs);
        follow.await.unwrap();
    }
}
