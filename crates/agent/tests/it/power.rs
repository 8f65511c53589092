//! Reports of how the guest goes down.

use crate::{Hosted, Options, client::command, on_one_thread};
use banger_proto::agent::event::{GuestEvent, Power};
use hyper::{Method, StatusCode};
use tokio::sync::watch;

#[test]
fn a_shutdown_is_reported_acknowledged_and_done() {
    on_one_thread(async {
        for (verb, expected) in [("poweroff", Power::Poweroff), ("reboot", Power::Reboot)] {
            let mut hosted = Hosted::start().await;
            let body = format!(r#"{{"verb":"{verb}","grace_ms":0}}"#);
            let (status, _) = hosted.agent.request(Method::POST, "/shutdown", body.clone()).await;
            assert_eq!(status, StatusCode::ACCEPTED);
            loop {
                match hosted.agent.events.recv().await.unwrap() {
                    GuestEvent::Power { verb, .. } => break assert_eq!(verb, expected),
                    GuestEvent::Ready(_) | GuestEvent::Booted { .. } | GuestEvent::Exec { .. } => {}
                    other @ GuestEvent::Trouble { .. } => panic!("{other:?}"),
                }
            }
            assert_eq!(hosted.exit_code().await, Some(0));
        }
    });
}

#[test]
fn a_host_that_does_not_acknowledge_is_not_waited_for_long() {
    on_one_thread(async {
        let never = watch::Sender::new(false).subscribe();
        let mut hosted = Hosted::start_with(Options { acknowledge: never, ..Options::default() }).await;
        hosted.agent.request(Method::POST, "/shutdown", r#"{"verb":"poweroff","grace_ms":0}"#).await;
        assert_eq!(hosted.exit_code().await, Some(0));
    });
}

/// Starts an agent whose report is acknowledged only when the sender says so, and which waits for that.
async fn patient() -> (Hosted, watch::Sender<bool>) {
    let (acknowledge, is_acknowledged) = watch::channel(false);
    let also = &["--acknowledgement-ms", "600000"];
    let options = Options { acknowledge: is_acknowledged, also, ..Options::default() };
    (Hosted::start_with(options).await, acknowledge)
}

#[test]
fn an_agent_serves_while_its_last_word_is_not_acknowledged() {
    on_one_thread(async {
        let (mut hosted, acknowledge) = patient().await;
        hosted.agent.request(Method::POST, "/shutdown", r#"{"verb":"poweroff","grace_ms":0}"#).await;
        while !matches!(hosted.agent.events.recv().await.unwrap(), GuestEvent::Power { .. }) {}
        assert_eq!(hosted.agent.run(&command(&["true"])).await.outcome.unwrap().code(), 0);
        acknowledge.send_replace(true);
        assert_eq!(hosted.exit_code().await, Some(0));
    });
}

#[test]
fn a_guest_that_reboots_is_powered_off_once_the_host_asks_for_it() {
    on_one_thread(async {
        use Power::{Poweroff, Reboot};
        // The last report counts.
        for (asked, said) in [(["reboot", "poweroff"], &[Reboot, Poweroff][..]), (["poweroff", "reboot"], &[Poweroff])]
        {
            // The host has not acknowledged the first report when the second comes.
            let (mut hosted, acknowledge) = patient().await;
            for verb in asked {
                let body = format!(r#"{{"verb":"{verb}","grace_ms":0}}"#);
                let (status, _) = hosted.agent.request(Method::POST, "/shutdown", body).await;
                assert_eq!(status, StatusCode::ACCEPTED);
            }
            acknowledge.send_replace(true);
            assert_eq!(hosted.exit_code().await, Some(0));
            let mut verbs = Vec::new();
            while let Some(event) = hosted.agent.events.recv().await {
                if let GuestEvent::Power { verb, .. } = event {
                    verbs.push(verb);
                }
            }
            assert_eq!(verbs, said, "{asked:?}");
        }
    });
}

#[test]
fn an_agent_whose_host_is_gone_ends() {
    on_one_thread(async {
        let mut hosted = Hosted::start().await;
        hosted.agent.driver.abort();
        assert_eq!(hosted.exit_code().await, Some(0));
    });
}
