//! The guest watchdog: how long a guest has shown no progress, and how long it may.
//!
//! A guest that gets no CPU from its host cannot make progress and is not to blame: the time that its VMM waited in the
//! run queue does not count. A guest that hangs waits for something else, or computes in vain, and gets no credit for
//! that. However busy the host is, the wait is bounded.

use crate::store::Run;
use banger_machine::process::ProcessIdentity;
use banger_proto::api::vm::Accelerator;
use std::{collections::HashMap, fs, time::Duration};
use tokio::time::Instant;

/// Upper bound of the credited waiting time, as a multiple of the timeout.
const MAX_CREDIT: u32 = 3;
/// Smallest additional credit that extends the deadline.
const MIN_CREDIT: Duration = Duration::from_secs(1);

/// Wait for a guest's next sign of progress.
#[derive(Debug)]
pub(super) struct Watchdog {
    timeout: Duration,
    started: Instant,
    /// Time that the VMM waited for a CPU of the host; not counted against the guest.
    credited: Duration,
    vmm: Option<ProcessIdentity>,
    before: Threads,
}

impl Watchdog {
    /// Starts the watchdog at a sign of progress.
    pub(super) fn start(run: &Run) -> Self {
        let timeout = match run.accelerator {
            Some(Accelerator::Kvm) => Duration::from_secs(30),
            Some(Accelerator::Tcg) | None => Duration::from_secs(90),
        };
        let before = run.vmm_process.map(Threads::of).unwrap_or_default();
        Self { timeout, started: Instant::now(), credited: Duration::ZERO, vmm: run.vmm_process, before }
    }

    /// Returns when to check [`Self::is_expired`].
    pub(super) fn deadline(&self) -> Instant {
        self.started + self.timeout + self.credited
    }

    /// Whether the guest had all the time that it may have. If not, there is a later deadline.
    pub(super) fn is_expired(&mut self) -> bool {
        let waited = self.cpu_time().waited;
        self.is_expired_at(Instant::now(), waited)
    }

    fn is_expired_at(&mut self, now: Instant, waited: Duration) -> bool {
        if now < self.deadline() {
            return false;
        }
        let waited = waited.min(self.timeout * MAX_CREDIT);
        if waited < self.credited + MIN_CREDIT {
            return true;
        }
        self.credited = waited;
        now >= self.deadline()
    }

    /// Describes the failure, with the CPU times that tell a hanging guest from a host that is too busy for it.
    pub(super) fn describe(&self, what: &str) -> String {
        let CpuTime { ran, waited } = self.cpu_time();
        let (timeout, ran, waited) = (self.timeout.as_secs(), ran.as_secs_f32(), waited.as_secs_f32());
        let all = self.started.elapsed().as_secs();
        format!(
            "{what}, and the guest showed no progress for {timeout} s of its own (in {all} s its VMM computed for \
             {ran:.1} s, and waited {waited:.1} s for a processor)"
        )
    }

    fn cpu_time(&self) -> CpuTime {
        self.vmm.map(Threads::of).unwrap_or_default().since(&self.before)
    }
}

/// CPU time that a VMM got and waited for.
#[derive(Debug, PartialEq, Eq)]
struct CpuTime {
    /// Sum over all of its threads.
    ran: Duration,
    /// Waiting time of the thread that waited longest: the others may have had nothing to do.
    waited: Duration,
}

/// Nanoseconds that each thread ran and waited for a CPU, by thread id.
#[derive(Debug, Default)]
struct Threads(HashMap<u32, (u64, u64)>);

impl Threads {
    /// Reads the times of a process. Empty for a process that has ended, and where the kernel does not count them.
    fn of(process: ProcessIdentity) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).into_iter().flatten().flatten();
        let threads = tasks.filter_map(|task| {
            let thread = task.file_name().to_str()?.parse().ok()?;
            Some((thread, parse(&fs::read_to_string(task.path().join("schedstat")).ok()?)?))
        });
        let threads = Self(threads.collect());
        if process.alive() { threads } else { Self::default() }
    }

    fn since(&self, before: &Self) -> CpuTime {
        let gained = self.0.iter().map(|(thread, (ran, waited))| {
            let (ran_before, waited_before) = before.0.get(thread).copied().unwrap_or_default();
            (ran.saturating_sub(ran_before), waited.saturating_sub(waited_before))
        });
        let (ran, waited) = gained.fold((0_u64, 0), |(all, longest), (ran, waited)| (all + ran, waited.max(longest)));
        CpuTime { ran: Duration::from_nanos(ran), waited: Duration::from_nanos(waited) }
    }
}

/// Parses the first two numbers of a thread's `schedstat`.
fn parse(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    const SECOND: Duration = Duration::from_secs(1);

    /// A watchdog whose time is over.
    pub(in crate::vm) fn expired() -> Watchdog {
        Watchdog { timeout: Duration::ZERO, ..Watchdog::start(&Run::default()) }
    }

    #[test]
    fn time_in_which_a_guest_got_no_processor_does_not_count() {
        let mut watchdog = Watchdog::start(&Run::default());
        let at = |seconds: u32| watchdog.started + SECOND * seconds;
        let times = [89, 90, 150, 151].map(at);
        assert!(!watchdog.is_expired_at(times[0], Duration::ZERO));
        assert!(!watchdog.is_expired_at(times[1], SECOND * 60), "a minute was not its own");
        assert_eq!(watchdog.deadline(), times[2]);
        // It got a CPU all the time since then.
        assert!(watchdog.is_expired_at(times[2], SECOND * 60 + SECOND / 2));
        assert!(watchdog.is_expired_at(times[3], SECOND * 60));
    }

    #[test]
    fn one_that_waits_for_nothing_has_its_patience_and_no_more() {
        for (accelerator, timeout) in [(Accelerator::Kvm, 30), (Accelerator::Tcg, 90)] {
            let mut watchdog = Watchdog::start(&Run { accelerator: Some(accelerator), ..Run::default() });
            assert_eq!(watchdog.deadline() - watchdog.started, SECOND * timeout);
            assert!(watchdog.is_expired_at(watchdog.deadline(), Duration::ZERO));
            let text = watchdog.describe("nothing came");
            let expected =
                format!("nothing came, and the guest showed no progress for {timeout} s of its own (in 0 s its VMM");
            assert!(text.starts_with(&expected), "{text}");
        }
    }

    #[test]
    fn on_the_busiest_host_there_is_an_end() {
        let mut watchdog = Watchdog::start(&Run::default());
        let mut looks = 0;
        while !watchdog.is_expired_at(watchdog.deadline(), (watchdog.deadline() - watchdog.started) * 9 / 10) {
            looks += 1;
            assert!(looks < 100, "{watchdog:?}");
        }
        assert_eq!(watchdog.deadline() - watchdog.started, watchdog.timeout * (1 + MAX_CREDIT));
    }

    /// A process that computes until it is dropped.
    struct Spinner(Child);

    impl Spinner {
        /// Runs on one CPU, which is one that this test may use.
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
        let watchdog = Watchdog::start(&Run { vmm_process: Some(process), ..Run::default() });
        let (least, deadline) = (SECOND / 10, std::time::Instant::now() + SECOND * 60);
        loop {
            let cpu_time = watchdog.cpu_time();
            if cpu_time.ran >= least && cpu_time.waited >= least {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{cpu_time:?}");
            std::thread::sleep(SECOND / 100);
        }
        drop(spinners);
        assert_eq!(
            watchdog.cpu_time(),
            CpuTime { ran: Duration::ZERO, waited: Duration::ZERO },
            "of a process that is gone"
        );
    }
}
