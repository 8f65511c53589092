//! The guest's side of the channel: sessions over the pipe, and what the agent announces.
//!
//! Everything that comes is hostile: a line is bounded by [`MAX_LINE`], a boot by [`MAX_EVENTS`] events, streams by the
//! link's own limits. A guest that breaks a session gets another one.

use banger_link::{Dialer, Ended, HostSession, Inbound, Incoming, Stream};
use banger_proto::agent::{
    event::{GuestEvent, MAX_LINE, POWER_ACK},
    link::EVENTS_PORT,
};
use std::{
    io,
    os::unix::net::UnixStream as StdStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

/// Events taken from one boot; from then on only the last word counts. An honest agent has some ten.
const MAX_EVENTS: usize = 1000;
/// Event streams open at once. An agent has one, and another for the shutdown hook.
const MAX_STREAMS: usize = 4;
/// Pause before a new session after one that the guest broke.
const PAUSE: Duration = Duration::from_millis(50);

/// An announcement. The agent waits for `taken` after its last word.
#[derive(Debug)]
pub(super) struct Announcement {
    pub(super) event: GuestEvent,
    pub(super) taken: oneshot::Sender<()>,
}

/// Holds sessions over `pipe` until the VMM closes it.
pub(super) async fn follow(
    pipe: UnixStream,
    session: watch::Sender<Option<Dialer>>,
    announcements: mpsc::Sender<Announcement>,
) -> io::Result<()> {
    // A session takes its pipe with it, so each gets a descriptor of its own.
    let pipe: StdStream = pipe.into_std()?;
    let seen = Arc::new(AtomicUsize::new(0));
    loop {
        let own = UnixStream::from_std(pipe.try_clone()?)?;
        let ended = match HostSession::open(own).await {
            Ok(HostSession { dialer, incoming, driver }) => {
                session.send_replace(Some(dialer));
                let ended = tokio::select! {
                    biased;
                    ended = driver.run() => ended,
                    ended = receive(incoming, &announcements, &seen) => ended,
                };
                session.send_replace(None);
                ended
            }
            Err(ended) => ended,
        };
        match ended {
            Ended::Closed | Ended::Pipe(_) => return Ok(()),
            Ended::Protocol(_) | Ended::GoAway | Ended::Superseded | Ended::Dropped => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn receive(mut incoming: Incoming, announcements: &mpsc::Sender<Announcement>, seen: &Arc<AtomicUsize>) -> Ended {
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
            let (announcements, seen) = (announcements.clone(), seen.clone());
            streams.spawn(async move { read_events(inbound.accept().await, announcements, seen).await });
        } else {
            inbound.refuse().await;
        }
    }
}

async fn read_events(
    mut stream: Stream,
    announcements: mpsc::Sender<Announcement>,
    seen: Arc<AtomicUsize>,
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
            take(&line, &mut stream, &announcements, &seen).await?;
        }
        if pending.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// A line that is no event is skipped: a newer agent may know more.
async fn take(
    line: &[u8],
    stream: &mut Stream,
    announcements: &mpsc::Sender<Announcement>,
    seen: &AtomicUsize,
) -> io::Result<()> {
    let Ok(event) = serde_json::from_slice::<GuestEvent>(line) else { return Ok(()) };
    let is_word = matches!(event, GuestEvent::Power { .. });
    if seen.fetch_add(1, Ordering::Relaxed) >= MAX_EVENTS && !is_word {
        return Ok(());
    }
    let (taken, wait) = oneshot::channel();
    announcements.send(Announcement { event, taken }).await.map_err(io::Error::other)?;
    wait.await.map_err(io::Error::other)?;
    if is_word {
        stream.write_all(POWER_ACK.as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}
