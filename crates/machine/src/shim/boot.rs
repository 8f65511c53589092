//! Follows one VMM from its start to its end: handles everything that happens meanwhile, and collects the evidence for
//! the verdict.

use super::{
    console::{self, ConsoleFindings, Log},
    control::{ShimMessage, ShimRequest},
    guest::{self, Announcement, GuestBudget},
    hub::Hub,
    ports::Ports,
    power_off,
    run::{EndMode, Signals},
    verdict::{Requested, SignalSet},
};
use crate::{
    failpoint,
    vmm::{Channel, Machine, MachineEnd, ShutdownReason},
};
use banger_link::Dialer;
use banger_proto::{
    agent::{
        event::{GuestEvent, Power},
        http::MAX_GRACE,
    },
    api::vm::KillSignal,
};
use rustix::process::Signal;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

/// Time between the end of the grace period that a guest announced with its power event and the end of its VMM. Then
/// the VMM is ended, and the power event counts.
const POWER_EVENT_GRACE: Duration = Duration::from_secs(10);
/// Time limit for draining the pipes of a VMM that has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// Largest delay between the signals to a VMM and to its shim when the host shuts down.
const SHUTDOWN_WINDOW: Duration = Duration::from_millis(500);
/// Time after a signal during which the VMM's end is attributed to it: a VMM may handle a signal slowly. A later death
/// has another cause.
const SIGNAL_EFFECT: Duration = Duration::from_secs(30);
/// Capacity of the queue of announcements.
const ANNOUNCEMENTS: usize = 8;
/// Longer than any wait.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// The parts of the shim that a boot uses.
pub(super) struct Boot<'a> {
    pub(super) hub: &'a Arc<Hub>,
    pub(super) requests: &'a mut mpsc::Receiver<ShimRequest>,
    pub(super) signals: &'a mut Signals,
    pub(super) session: &'a watch::Sender<Option<Dialer>>,
    pub(super) ports: &'a Ports,
    pub(super) budget: &'a Arc<GuestBudget>,
}

/// The evidence, and the log for the next boot.
pub(super) struct BootOutcome {
    pub(super) end: io::Result<MachineEnd>,
    pub(super) requested: Requested,
    pub(super) power: Option<Power>,
    pub(super) overdue: bool,
    pub(super) findings: ConsoleFindings,
    pub(super) log: Log,
}

impl Boot<'_> {
    /// Follows the machine to its end.
    pub(super) async fn follow(self, mut machine: Box<dyn Machine>, log: Log) -> BootOutcome {
        let console = machine.take_console().expect("a new machine has its console");
        let pump = tokio::spawn(console::pump(console, log, self.hub.clone()));
        let (sender, mut announcements) = mpsc::channel(ANNOUNCEMENTS);
        let channel = machine.take_channel().expect("a new machine has its channel");
        let (over, is_over) = watch::channel(false);
        let mut guest =
            tokio::spawn(connect_guest(channel, self.session.clone(), sender, self.budget.clone(), is_over));

        let (mut requested, mut power, mut overdue) = (Requested::Nothing, None, false);
        let (mut deadline, mut signalled) = (Instant::now() + NEVER, Instant::now());
        let end = loop {
            tokio::select! {
                end = machine.ended() => break end,
                Some(announcement) = announcements.recv() => {
                    if let Some((verb, within)) = self.take(announcement) {
                        power = Some(verb);
                        deadline = end_deadline(deadline, Instant::now(), within);
                    }
                }
                Some(request) = self.requests.recv() => {
                    let signal = match request {
                        ShimRequest::Publish { port } => {
                            let message = self.ports.open_and_report(port);
                            failpoint::hit_and_block("shim.opened");
                            self.hub.publish(&message);
                            continue;
                        }
                        ShimRequest::Unpublish { port } => {
                            self.ports.close(port);
                            let published = self.ports.all();
                            self.hub.publish(&ShimMessage::Published { published, refused: None });
                            continue;
                        }
                        ShimRequest::End => {
                            requested = Requested::End;
                            Signal::KILL
                        }
                        ShimRequest::Signal { signal } => {
                            let (signal, now) = (number(signal), Instant::now());
                            requested = match still_relevant(requested, signalled, now) {
                                // A requested end is not taken back.
                                requested @ (Requested::End | Requested::HostShutdown) => requested,
                                Requested::Signals(before) => Requested::Signals(before.and(signal)),
                                Requested::Nothing => Requested::Signals(SignalSet::default().and(signal)),
                            };
                            signalled = now;
                            signal
                        }
                    };
                    // Fails only when the VMM has ended, which is noticed above.
                    let _ = machine.signal(signal);
                }
                mode = self.signals.next() => {
                    requested = if requested == Requested::End { requested } else { Requested::HostShutdown };
                    // A guest that was up may have unwritten data; also while one agent takes the place of another that
                    // died.
                    let is_up = self.session.borrow().is_some() || self.hub.ready_init().is_some();
                    if mode == EndMode::Graceful && is_up {
                        deadline = deadline.min(Instant::now() + power_off::TIMEOUT);
                        tokio::spawn(power_off::request_power_off(self.session.subscribe()));
                    } else {
                        drop(machine.signal(Signal::KILL));
                    }
                }
                () = sleep_until(deadline) => {
                    overdue = true;
                    deadline = Instant::now() + NEVER;
                    let _ = machine.signal(Signal::KILL);
                }
            }
        };
        requested = still_relevant(requested, signalled, Instant::now());
        // A host that shuts down signals all processes, in no particular order.
        let ended_by_host = matches!(&end, Ok(end) if end.reported == Some(ShutdownReason::Host));
        if requested == Requested::Nothing
            && ended_by_host
            && timeout(SHUTDOWN_WINDOW, self.signals.next()).await.is_ok()
        {
            requested = Requested::HostShutdown;
        }
        over.send_replace(true);
        // The guest may have sent a power event just before; both ends of its pipe are here, or closed.
        let rest = async {
            loop {
                tokio::select! {
                    biased;
                    Some(announcement) = announcements.recv() => power = self.take(announcement).map(|(verb, _)| verb).or(power),
                    _ = &mut guest => break,
                }
            }
        };
        if timeout(DRAIN, rest).await.is_err() {
            guest.abort();
        }
        self.session.send_replace(None);
        drop(machine);
        let (log, findings) = pump.await.expect("the console's pump does not panic");
        BootOutcome { end, requested, power, overdue, findings, log }
    }

    /// Publishes an announcement, and then lets the agent go on. Returns the content of a power event.
    fn take(&self, announcement: Announcement) -> Option<(Power, Duration)> {
        let Announcement { event, taken } = announcement;
        let power = match &event {
            GuestEvent::Power { verb, within_ms } => Some((*verb, Duration::from_millis(*within_ms))),
            _ => None,
        };
        if let Some((verb, _)) = power {
            self.budget.record(verb);
        }
        self.hub.publish(&ShimMessage::Guest { event, at_ms: self.hub.now_ms() });
        // The agent may be gone.
        let _ = taken.send(());
        power
    }
}

