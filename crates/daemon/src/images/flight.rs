//! Singleflight: one pull for all who want the same artifact at once.
//!
//! The first request starts the pull, later ones watch it; it is stopped when the last of them has gone.

use super::{given_up, progress_replay::ProgressReplay};
use crate::operation::Operation;
use banger_artifacts::job::{Part, Progress};
use banger_proto::failure::Failure;
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pulls in progress, by key.
#[derive(Debug)]
pub(super) struct Flights<T> {
    running: Mutex<HashMap<String, Weak<Flight<T>>>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

#[derive(Debug)]
struct Flight<T> {
    audience: Arc<Audience>,
    result: watch::Sender<Option<Result<T, Failure>>>,
    stop: CancellationToken,
}

/// Operations that watch a pull, and the progress so far.
#[derive(Debug, Default)]
struct Audience(Mutex<Watchers>);

#[derive(Debug, Default)]
struct Watchers {
    list: Vec<(u64, Operation)>,
    next: u64,
    replay: ProgressReplay,
}

/// Registration of one operation with a pull. Dropping it deregisters; the last one to go stops the pull.
struct Watcher<T> {
    flight: Arc<Flight<T>>,
    number: u64,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// Returns the result of the pull of `key`: of the one in progress, else of `work`, which is given a progress sink
    /// and a stop token. Gives up when `operation` is canceled.
    pub(super) async fn join<F>(
        &self,
        key: &str,
        operation: &Operation,
        work: impl FnOnce(Arc<dyn Progress>, CancellationToken) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let watcher = {
            let mut running = lock(&self.running);
            running.retain(|_, flight| flight.strong_count() > 0);
            let under_way = running.get(key).and_then(Weak::upgrade);
            let joinable = under_way.filter(|flight| flight.result.borrow().is_none());
            if let Some(watcher) = joinable.and_then(|flight| flight.enter(operation)) {
                watcher
            } else {
                let flight = Arc::new(Flight {
                    audience: Arc::default(),
                    result: watch::Sender::new(None),
                    stop: CancellationToken::new(),
                });
                running.insert(key.to_owned(), Arc::downgrade(&flight));
                let watcher = flight.enter(operation).expect("nobody left it yet");
                let running = work(flight.audience.clone(), flight.stop.clone());
                // A task of its own, because it outlives the watcher that started it.
                tokio::spawn(async move { flight.result.send_replace(Some(running.await)) });
                watcher
            }
        };
        let mut result = watcher.flight.result.subscribe();
        tokio::select! {
            known = result.wait_for(Option::is_some) => match known {
                Ok(known) => known.clone().expect("that is what was waited for"),
                Err(_) => Err(given_up()),
            },
            () = operation.cancel().cancelled() => Err(given_up()),
        }
    }
}

impl<T> Flight<T> {
    /// Registers an operation; `None` if the last one has gone. Whether it is stopped is looked at under the lock under
    /// which the last one stops it, so nobody enters a pull that ends as canceled.
    fn enter(self: &Arc<Self>, operation: &Operation) -> Option<Watcher<T>> {
        let mut watchers = lock(&self.audience.0);
        if self.stop.is_cancelled() {
            return None;
        }
        let number = watchers.next;
        watchers.next += 1;
        watchers.replay.replay_to(operation);
        watchers.list.push((number, operation.clone()));
        Some(Watcher { flight: self.clone(), number })
    }
}

impl<T> Drop for Watcher<T> {
    fn drop(&mut self) {
        let mut watchers = lock(&self.flight.audience.0);
        watchers.list.retain(|(number, _)| *number != self.number);
        if watchers.list.is_empty() {
            self.flight.stop.cancel();
        }
    }
}

impl Progress for Audience {
    fn phase(&self, what: &str) {
        let mut watchers = lock(&self.0);
        watchers.replay.phase(what);
        watchers.list.iter().for_each(|(_, operation)| operation.begin(what));
    }

    fn advance(&self, done: u64, total: Option<u64>) {
        lock(&self.0).list.iter().for_each(|(_, operation)| operation.advance(done, total));
    }

