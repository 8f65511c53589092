//! Shutdown: who ends the processes, and the order of the steps up to the report to the host.
//!
//! ```text
//! agent is process 1's   sync · TERM · grace · KILL · freeze the work disk · Power · acknowledgement · reset
//! image's systemd        sync · signal it · it stops all, runs our hook · freeze · Power · acknowledgement · reset
//! another image's init   sync · Power with its grace · acknowledgement · its own `reboot`
//! hosted                 Power · acknowledgement · exit
//! ```
#![expect(unsafe_code, reason = "signals to every process")]

use super::{Context, RunsIn, announce::SYSTEMD_SOCKET, exec};
use crate::boot;
use banger_proto::agent::{
    boot::Init,
    event::{GuestEvent, Power},
    http::Shutdown,
};
use std::{fs, io, path::Path, process::Stdio, rc::Rc, thread, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::spawn_local,
    time::{Instant, sleep},
};

/// Time limit for the host to record how the guest goes down.
pub(crate) const ACKNOWLEDGEMENT: Duration = Duration::from_secs(2);
/// Grace period of a power command that is typed in the guest.
const GRACE: Duration = Duration::from_secs(2);
/// Interval at which the remaining processes are counted.
const PERIOD: Duration = Duration::from_millis(10);

/// `POST /shutdown`: returns once everything written so far is on disk and the shutdown has begun. A shutdown that had
/// already begun, whoever asked for it, continues unchanged; what was written meanwhile is on disk all the same. Only a
/// power-off by the host replaces a reboot, as long as the machine has not been reset.
pub(super) async fn begin(context: Rc<Context>, shutdown: &Shutdown) {
    let is_first = !context.going_down.replace(true);
    if shutdown.verb == Power::Poweroff {
        context.off_wanted.set(true);
    }
    let (verb, grace) = (shutdown.verb, shutdown.grace());
    let (done, written) = oneshot::channel();
    // A task of its own: the client may leave before the disk has everything, and the guest goes down all the same.
    spawn_local(async move {
        if context.guest.runs_in == RunsIn::Machine {
            sync().await;
        }
        let _ = done.send(());
        if is_first {
            go_down(&context, verb, grace).await;
        }
    });
    let _ = written.await;
}

/// Writes everything to the disk, in a thread of its own: a slow disk must not block the agent, and the threads of the
/// pool are occupied by copies as long as their clients like.
async fn sync() {
    let (done, written) = oneshot::channel();
    let thread = thread::Builder::new().name("sync".to_owned()).spawn(move || {
        rustix::fs::sync();
        let _ = done.send(());
    });
    match thread {
        Ok(_) => {
            let _ = written.await;
        }
        // Without a thread to spare, the agent had better block than lose data.
        Err(_) => rustix::fs::sync(),
    }
}

/// Handles power signals from process 1: our own forwards requests, and systemd's last program is our hook.
pub(super) async fn on_signals(context: Rc<Context>) {
    let stream = |verb| signal(SignalKind::from_raw(boot::power_signal(verb)));
    let (Ok(mut off), Ok(mut again)) = (stream(Power::Poweroff), stream(Power::Reboot)) else {
        boot::say("the agent cannot hear power signals");
        return;
    };
    loop {
        let verb = tokio::select! {
            _ = off.recv() => Power::Poweroff,
            _ = again.recv() => Power::Reboot,
        };
        match context.guest.init {
            // From the hook: whatever was asked for before, this is what systemd did.
            Init::Image => last_word(&context, verb).await,
            Init::Agent | Init::Auto if !context.going_down.replace(true) => {
                let context = Rc::clone(&context);
                spawn_local(async move { go_down(&context, verb, GRACE).await });
            }
            Init::Agent | Init::Auto => {}
        }
    }
}

#[expect(clippy::exit, reason = "a hosted agent that went down is over")]
async fn go_down(context: &Context, verb: Power, grace: Duration) {
    match (context.guest.runs_in, context.guest.init) {
        (RunsIn::Hosted, _) => {
            report(context, verb, Duration::ZERO).await;
            std::process::exit(0);
        }
        (RunsIn::Machine, Init::Image) if boot::is_systemd() => {
            // Before systemd listens it has no signal handlers either, and the kernel drops signals to a process 1
            // without handlers.
            while !Path::new(SYSTEMD_SOCKET).exists() {
                sleep(PERIOD).await;
            }
            signal_init(verb);
        }
        (RunsIn::Machine, Init::Image) => {
            let sent = report(context, verb, grace).await;
            run_power_command(&sent).await;
        }
        (RunsIn::Machine, Init::Agent | Init::Auto) => {
            end_processes(grace).await;
            last_word(context, verb).await;
        }
    }
}

/// Freezes the disk, reports and resets the machine. Does not return.
async fn last_word(context: &Context, verb: Power) {
    if let Some(work) = &context.guest.work
        && let Err(error) = boot::freeze(work)
    {
        boot::say(&format!("the work disk cannot be frozen: {error}"));
        rustix::fs::sync();
    }
    report(context, verb, Duration::ZERO).await;
    boot::reset()
}

