//! The uplink: pasta, started when it is missing and again when it ends.

use super::{Live, RETRY, ended};
use crate::network::{Shared, Uplink, holder};
use banger_artifacts::program::Program;
use banger_machine::process::ProcessIdentity;
use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    process::Child,
    time::{sleep, timeout},
};

impl Live {
    /// Starts the uplink if there should be one and is none.
    pub(super) async fn uplink(&mut self, shared: &Arc<Shared>) {
        if shared.settings.uplink != Uplink::Auto {
            return;
        }
        if let Some(pasta) = self.record.pasta.filter(ProcessIdentity::alive) {
            // The process is from the time of an earlier helper or daemon.
            if self.followed != Some(pasta) {
                self.follow(shared, pasta, None);
            }
            return;
        }
        // Tasks that watched earlier processes are done.
        self.tasks.retain(|task| !task.is_finished());
        self.attempts += 1;
        let started = match Program::find_on_path("pasta") {
            Some(program) => holder::uplink(&program, &mut self.record, &shared.state).await,
            None => Err(io::Error::new(io::ErrorKind::NotFound, "pasta is not installed")),
        };
        match started {
            Ok(child) => {
                if let Some(pasta) = self.record.pasta {
                    self.follow(shared, pasta, Some(child));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "pasta does not start: VMs have no way to the internet; it is tried again");
                let (shared, pause) = (Arc::downgrade(shared), self.pasta_retry);
                self.tasks.push(tokio::spawn(again(shared, self.attempts, pause, false)));
            }
        }
        self.pasta_retry = (self.pasta_retry * 2).min(RETRY.1);
    }

    fn follow(&mut self, shared: &Arc<Shared>, pasta: ProcessIdentity, child: Option<Child>) {
        self.followed = Some(pasta);
        let (shared, attempt, retry) = (Arc::downgrade(shared), self.attempts, self.pasta_retry);
        self.tasks.push(tokio::spawn(follow_pasta(shared, attempt, pasta, child, retry)));
    }
}

/// Starts pasta again when it ends: at once if it ran for a while.
async fn follow_pasta(
    shared: Weak<Shared>,
    attempt: u64,
    pasta: ProcessIdentity,
    child: Option<Child>,
    retry: Duration,
) {
    let began = tokio::time::Instant::now();
    // A task of its own: pasta and its output outlive this task, which ends with the network's helper.
    let words = child.map(|child| tokio::spawn(holder::drain_stderr(child)));
    ended(pasta).await;
    let words = match words {
        Some(words) => timeout(holder::TIMEOUT, words).await.ok().and_then(Result::ok).unwrap_or_default(),
        None => String::new(),
    };
    tracing::warn!(pid = pasta.pid, words, "pasta ended; another is started");
    let lasted = began.elapsed() > RETRY.1;
    again(shared, attempt, if lasted { RETRY.0 } else { retry }, lasted).await;
}

async fn again(shared: Weak<Shared>, attempt: u64, pause: Duration, afresh: bool) {
    sleep(pause).await;
    let Some(shared) = shared.upgrade() else { return };
    // A task of its own: this one ends with the network it belongs to.
    tokio::spawn(try_uplink(shared, attempt, afresh));
}

/// Starts the uplink, if the network is running and no later attempt was made.
fn try_uplink(shared: Arc<Shared>, attempt: u64, afresh: bool) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        if let Some(live) = shared.live.lock().await.as_mut().filter(|live| live.attempts == attempt) {
            if afresh {
                live.pasta_retry = RETRY.0;
            }
            live.uplink(&shared).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{helper, lifecycle::tests};

    #[tokio::test]
    async fn a_way_out_that_talks_much_goes_on() {
        let (_temp, network) = tests::network(Uplink::None);
        let (helper, _theirs) = helper::tests::silent();
        let mut live = tests::live(helper);
        // Twice the capacity of a pipe.
        let talks = "head -c 200000 /dev/zero >&2";
        let waits = "until test -e more; do sleep 0.05; done";
        let (place, mut record, program) =
            holder::tests::fake_pasta(&format!("{talks} && touch said && {waits} && {talks} && touch again"));
        let child = holder::uplink(&program, &mut record, place.path()).await.unwrap();
        let pasta = record.pasta.unwrap();
        live.follow(&network.shared, pasta, Some(child));
        tests::wait("it to have said all", async || place.path().join("said").exists()).await;
        // The same without the task that watched it.
        live.end_tasks().await;
        std::fs::write(place.path().join("more"), "").unwrap();
        tests::wait("it to have said more", async || place.path().join("again").exists()).await;
        assert!(pasta.alive());
        holder::end(pasta);
    }

    #[tokio::test]
    async fn who_was_overtaken_starts_nothing() {
        let (_temp, network) = tests::network(Uplink::None);
        let (helper, _theirs) = helper::tests::silent();
        let mut live = tests::live(helper);
        (live.attempts, live.pasta_retry) = (2, RETRY.1);
        *network.shared.live.lock().await = Some(live);
        for (attempt, retry) in [(1, RETRY.1), (2, RETRY.0)] {
            try_uplink(network.shared.clone(), attempt, true).await;
            assert_eq!(network.shared.live.lock().await.as_ref().unwrap().pasta_retry, retry, "{attempt}");
        }
    }
}