    fn part(&self, part: &Part<'_>) {
        let mut watchers = lock(&self.0);
        watchers.replay.part(part);
        watchers.list.iter().for_each(|(_, operation)| operation.part(part));
    }

    fn notice(&self, text: &str) {
        let mut watchers = lock(&self.0);
        watchers.replay.notice(text);
        watchers.list.iter().for_each(|(_, operation)| operation.notice(text));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_artifacts::job::PartState;
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };
    use tokio::sync::{Notify, mpsc};

    #[tokio::test]
    async fn two_watchers_share_one_pull_and_the_later_one_hears_all_of_it_too() {
        let flights = Flights::<u32>::default();
        let (runs, told, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (lines, mut heard) = mpsc::channel(16);
        let first = Operation::unwatched();
        let second = Operation::watched(lines);
        let pull = |operation| {
            let (runs, told, go, flights) = (runs.clone(), told.clone(), go.clone(), &flights);
            flights.join("k", operation, move |progress, _| async move {
                let part = |name, state, done| progress.part(&Part { name, state, done, total: 9 });
                progress.phase("fetching");
                progress.notice("one was passed over");
                part("here", PartState::Waiting, 0);
                part("coming", PartState::Waiting, 0);
                part("here", PartState::Cached, 0);
                part("here", PartState::Done, 9);
                part("coming", PartState::Coming, 0);
                part("coming", PartState::Coming, 4);
                told.notify_one();
                go.notified().await;
                runs.fetch_add(1, Ordering::SeqCst);
                Ok(7)
            })
        };
        let late = async {
            told.notified().await;
            pull(&second).await
        };
        let (a, b, ()) = tokio::join!(pull(&first), late, async {
            let mut lines = Vec::new();
            while lines.len() < 8 {
                let line = tokio::time::timeout(Duration::from_secs(60), heard.recv()).await.expect("all of it");
                let line: serde_json::Value = serde_json::from_slice(&line.unwrap()).unwrap();
                let text = |key: &str| line[key].as_str().unwrap_or_default();
                lines.push(format!("{}{} {} {}", text("text"), text("layer"), text("state"), line["done"]));
            }
            let all = [
                "fetching  null",
                "one was passed over  null",
                "here waiting 0",
                "coming waiting 0",
                "here cached 0",
                "here done 9",
                "coming downloading 0",
                "coming downloading 4",
            ];
            assert_eq!(lines, all);
            go.notify_one();
        });
        assert_eq!((a.unwrap(), b.unwrap(), runs.load(Ordering::SeqCst)), (7, 7, 1));
    }

    #[test]
    fn who_enters_as_the_last_one_leaves_holds_it_or_stays_outside() {
        let begin = || {
            let (audience, result) = (Arc::default(), watch::Sender::new(None));
            Arc::new(Flight::<u32> { audience, result, stop: CancellationToken::new() })
        };
        let operation = Operation::unwatched();
        let held = begin();
        let last = held.enter(&operation);
        let newcomer = held.enter(&operation);
        drop(last);
        assert!(newcomer.is_some() && !held.stop.is_cancelled());
        let left = begin();
        drop(left.enter(&operation));
        assert!(left.enter(&operation).is_none(), "it would be told that somebody canceled it");
    }

    #[tokio::test]
    async fn the_last_one_to_leave_stops_it_and_a_later_one_begins_anew() {
        let flights = Flights::<u32>::default();
        let (first, second) = (Operation::unwatched(), Operation::unwatched());
        let stopped = Arc::new(Notify::new());
        let told = stopped.clone();
        let waiting = flights.join("k", &first, move |_, stop| async move {
            stop.cancelled().await;
            told.notify_one();
            Err(given_up())
        });
        let joined = flights.join("k", &second, |_, _| async { Ok(1) });
        let (a, b, ()) = tokio::join!(waiting, joined, async {
            first.cancel().cancel();
            tokio::task::yield_now().await;
            second.cancel().cancel();
        });
        assert!(a.is_err() && b.is_err());
        stopped.notified().await;
        let third = flights.join("k", &Operation::unwatched(), |_, _| async { Ok(3) }).await;
        assert_eq!(third.unwrap(), 3);
    }
}
