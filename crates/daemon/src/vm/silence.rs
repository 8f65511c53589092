//! How long a guest has shown no sign of progress, and how long it may.
//!
//! A guest that gets no processor from its host shows none either, and is not to blame: the time that its VMM stood in the
//! kernel's queue for one does not count. One that hangs waits for something else, or computes in vain, and gets no more
//! time for it; and however busy the host is, there is an end.

use crate::{process::ProcessIdentity, store::Run};
use banger_proto::api::vm::Accelerator;
use std::{collections::HashMap, fs, time::Duration};
use tokio::time::Instant;

/// How often as long as its patience a guest may have stood in the queue beside it.
const FORGIVEN_AT_MOST: u32 = 3;
/// Less than this is no reason to wait on.
const WORTH_IT: Duration = Duration::from_secs(1);

/// A wait for a guest's next sign.
#[derive(Debug)]
pub(super) struct Silence {
    patience: Duration,
    began: Instant,
    /// What of it does not count.
    forgiven: Duration,
    vmm: Option<ProcessIdentity>,
    before: Threads,
}

impl Silence {
    /// Begins with a sign.
    pub(super) fn begin(run: &Run) -> Self {
        let patience = match run.accelerator {
            Some(Accelerator::Kvm) => Duration::from_secs(30),
            Some(Accelerator::Tcg) | None => Duration::from_secs(90),
        };
        let before = run.vmm_process.map(Threads::of).unwrap_or_default();
        Self { patience, began: Instant::now(), forgiven: Duration::ZERO, vmm: run.vmm_process, before }
    }

    /// When to look whether it is over.
    pub(super) fn deadline(&self) -> Instant {
        self.began + self.patience + self.forgiven
    }

    /// Whether the guest had all the time it may have. If not, there is another deadline.
    pub(super) fn is_over(&mut self) -> bool {
        let waited = self.share().waited;
        self.is_over_at(Instant::now(), waited)
    }

    fn is_over_at(&mut self, now: Instant, waited: Duration) -> bool {
        if now < self.deadline() {
            return false;
        }
        let waited = waited.min(self.patience * FORGIVEN_AT_MOST);
        if waited < self.forgiven + WORTH_IT {
            return true;
        }
        self.forgiven = waited;
        now >= self.deadline()
    }

    /// What did not happen, and what tells a guest that hangs from a host that is too busy for it.
    pub(super) fn words(&self, what: &str) -> String {
        let Share { ran, waited } = self.share();
        let (patience, ran, waited) = (self.patience.as_secs(), ran.as_secs_f32(), waited.as_secs_f32());
        let all = self.began.elapsed().as_secs();
        format!(
            "{what}, and the guest showed no progress for {patience} s of its own (in {all} s its VMM computed for \
             {ran:.1} s, and waited {waited:.1} s for a processor)"
        )
    }

    fn share(&self) -> Share {
        self.vmm.map(Threads::of).unwrap_or_default().since(&self.before)
    }
}

/// What a VMM got of the host's processors.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    /// All of its threads together.
    ran: Duration,
    /// The thread that waited longest: the others may have had nothing to do.
    waited: Duration,
}

/// Of each thread how long it ran and how long it waited for a processor, in nanoseconds.
#[derive(Debug, Default)]
struct Threads(HashMap<u32, (u64, u64)>);

impl Threads {
    /// None of a process that is gone, or where the kernel does not count.
    fn of(process: ProcessIdentity) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).into_iter().flatten().flatten();
        let threads = tasks.filter_map(|task| {
            let thread = task.file_name().to_str()?.parse().ok()?;
            Some((thread, parse(&fs::read_to_string(task.path().join("schedstat")).ok()?)?))
        });
        let threads = Self(threads.collect());
        if process.alive() { threads } else { Self::default() }
    }

    fn since(&self, before: &Self) -> Share {
        let gained = self.0.iter().map(|(thread, (ran, waited))| {
            let (ran_before, waited_before) = before.0.get(thread).copied().unwrap_or_default();
            (ran.saturating_sub(ran_before), waited.saturating_sub(waited_before))
        });
        let (ran, waited) = gained.fold((0_u64, 0), |(all, longest), (ran, waited)| (all + ran, waited.max(longest)));
        Share { ran: Duration::from_nanos(ran), waited: Duration::from_nanos(waited) }
    }
}

