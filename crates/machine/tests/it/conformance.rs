//! Behavior common to the machines of every driver under a shim, including the fakes: each test runs on each of them.

use crate::machine::{Kind, Setup, soon, until};
use banger_link::vsock::{self, ConnectError};
use banger_machine::{
    process::{ProcessIdentity, kill_proven},
    record,
    shim::{
        client::{Adopted, ShimError},
        control::{AGENT, EXIT_FILE, ExitCause, ExitRecord, RUNTIME_FILE, RuntimeRecord, SOCKET, ShimMessage, VSOCK},
        end_proven,
    },
};
use banger_proto::{agent::event::Power, api::vm::KillSignal};
use rustix::process::Signal;
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

macro_rules! on_every_vmm {
    ($($test:ident),+ $(,)?) => {
        mod fake {
            $(#[tokio::test] async fn $test() { super::$test(super::Kind::Fake).await; })+
        }
        mod fake_firecracker {
            $(#[tokio::test] async fn $test() { super::$test(super::Kind::FakeFirecracker).await; })+
        }
        mod qemu {
            $(#[tokio::test] async fn $test() { super::$test(super::Kind::Qemu).await; })+
        }
        mod firecracker {
            $(#[tokio::test] async fn $test() { super::$test(super::Kind::Firecracker).await; })+
        }
    };
}

on_every_vmm!(
    a_machine_becomes_ready_answers_and_ends,
    a_poweroff_in_the_guest_is_the_end,
    a_reboot_in_the_guest_is_a_fresh_machine,
    a_signal_that_was_asked_for_kills,
    a_vmm_killed_by_somebody_else_failed,
    a_dead_shim_takes_its_vmm_along,
    a_later_daemon_finds_what_an_earlier_one_left,
    every_watcher_is_told,
    a_guest_that_is_not_there_yet_refuses_at_once,
    there_is_one_shim_a_machine,
    a_vmm_that_cannot_be_run_is_no_machine,
    a_host_that_shuts_down_ends_the_machine,
);

/// Every signal that `vm kill` can send.
pub(crate) const SIGNALS: [KillSignal; 8] = [
    KillSignal::Kill,
    KillSignal::Term,
    KillSignal::Int,
    KillSignal::Hup,
    KillSignal::Quit,
    KillSignal::Usr1,
    KillSignal::Usr2,
    KillSignal::Abrt,
];

async fn gone(process: ProcessIdentity) {
    until(&format!("the end of {process:?}"), || if process.alive() { Err("alive".into()) } else { Ok(()) }).await;
}

#[track_caller]
fn assert_end(end: &ExitRecord, cause: ExitCause, words: &str) {
    assert_eq!(end.cause, cause, "{end:?}");
    assert!(end.reason.contains(words), "{:?} does not say {words:?}", end.reason);
    assert!(end.at > 1_700_000_000, "{end:?}");
}

async fn a_machine_becomes_ready_answers_and_ends(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let (shim, _events, ready) = setup.ready().await;
    let status = shim.status();
    assert_eq!(status.ready.as_ref(), Some(&ready));
    let (vmm, started, heard) = (status.vmm.unwrap(), status.vmm_started_ms.unwrap(), status.ready_ms.unwrap());
    assert!(vmm.alive() && started <= heard, "{status:?}");
    assert_eq!(status.unconfined.is_some(), kind.is_fake(), "{status:?}");

    let runtime: RuntimeRecord = record::read(&setup.plan.state_dir, RUNTIME_FILE).unwrap().unwrap();
    assert_eq!((runtime.shim, runtime.vmm), (status.shim, Some(vmm)));
    for socket in [SOCKET, VSOCK, AGENT].map(|name| setup.plan.run_dir.join(name)) {
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600, "{}", socket.display());
    }

    assert_eq!(setup.health().await.boot_id, ready.boot_id);
    let closed = soon("a refusal", vsock::connect(&setup.vsock(), 9)).await;
    assert!(matches!(closed, Err(ConnectError::Refused(9))), "{closed:?}");

    shim.end().await.unwrap();
    let end = soon("the end", shim.ended()).await;
    assert_end(&end, ExitCause::Ended, "daemon");
    assert_eq!(record::read::<ExitRecord>(&setup.plan.state_dir, EXIT_FILE).unwrap(), Some(end));
    gone(vmm).await;
    gone(status.shim).await;
    assert_eq!(fs::read_dir(&setup.plan.run_dir).unwrap().count(), 0, "sockets are left");
    assert!(matches!(shim.end().await, Err(ShimError::Ended(_))));
}

async fn a_poweroff_in_the_guest_is_the_end(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let (shim, mut events, _) = setup.ready().await;
    setup.power(Power::Poweroff).await;
    let end = setup.find(&mut events, "the end", |message| match message {
        ShimMessage::Ended(end) => Some(end),
        ShimMessage::Relaunching => panic!("a power-off is no reboot"),
        _ => None,
    });
    assert_end(&end.await, ExitCause::Poweroff, "powered off");
    assert_eq!(events.next().await, None);
    gone(shim.status().shim).await;
}

async fn a_reboot_in_the_guest_is_a_fresh_machine(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let (shim, mut events, first) = setup.ready().await;
    let vmm = shim.status().vmm.unwrap();
    setup.power(Power::Reboot).await;
    let relaunching = |message| matches!(message, ShimMessage::Relaunching).then_some(());
    setup.find(&mut events, "the relaunch", relaunching).await;
    let second = setup.await_ready(&mut events).await;
    let status = shim.status();
    assert_ne!(status.vmm.unwrap().pid, vmm.pid);
    assert_eq!(status.relaunches, 1);
    // The fake's guest runs on this host's kernel.
    assert_eq!(first.boot_id == second.boot_id, kind.is_fake());
    let runtime: RuntimeRecord = record::read(&setup.plan.state_dir, RUNTIME_FILE).unwrap().unwrap();
    assert_eq!(runtime.vmm, status.vmm);
    assert_eq!(setup.health().await.boot_id, second.boot_id);
    shim.end().await.unwrap();
    assert_end(&soon("the end", shim.ended()).await, ExitCause::Ended, "");
}

async fn a_signal_that_was_asked_for_kills(kind: Kind) {
    for signal in SIGNALS {
        let Some(setup) = Setup::new(kind) else { return };
        let shim = setup.launch().await;
        shim.signal(signal).await.unwrap();
        if kind == Kind::Qemu && signal == KillSignal::Usr1 {
            // QEMU's threads wake each other with this signal, so a QEMU with threads does not die of it.
            let _ = shim.signal(KillSignal::Kill).await;
        }
        let end = soon(&format!("the end by SIG{signal}"), shim.ended()).await;
        assert_end(&end, ExitCause::Killed, "signal");
    }
}

async fn a_vmm_killed_by_somebody_else_failed(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let shim = setup.launch().await;
    assert!(kill_proven(shim.status().vmm.unwrap(), Signal::KILL).unwrap());
    assert_end(&soon("the end", shim.ended()).await, ExitCause::VmmFailed, "signal: 9");
}

async fn a_dead_shim_takes_its_vmm_along(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let shim = setup.launch().await;
    let status = shim.status();
    assert!(kill_proven(status.shim, Signal::KILL).unwrap());
    assert_end(&soon("the end", shim.ended()).await, ExitCause::VmmFailed, "the shim died");
    gone(status.vmm.unwrap()).await;
    let left = setup.shims.adopt(&setup.plan.run_dir, &setup.plan.state_dir).await.unwrap();
    let Adopted::Gone(Some(record)) = left else { panic!("{left:?}") };
    assert_eq!(record.shim, status.shim);
    assert!(end_proven(&record, Duration::from_secs(5)).await.unwrap());
    // Leftovers do not keep the machine from starting again.
    let again = setup.launch().await;
    again.end().await.unwrap();
    soon("the end", again.ended()).await;
}

async fn a_later_daemon_finds_what_an_earlier_one_left(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let (run_dir, state_dir) = (&setup.plan.run_dir, &setup.plan.state_dir);
    let adopted = setup.shims.adopt(run_dir, state_dir).await.unwrap();
    assert!(matches!(adopted, Adopted::Gone(None)), "{adopted:?}");

    let (shim, events, ready) = setup.ready().await;
    let before = shim.status();
    drop((shim, events));
    let adopted = setup.shims.adopt(run_dir, state_dir).await.unwrap();
    let Adopted::Running(shim) = adopted else { panic!("{adopted:?}") };
    let status = shim.status();
    assert_eq!((status.vmm, status.shim, status.ready), (before.vmm, before.shim, Some(ready)));
    setup.health().await;

    shim.end().await.unwrap();
    let end = soon("the end", shim.ended()).await;
    gone(status.shim).await;
    let adopted = setup.shims.adopt(run_dir, state_dir).await.unwrap();
    assert!(matches!(&adopted, Adopted::Ended(found) if *found == end), "{adopted:?}");
}

async fn every_watcher_is_told(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let first = setup.launch().await;
    let adopted = setup.shims.adopt(&setup.plan.run_dir, &setup.plan.state_dir).await.unwrap();
    let Adopted::Running(second) = adopted else { panic!("{adopted:?}") };
    let (mut one, mut other) = (first.events(), second.events());
    assert_eq!(setup.await_ready(&mut one).await, setup.await_ready(&mut other).await);
    second.end().await.unwrap();
    let (a, b) = soon("both ends", async { tokio::join!(first.ended(), second.ended()) }).await;
    assert_eq!(a, b);
    let mut late = first.events();
    assert!(matches!(late.next().await, Some(ShimMessage::Status(_))));
    assert_eq!(late.next().await, Some(ShimMessage::Ended(a)));
    assert_eq!(late.next().await, None);
}

async fn a_guest_that_is_not_there_yet_refuses_at_once(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let setup = if kind.is_fake() { setup.asking(&["fake.ready=never"]) } else { setup };
    let shim = setup.launch().await;
    let refused = soon("a refusal", vsock::connect(&setup.vsock(), 1024)).await;
    assert!(matches!(refused, Err(ConnectError::Refused(1024))), "{refused:?}");
    assert_eq!(shim.status().ready, None);
    shim.end().await.unwrap();
    soon("the end", shim.ended()).await;
}

async fn there_is_one_shim_a_machine(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let shim = setup.launch().await;
    let again = setup.shims.launch(&setup.plan).await.map(drop);
    assert!(matches!(again, Err(ShimError::AlreadyRunning(running)) if running == shim.status().shim), "{again:?}");
    assert!(shim.status().vmm.unwrap().alive());
    shim.end().await.unwrap();
    soon("the end", shim.ended()).await;
    // The shim may still be ending; a launch waits for that.
    let again = setup.launch().await;
    again.end().await.unwrap();
    soon("the end", again.ended()).await;
}

async fn a_vmm_that_cannot_be_run_is_no_machine(kind: Kind) {
    let Some(mut setup) = Setup::new(kind) else { return };
    setup.plan.program = "/nonexistent/vmm".into();
    let refused = setup.shims.launch(&setup.plan).await.unwrap_err();
    assert!(matches!(&refused, ShimError::NotStarted(_)), "{refused:?}");
    assert!(refused.to_string().contains("cannot run /nonexistent/vmm: No such file"), "{refused}");
    let left = setup.shims.adopt(&setup.plan.run_dir, &setup.plan.state_dir).await.unwrap();
    let Adopted::Ended(end) = left else { panic!("{left:?}") };
    assert_end(&end, ExitCause::VmmFailed, "/nonexistent/vmm");
}

async fn a_host_that_shuts_down_ends_the_machine(kind: Kind) {
    let Some(setup) = Setup::new(kind) else { return };
    let shim = setup.launch().await;
    assert!(kill_proven(shim.status().shim, Signal::TERM).unwrap());
    assert_end(&soon("the end", shim.ended()).await, ExitCause::Ended, "host shuts down");
}
