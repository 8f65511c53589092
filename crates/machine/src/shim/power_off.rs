//! Powers the guest off in order, when the shim's own processes are being ended. A daemon that cannot reach a shim
//! triggers the same by signal.

use super::control::{EXIT_FILE, ExitCause, ExitRecord, RUNTIME_FILE, RuntimeRecord};
use crate::{
    process::{ProcessIdentity, ProvenProcess, kill_proven},
    record,
};
use banger_link::Dialer;
use banger_proto::agent::{event::Power, http::Shutdown, link::AGENT_PORT};
use rustix::process::Signal;
use std::{io, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::{sleep, timeout},
};

/// Time limit for the guest; then the VMM is ended. systemd's user manager waits longer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);
/// Part of that time which the guest's processes get.
const GRACE: Duration = Duration::from_secs(5);

/// Interval between requests while the agent is missing.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Additional time for a shim to write its exit record. A client waits for its daemon longer than the silence before
/// and this together.
const RECORD_TIMEOUT: Duration = Duration::from_secs(3);

/// Tells a shim that has not answered for `waited` to end its machine in order, and kills it if it does not. Returns
/// the exit record, if the shim wrote one; and in either case a description for the user. An older shim ignores the
/// signal.
pub async fn end_silent(
    shim: ProcessIdentity,
    waited: Duration,
    state_dir: &Path,
) -> Result<(ExitRecord, String), String> {
    let situation = format!("its shim (pid {}) did not answer for {} s", shim.pid, waited.as_secs());
    end_within(TIMEOUT + RECORD_TIMEOUT, shim, situation, state_dir).await
}

/// Does the same with a shim that answers, but whose machine did not end in time when that was requested.
pub(super) async fn end_slow(
    shim: ProcessIdentity,
    waited: Duration,
    state_dir: &Path,
) -> Result<(ExitRecord, String), String> {
    let slow = format!("its shim (pid {}) did not end its machine within {} s", shim.pid, waited.as_secs());
    end_within(TIMEOUT + RECORD_TIMEOUT, shim, slow, state_dir).await
}

async fn end_within(
    limit: Duration,
    shim: ProcessIdentity,
    situation: String,
    state_dir: &Path,
) -> Result<(ExitRecord, String), String> {
    tracing::warn!(pid = shim.pid, silent = situation, "a shim is told to end its machine");
    if let Ok(Some(process)) = ProvenProcess::open(shim)
        && process.signal(Signal::WINCH).is_ok()
    {
        // A stopped shim handles no signal but this one. The other signal is already pending, so it is the first to be
        // handled.
        let _ = process.signal(Signal::CONT);
        let _ = timeout(limit, process.ended()).await;
    }
    if let Some(end) = record::read::<ExitRecord>(state_dir, EXIT_FILE).ok().flatten() {
        let remark = format!("{situation}: {}", describe_end(&end));
        return Ok((end, remark));
    }
    let killed = kill_proven(shim, Signal::KILL);
    let vmm = if killed.is_ok() { vmm_after(state_dir).await } else { String::new() };
    Err(match killed {
        Ok(true) => format!("{situation}; told to end its machine, it did not: it was killed, and {vmm}"),
        Ok(false) => format!("{situation}; told to end its machine, it died without a word, and {vmm}"),
        Err(error) => format!("{situation}; told to end its machine, it did not, and cannot be killed: {error}"),
    })
}

/// Describes the VMM of a shim that is dead or dying: it dies too, unless this host's kernel fails to kill it.
async fn vmm_after(state_dir: &Path) -> String {
    let vmm = record::read::<RuntimeRecord>(state_dir, RUNTIME_FILE).ok().flatten().and_then(|runtime| runtime.vmm);
    if let Some(vmm) = vmm
        && let Ok(Some(process)) = ProvenProcess::open(vmm)
        && timeout(RECORD_TIMEOUT, process.ended()).await.is_err()
    {
        return format!("its VMM (pid {}) is not gone", vmm.pid);
    }
    "its VMM with it".to_owned()
}

/// Describes how the machine of such a shim ended.
fn describe_end(end: &ExitRecord) -> &'static str {
    match end.cause {
        ExitCause::Poweroff => "its guest was told to power off",
        _ => "it was told to end, and its guest did not power off",
    }
}

/// Sends the request, repeatedly as long as an answer is possible: an agent that dies is started again, with a new
/// session. The result shows in the guest's power event.
pub(super) async fn request_power_off(session: watch::Receiver<Option<Dialer>>) {
    let asking = async {
        loop {
            let dialer = session.borrow().clone();
            if let Some(dialer) = dialer
                && post(dialer).await.is_ok()
            {
                return;
            }
            sleep(RETRY_INTERVAL).await;
        }
    };
    // After the timeout the machine is ended by the task that waits for the power event.
    let _ = timeout(TIMEOUT, asking).await;
}