/// The first two numbers of a thread's `schedstat`.
fn parse(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    const SECOND: Duration = Duration::from_secs(1);

    /// One that has lasted too long already.
    pub(in crate::vm) fn over() -> Silence {
        Silence { patience: Duration::ZERO, ..Silence::begin(&Run::default()) }
    }

    #[test]
    fn time_in_which_a_guest_got_no_processor_does_not_count() {
        let mut silence = Silence::begin(&Run::default());
        let at = |seconds: u32| silence.began + SECOND * seconds;
        let times = [89, 90, 150, 151].map(at);
        assert!(!silence.is_over_at(times[0], Duration::ZERO));
        assert!(!silence.is_over_at(times[1], SECOND * 60), "a minute was not its own");
        assert_eq!(silence.deadline(), times[2]);
        // It got all there was since then.
        assert!(silence.is_over_at(times[2], SECOND * 60 + SECOND / 2));
        assert!(silence.is_over_at(times[3], SECOND * 60));
    }

    #[test]
    fn one_that_waits_for_nothing_has_its_patience_and_no_more() {
        for (accelerator, patience) in [(Accelerator::Kvm, 30), (Accelerator::Tcg, 90)] {
            let mut silence = Silence::begin(&Run { accelerator: Some(accelerator), ..Run::default() });
            assert_eq!(silence.deadline() - silence.began, SECOND * patience);
            assert!(silence.is_over_at(silence.deadline(), Duration::ZERO));
            let words = silence.words("nothing came");
            let expected =
                format!("nothing came, and the guest showed no progress for {patience} s of its own (in 0 s its VMM");
            assert!(words.starts_with(&expected), "{words}");
        }
    }

    #[test]
    fn on_the_busiest_host_there_is_an_end() {
        let mut silence = Silence::begin(&Run::default());
        let mut looks = 0;
        while !silence.is_over_at(silence.deadline(), (silence.deadline() - silence.began) * 9 / 10) {
            looks += 1;
            assert!(looks < 100, "{silence:?}");
        }
        assert_eq!(silence.deadline() - silence.began, silence.patience * (1 + FORGIVEN_AT_MOST));
    }

    /// Ends when it is dropped.
    struct Spinner(Child);

    impl Spinner {
        /// On one processor, for whatever this test may use.
        fn on(processor: &str) -> Self {
            let mut command = Command::new("taskset");
            command.args(["-c", processor, "sh", "-c", "while :; do :; done"]);
            Self(command.stdin(Stdio::null()).spawn().unwrap())
        }
    }

    impl Drop for Spinner {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn what_a_process_computes_and_what_it_waits_for_a_processor_is_seen() {
        if fs::metadata("/proc/self/schedstat").is_err() {
            eprintln!("SKIP: this kernel does not count what a thread waits for");
            return;
        }
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        let processor = allowed.trim().split([',', '-']).next().unwrap();
        let spinners = [Spinner::on(processor), Spinner::on(processor)];
        let process = ProcessIdentity::of(spinners[0].0.id()).unwrap();
        let silence = Silence::begin(&Run { vmm_process: Some(process), ..Run::default() });
        let (least, deadline) = (SECOND / 10, std::time::Instant::now() + SECOND * 60);
        loop {
            let share = silence.share();
            if share.ran >= least && share.waited >= least {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{share:?}");
            std::thread::sleep(SECOND / 100);
        }
        drop(spinners);
        assert_eq!(silence.share(), Share { ran: Duration::ZERO, waited: Duration::ZERO }, "of a process that is gone");
    }
}
