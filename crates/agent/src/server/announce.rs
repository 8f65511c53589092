//! Announcements to the host: one JSON object a line, on a stream that the agent opens.
//!
//! A new session gets all events again, in order; no event is sent twice in one session.

use super::Context;
use crate::boot;
use banger_link::{Dialer, Stream};
use banger_proto::agent::{
    event::{GuestEvent, MAX_LINE, POWER_ACK},
    link::EVENTS_PORT,
};
use std::{
    cell::{Cell, RefCell},
    path::Path,
    process::Stdio,
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    sync::{Notify, watch},
    time::{sleep, timeout},
};

/// Pause before another attempt to reach a host that does not listen yet.
const PAUSE: Duration = Duration::from_millis(200);
/// Time limit for systemd to finish booting.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// Socket that exists as soon as systemd accepts requests.
pub(super) const SYSTEMD_SOCKET: &str = "/run/systemd/private";

/// The events so far, as lines, and the tasks that wait for more.
#[derive(Debug)]
pub(super) struct Announcer {
    lines: RefCell<Vec<String>>,
    more: Notify,
    delivered: Notify,
    /// Number of power events so far.
    power_events: Cell<usize>,
    /// Number of power events that the current session's host has recorded.
    acknowledged: watch::Sender<usize>,
    /// Number of lines sent in the current session.
    sent_lines: Cell<usize>,
}

impl Announcer {
    /// Creates an announcer with `event` as its first event.
    pub(super) fn new(event: &GuestEvent) -> Self {
        let announcer = Self::empty();
        announcer.announce(event);
        announcer
    }

    pub(super) fn empty() -> Self {
        Self {
            lines: RefCell::default(),
            more: Notify::new(),
            delivered: Notify::new(),
            power_events: Cell::new(0),
            acknowledged: watch::Sender::new(0),
            sent_lines: Cell::new(0),
        }
    }

    /// Announces an event in this session and in every later one.
    pub(super) fn announce(&self, event: &GuestEvent) {
        let Ok(mut line) = serde_json::to_string(event) else { return };
        if line.len() >= MAX_LINE {
            return;
        }
        line.push('\n');
        self.lines.borrow_mut().push(line);
        self.more.notify_one();
    }

    /// Announces how the guest goes down, and waits up to `limit` for the host to record it. A later acknowledgement
    /// does not count for the next power event.
    pub(super) async fn announce_power(&self, event: &GuestEvent, limit: Duration) -> bool {
        let number = self.power_events.get() + 1;
        self.power_events.set(number);
        self.announce(event);
        let mut acknowledged = self.acknowledged.subscribe();
        timeout(limit, acknowledged.wait_for(|acknowledged| *acknowledged >= number)).await.is_ok()
    }

    fn acknowledge(&self) {
        self.acknowledged.send_modify(|acknowledged| *acknowledged += 1);
    }

    /// Completes once all events were written to a host.
    pub(super) async fn delivered(&self) {
        self.delivered.notified().await;
    }

    /// Serves one session until it ends.
    pub(super) async fn serve(&self, dialer: Dialer) {
        loop {
            match dialer.dial(EVENTS_PORT).await {
                Ok(stream) => self.run(stream).await,
                Err(banger_link::DialError::Ended(_)) => return,
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
    }

    async fn run(&self, stream: Stream) {
        let (answers, mut output) = tokio::io::split(stream);
        let mut answers = BufReader::new(answers);
        // All lines are sent again, and acknowledged again.
        self.sent_lines.set(0);
        self.acknowledged.send_replace(0);
        let write = async {
            loop {
                let next = self.lines.borrow().get(self.sent_lines.get()).cloned();
                match next {
                    Some(line) if output.write_all(line.as_bytes()).await.is_err() => return,
                    Some(_) => self.sent_lines.set(self.sent_lines.get() + 1),
                    None => {
                        self.delivered.notify_one();
                        self.more.notified().await;
                    }
                }
            }
        };
        let read = async {
            let mut line = Vec::new();
            loop {
                line.clear();
                let count = (&mut answers).take(MAX_LINE as u64).read_until(b'\n', &mut line).await;
                if !count.is_ok_and(|count| count > 0) {
                    return;
                }
                if line == POWER_ACK.as_bytes() {
                    self.acknowledge();
                }
            }
        };
        tokio::select! {
            () = write => {}
            () = read => {}
        }
    }
}

/// Waits until the image's init has finished booting, and announces the state it reports.
pub(super) async fn watch_init(context: Rc<Context>) {
    use banger_proto::agent::boot::Init;
    if context.guest.init == Init::Agent {
        return;
    }
    let state = timeout(BOOT_LIMIT, systemd_state()).await.unwrap_or_else(|_| "starting".to_owned());
    context.announcer.announce(&GuestEvent::Booted { state });
}

/// Returns systemd's state once it has left `starting`; `unknown` for any other init.
async fn systemd_state() -> String {
    if !boot::is_systemd() {
        return "unknown".to_owned();
    }
    // Asking before it listens would only waste a process.
    while !Path::new(SYSTEMD_SOCKET).exists() {
        sleep(PAUSE).await;
    }
    loop {
        let asked = tokio::process::Command::new("systemctl")
            .args(["is-system-running", "--wait"])
            .env("PATH", super::exec::DEFAULT_PATH)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .await;
        let state = match asked {
            Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            Err(_) => return "unknown".to_owned(),
        };
        if !matches!(state.as_str(), "" | "starting" | "initializing" | "offline" | "unknown") && state.len() < 64 {
            return state;
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_proto::agent::event::Power;
    use std::task::{Context, Poll, Waker};

    #[tokio::test]
    async fn a_late_acknowledgement_is_not_the_next_words() {
        let announcer = Announcer::empty();
        let power = |verb| GuestEvent::Power { verb, within_ms: 0 };
        assert!(!announcer.announce_power(&power(Power::Reboot), Duration::ZERO).await);
        let off = power(Power::Poweroff);
        let mut waits = Box::pin(announcer.announce_power(&off, Duration::from_secs(600)));
        let mut look = |expected: Poll<bool>| {
            assert_eq!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())), expected);
        };
        look(Poll::Pending);
        announcer.acknowledge();
        look(Poll::Pending);
        announcer.acknowledge();
        look(Poll::Ready(true));
    }
}