async fn post(dialer: Dialer) -> io::Result<()> {
    let grace_ms = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
    let body = serde_json::to_string(&Shutdown { verb: Power::Poweroff, grace_ms })?;
    let head = "POST /shutdown HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length:";
    let mut stream = dialer.dial(AGENT_PORT).await.map_err(io::Error::other)?;
    stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    // The agent answers once its disk is synced.
    stream.read_u8().await.map(drop)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::process::host_boot_id;
    use banger_link::{HostSession, Stream, guest};
    use std::{
        future::Future,
        io::{BufRead, BufReader},
        os::unix::process::ExitStatusExt,
        process::{Child, Command, Stdio},
    };
    use tokio::{net::UnixStream, sync::mpsc, task::JoinHandle};

    /// A fake shim that runs `at_the_signal` on SIGWINCH, and does nothing else.
    pub(in crate::shim) fn shim(dir: &Path, at_the_signal: &str) -> (Child, ProcessIdentity) {
        let script = format!("trap '{at_the_signal}' WINCH; echo up; while :; do sleep 0.05; done");
        let mut sh = Command::new("sh");
        sh.args(["-c", &script]).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = sh.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        let identity = ProcessIdentity::of(child.id()).unwrap();
        (child, identity)
    }

    /// A guest that passes the first incoming stream to `answer`.
    async fn guest<F: Future<Output = ()> + Send + 'static>(
        answer: impl FnOnce(Stream) -> F + Send + 'static,
    ) -> (Dialer, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, mut sessions) = mpsc::unbounded_channel();
        let serving = tokio::spawn(guest::run(theirs, move |_, incoming| drop(sender.send(incoming))));
        let HostSession { dialer, driver, incoming: unused } = HostSession::open(ours).await.unwrap();
        tokio::spawn(async move {
            let _unused = unused;
            driver.run().await
        });
        let mut incoming = sessions.recv().await.unwrap();
        let served = tokio::spawn(async move {
            let stream = incoming.next().await.unwrap().accept().await;
            answer(stream).await;
            serving.abort();
        });
        (dialer, served)
    }

    #[tokio::test]
    async fn an_agent_that_dies_as_it_is_asked_is_asked_again_when_there_is_another() {
        let (dies, died) = guest(async |mut stream| drop(stream.read_u8().await)).await;
        let (session, watching) = watch::channel(Some(dies));
        let asking = tokio::spawn(request_power_off(watching));
        died.await.unwrap();
        session.send_replace(None);
        let (heeds, heeded) = guest(async |mut stream| {
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 202 Accepted\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
            // Until the client has read it.
            let _ = stream.read_u8().await;
        })
        .await;
        session.send_replace(Some(heeds));
        timeout(TIMEOUT, heeded).await.expect("it is asked").unwrap();
        asking.await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_shim_ends_its_machine_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let end = ExitRecord { cause: ExitCause::Poweroff, reason: "the guest powered off".into(), at: 1 };
        record::write(dir.path(), "prepared", &end).unwrap();
        let (mut heeds, identity) = shim(dir.path(), &format!("mv prepared {EXIT_FILE}; exit 0"));
        let waited = Duration::from_secs(30);
        let words = format!("its shim (pid {}) did not answer for 30 s: its guest was told to power off", identity.pid);
        assert_eq!(end_silent(identity, waited, dir.path()).await, Ok((end.clone(), words.clone())));
        assert!(heeds.wait().unwrap().success());
        assert_eq!(end_silent(identity, waited, dir.path()).await, Ok((end, words)), "it is gone");
    }

    #[tokio::test]
    async fn one_that_is_stopped_is_woken_to_hear_it() {
        let dir = tempfile::tempdir().unwrap();
        let end = ExitRecord { cause: ExitCause::Poweroff, reason: "the guest powered off".into(), at: 1 };
        record::write(dir.path(), "prepared", &end).unwrap();
        let (mut stopped, identity) = shim(dir.path(), &format!("mv prepared {EXIT_FILE}; exit 0"));
        assert!(kill_proven(identity, Signal::STOP).unwrap());
        let (found, words) = end_silent(identity, Duration::from_secs(5), dir.path()).await.unwrap();
        assert_eq!(found, end);
        assert!(words.ends_with("did not answer for 5 s: its guest was told to power off"), "{words}");
        assert!(stopped.wait().unwrap().success(), "it was killed");
    }

    #[tokio::test]
    async fn what_comes_of_one_that_does_not_end_in_order_is_said_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (mut older, identity) = shim(dir.path(), ":");
        let (second, little) = (Duration::from_secs(1), Duration::from_millis(200));
        let words = end_within(little, identity, "silent".into(), dir.path()).await.unwrap_err();
        assert!(words.ends_with("it did not: it was killed, and its VMM with it"), "{words}");
        assert_eq!(older.wait().unwrap().signal(), Some(9));

        // A VMM that does not die with its shim: here, because it is not its child.
        let mut vmm = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let (mut older, identity) = shim(dir.path(), ":");
        let runtime =
            RuntimeRecord { host_boot_id: host_boot_id().unwrap(), shim: identity, vmm: ProcessIdentity::of(vmm.id()) };
        record::write_volatile(dir.path(), RUNTIME_FILE, &runtime).unwrap();
        let words = end_within(little, identity, "slow".into(), dir.path()).await.unwrap_err();
        assert!(words.ends_with(&format!("it was killed, and its VMM (pid {}) is not gone", vmm.id())), "{words}");
        older.wait().unwrap();
        vmm.kill().unwrap();
        vmm.wait().unwrap();

        let (mut dies, identity) = shim(dir.path(), "exit 1");
        let words = end_silent(identity, second, dir.path()).await.unwrap_err();
        assert!(words.contains("(pid ") && words.ends_with("it died without a word, and its VMM with it"), "{words}");
        assert_eq!(dies.wait().unwrap().code(), Some(1));
    }

    #[test]
    fn an_end_by_force_is_not_called_one_in_order() {
        let described = |cause| describe_end(&ExitRecord { cause, reason: String::new(), at: 1 });
        assert_eq!(described(ExitCause::Poweroff), "its guest was told to power off");
        for cause in [ExitCause::Ended, ExitCause::Killed] {
            assert_eq!(described(cause), "it was told to end, and its guest did not power off");
        }
    }
}