/// A report of how the guest goes down.
struct PowerReport {
    verb: Power,
    /// Whether the host has recorded it.
    is_recorded: bool,
}

/// Reports how the guest goes down and how long that may take, and returns the report. The host's request for a
/// power-off outranks a reboot, even if it comes during the report: otherwise the host would find a rebooted guest and
/// end it by force. The caller must act on the result without waiting.
async fn report(context: &Context, verb: Power, within: Duration) -> PowerReport {
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let (mut reported, mut is_recorded) = (None, false);
    loop {
        let verb = if context.off_wanted.get() { Power::Poweroff } else { verb };
        if reported.replace(verb) == Some(verb) {
            return PowerReport { verb, is_recorded };
        }
        let event = GuestEvent::Power { verb, within_ms };
        is_recorded = context.announcer.announce_power(&event, context.guest.acknowledgement).await;
        if !is_recorded {
            boot::say("the host did not acknowledge the guest's end");
        }
    }
}

fn signal_init(verb: Power) {
    // SAFETY: kill has no memory to be wrong about.
    if unsafe { libc::kill(1, boot::power_signal(verb)) } == -1 {
        boot::say(&format!("process 1 cannot be asked: {}", io::Error::last_os_error()));
    }
}

/// Lets the image's init stop everything. A reset ends the machine under every VMM, a power-off only under some, and a
/// host that has recorded the report does not ask how the machine ended.
async fn run_power_command(report: &PowerReport) {
    if run_first(commands(report), exec::DEFAULT_PATH).await.is_none() {
        boot::say("the image's init cannot be told to stop");
    }
}

/// Returns the commands to try, the best first: an image may lack one, or its init may ignore one.
fn commands(report: &PowerReport) -> &'static [&'static str] {
    match report.verb {
        Power::Reboot => &["reboot"],
        Power::Poweroff if report.is_recorded => &["reboot", "poweroff"],
        Power::Poweroff => &["poweroff"],
    }
}

/// Runs the first command that works, and returns it.
async fn run_first<'a>(commands: &[&'a str], path: &str) -> Option<&'a str> {
    for command in commands {
        match tokio::process::Command::new(command).env("PATH", path).stdin(Stdio::null()).status().await {
            Ok(status) if status.success() => return Some(command),
            Ok(status) => boot::say(&format!("{command}: {status}")),
            Err(error) => boot::say(&format!("{command}: {error}")),
        }
    }
    None
}

/// Sends TERM to all processes, waits, then sends KILL.
async fn end_processes(grace: Duration) {
    for (signal, patience) in [(libc::SIGTERM, grace), (libc::SIGKILL, Duration::from_secs(2))] {
        if others() == 0 {
            return;
        }
        // SAFETY: kill has no memory to be wrong about; -1 spares process 1 and this one.
        unsafe {
            libc::kill(-1, signal);
            // A stopped process would not handle TERM.
            libc::kill(-1, libc::SIGCONT);
        }
        let deadline = Instant::now() + patience;
        while others() > 0 && Instant::now() < deadline {
            sleep(PERIOD).await;
        }
    }
}

/// Counts the processes other than the kernel's, process 1, this one, and zombies.
fn others() -> usize {
    let own = std::process::id();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid > 2 && *pid != own)
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_alive_in_user_space(&stat)))
        .count()
}

/// Parses `/proc/<pid>/stat`: the name is in parentheses and may hold anything; then state, parent, …, and the flags.
fn is_alive_in_user_space(stat: &str) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let dead = matches!(fields.first(), Some(&("Z" | "X")) | None);
    let flags: u32 = fields.get(6).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    !dead && flags & PF_KTHREAD == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[tokio::test]
    async fn a_guest_that_cannot_reboot_powers_off_all_the_same() {
        let known = |verb, is_recorded| commands(&PowerReport { verb, is_recorded });
        assert_eq!(known(Power::Poweroff, false), ["poweroff"]);
        for is_recorded in [false, true] {
            assert_eq!(known(Power::Reboot, is_recorded), ["reboot"], "off is not what was asked for");
        }
        let dir = tempfile::tempdir().unwrap();
        let (reboot, poweroff) = (dir.path().join("reboot"), dir.path().join("poweroff"));
        let worked = async || run_first(known(Power::Poweroff, true), dir.path().to_str().unwrap()).await;
        assert_eq!(worked().await, None);
        symlink("/bin/true", poweroff).unwrap();
        assert_eq!(worked().await, Some("poweroff"), "there is no other");
        symlink("/bin/false", &reboot).unwrap();
        assert_eq!(worked().await, Some("poweroff"), "the other does not work");
        fs::remove_file(&reboot).unwrap();
        symlink("/bin/true", &reboot).unwrap();
        assert_eq!(worked().await, Some("reboot"));
    }

    #[test]
    fn who_counts_as_alive() {
        assert!(is_alive_in_user_space("7 (a) b) S 1 7 7 0 -1 4194560 0"));
        assert!(!is_alive_in_user_space("7 (sh) Z 1 7 7 0 -1 4194560 0"));
        assert!(!is_alive_in_user_space("2 (kthreadd) S 0 0 0 0 -1 2129984 0"));
        assert!(!is_alive_in_user_space(""));
    }
}
