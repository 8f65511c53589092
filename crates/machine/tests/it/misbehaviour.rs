//! VMMs and guests that misbehave, each on request or through its kernel's command line.

use crate::machine::{Kind, Setup, soon};
use banger_link::vsock;
use banger_machine::shim::{
    control::{AGENT, ExitCause, ShimMessage},
    stream_quota,
};
use banger_proto::api::vm::KillSignal;
use std::fs;

#[track_caller]
fn fake(words: &[&str]) -> Setup {
    Setup::new(Kind::Fake).expect("the fake runs everywhere").asking(words)
}

async fn ends(words: &[&str], cause: ExitCause, reason: &str) {
    let setup = fake(words);
    let end = setup.run_to_end().await;
    assert_eq!(end.cause, cause, "{end:?}");
    assert!(end.reason.contains(reason), "{end:?}");
}

#[tokio::test]
async fn a_panic_is_told_from_the_console() {
    ends(&["fake.panic=oops"], ExitCause::GuestFailed, "not syncing: oops").await;
}

#[tokio::test]
async fn a_reset_or_a_power_off_without_a_word() {
    ends(&["fake.reset=yes"], ExitCause::GuestFailed, "without a word, before its agent was ready").await;
    ends(&["fake.off=yes"], ExitCause::Poweroff, "powered off").await;
}

#[tokio::test]
async fn a_machine_without_a_timer_boots_again() {
    let setup = fake(&["fake.timerless=3"]);
    let (shim, _events, _) = setup.ready().await;
    assert_eq!(shim.status().relaunches, 3);
    shim.end().await.unwrap();
    soon("the end", shim.ended()).await;
    ends(&["fake.timerless=9"], ExitCause::GuestFailed, "found no timer, 6 times in a row").await;
}

#[tokio::test]
async fn a_machine_whose_timer_is_late_boots_again_until_it_has_to_put_up_with_it() {
    let setup = fake(&["fake.late=yes"]);
    let (shim, _events, _) = setup.ready().await;
    assert_eq!(shim.status().relaunches, 2);
    shim.end().await.unwrap();
    soon("the end", shim.ended()).await;
}

/// A real kernel that believes its timer to be twice as fast, as happens on a host that takes the CPU away while it
/// measures: here it is told a wrong frequency of the counter used for measuring.
#[tokio::test]
async fn a_real_kernel_with_a_late_timer_boots_again_and_then_goes_on() {
    let Some(mut setup) = Setup::new(Kind::Qemu) else { return };
    let Some(khz) = setup.plan.tsc_khz else { return };
    setup.plan.tsc_khz = Some(2 * khz);
    let (shim, _events, _) = setup.ready().await;
    // On a busy host a boot may find no timer at all, and there is one more.
    assert!(shim.status().relaunches >= 2, "console: {}", setup.console());
    shim.end().await.unwrap();
    soon("the end", shim.ended()).await;
}

/// The behavior of a kernel whose host prevents it from measuring its timer.
#[tokio::test]
async fn a_real_kernel_that_finds_no_timer_stands_still_nowhere() {
    let Some(setup) = Setup::new(Kind::Qemu) else { return };
    let setup = setup.asking(&["noapictimer"]);
    let end = setup.run_to_end().await;
    assert_eq!(end.cause, ExitCause::GuestFailed, "{end:?}; console: {}", setup.console());
    assert!(end.reason.contains("found no timer, 6 times in a row"), "{end:?}");
}

#[tokio::test]
async fn a_vmm_that_gives_up_is_quoted() {
    ends(&["fake.fail=no-such-machine"], ExitCause::VmmFailed, "fake-qemu: no-such-machine").await;
}

#[tokio::test]
async fn a_flooded_console_is_capped_and_stops_nothing() {
    let setup = fake(&["fake.flood=16"]);
    let (shim, _events, _) = setup.ready().await;
    assert!(shim.status().console_bytes > 0);
    let mut older = setup.plan.console.path.clone().into_os_string();
    older.push(".1");
    let size = |path: &std::ffi::OsStr| fs::metadata(path).map_or(0, |file| file.len());
    let kept = size(setup.plan.console.path.as_os_str()) + size(&older);
    assert!(kept <= setup.plan.console.cap.bytes(), "{kept} bytes");
    assert!(kept >= setup.plan.console.cap.bytes() / 2, "{kept} bytes");
    shim.end().await.unwrap();
    soon("the end", shim.ended()).await;
}

#[tokio::test]
async fn nonsense_on_the_channel_reaches_nobody() {
    let setup = fake(&["fake.channel=garbage"]);
    let shim = setup.launch().await;
    let dialled = soon("a refusal", vsock::connect(&setup.vsock(), 1024)).await;
    assert!(dialled.is_err());
    shim.end().await.unwrap();
    assert_eq!(soon("the end", shim.ended()).await.cause, ExitCause::Ended);
}

#[tokio::test]
async fn a_vmm_that_is_deaf_to_one_signal_dies_of_another() {
    let setup = fake(&["fake.deaf=yes", "fake.ready=never"]);
    let shim = setup.launch().await;
    let mut events = shim.events();
    let grown = |message| match message {
        ShimMessage::Status(status) => (status.console_bytes > 0).then_some(()),
        ShimMessage::Console { .. } => Some(()),
        _ => None,
    };
    // It no longer responds by the time it writes to its console.
    setup.find(&mut events, "the console", grown).await;
    shim.signal(KillSignal::Term).await.unwrap();
    shim.signal(KillSignal::Kill).await.unwrap();
    let end = soon("the end", shim.ended()).await;
    assert_eq!((end.cause, end.reason.contains("signal 9")), (ExitCause::Killed, true), "{end:?}");
}

#[tokio::test]
async fn a_real_kernel_that_panics() {
    let Some(setup) = Setup::new(Kind::Qemu) else { return };
    let setup = setup.asking(&["rdinit=/nonexistent"]);
    let end = setup.run_to_end().await;
    assert_eq!(end.cause, ExitCause::GuestFailed, "{end:?}");
    assert!(end.reason.contains("Kernel panic - not syncing"), "{end:?}");
}

#[tokio::test]
async fn a_kernel_file_that_is_none() {
    let Some(mut setup) = Setup::new(Kind::Qemu) else { return };
    let path = setup.plan.state_dir.join("vmlinux");
    fs::write(&path, "not a kernel").unwrap();
    setup.plan.kernel.path = path;
    let end = setup.run_to_end().await;
    assert_eq!(end.cause, ExitCause::VmmFailed, "{end:?}");
    assert!(end.reason.contains("qemu"), "{end:?}");
}

#[tokio::test]
async fn who_has_all_of_the_users_streams_has_none_of_the_daemons() {
    let setup = fake(&[]);
    let (shim, _events, _) = setup.ready().await;
    let mut sessions = Vec::new();
    for _ in 0..stream_quota::USER {
        sessions.push(soon("a stream of the user's", vsock::connect(&setup.vsock(), 1024)).await.unwrap());
    }
    // A further one waits until another has ended.
    let waiting = tokio::spawn({
        let socket = setup.vsock();
        async move { vsock::connect(&socket, 1024).await }
    });
    let daemons = setup.plan.run_dir.join(AGENT);
    for _ in 0..2 {
        soon("a stream of the daemon's", vsock::connect(&daemons, 1024)).await.unwrap();
    }
    assert!(!waiting.is_finished());
    drop(sessions.pop());
    soon("the one that waited", waiting).await.unwrap().unwrap();
    shim.end().await.unwrap();
    soon("the end", shim.ended()).await;
}