/// Drops requested signals that the VMM has survived; the most recent one was sent at `last`.
fn still_relevant(requested: Requested, last: Instant, now: Instant) -> Requested {
    match requested {
        Requested::Signals(_) if now > last + SIGNAL_EFFECT => Requested::Nothing,
        requested => requested,
    }
}

/// Time at which the VMM of a guest with a power event is ended: never later than after an earlier one, however often
/// the guest changes its mind.
fn end_deadline(before: Instant, now: Instant, within: Duration) -> Instant {
    before.min(now + within.min(MAX_GRACE) + POWER_EVENT_GRACE)
}

async fn connect_guest(
    channel: Channel,
    session: watch::Sender<Option<Dialer>>,
    announcements: mpsc::Sender<Announcement>,
    budget: Arc<GuestBudget>,
    mut over: watch::Receiver<bool>,
) {
    match channel {
        Channel::Pipe(pipe) => guest::follow(pipe, session, announcements, &budget).await,
        Channel::Vsock(guest) => loop {
            // A knock just before the end is still accepted, and the agent's announcements are received.
            let knock = tokio::select! {
                biased;
                knock = guest.knock() => knock,
                _ = over.wait_for(|over| *over) => return,
            };
            // The caller may not be the agent, or may be gone; and where no descriptor is left the agent knocks again.
            if knock.is_ok()
                && let Ok(pipe) = guest.dial().await
            {
                guest::follow(pipe, session.clone(), announcements.clone(), &budget).await;
            }
            // A guest that knocks over and over must not keep a CPU of its host busy.
            sleep(guest::PAUSE).await;
        },
    }
}

fn number(signal: KillSignal) -> Signal {
    match signal {
        KillSignal::Term => Signal::TERM,
        KillSignal::Kill => Signal::KILL,
        KillSignal::Int => Signal::INT,
        KillSignal::Hup => Signal::HUP,
        KillSignal::Quit => Signal::QUIT,
        KillSignal::Usr1 => Signal::USR1,
        KillSignal::Usr2 => Signal::USR2,
        KillSignal::Abrt => Signal::ABORT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_the_time_it_asked_for_once() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let first = end_deadline(now + NEVER, now, 60 * second);
        assert_eq!(first, now + 60 * second + POWER_EVENT_GRACE);
        assert_eq!(end_deadline(first, now + 50 * second, 60 * second), first);
        assert_eq!(end_deadline(first, now + second, Duration::ZERO), now + second + POWER_EVENT_GRACE);
        assert_eq!(
            end_deadline(now + NEVER, now, Duration::from_millis(u64::MAX)),
            now + MAX_GRACE + POWER_EVENT_GRACE
        );
        // A stop may allow more than the ten minutes that were once the upper bound for guests.
        assert_eq!(end_deadline(now + NEVER, now, 3600 * second), now + 3600 * second + POWER_EVENT_GRACE);
    }

    #[test]
    fn a_signal_that_a_vmm_survived_is_not_what_it_dies_of_a_week_later() {
        let (sent, second) = (Instant::now(), Duration::from_secs(1));
        let abort = Requested::Signals(SignalSet::default().and(Signal::ABORT));
        assert_eq!(still_relevant(abort, sent, sent + second), abort);
        assert_eq!(still_relevant(abort, sent, sent + SIGNAL_EFFECT), abort);
        assert_eq!(still_relevant(abort, sent, sent + SIGNAL_EFFECT + second), Requested::Nothing);
        for lasts in [Requested::Nothing, Requested::End, Requested::HostShutdown] {
            assert_eq!(still_relevant(lasts, sent, sent + 1000 * SIGNAL_EFFECT), lasts);
        }
    }
}
