//! The last word.

use crate::{Hosted, Options, client::command, on_one_thread};
use banger_proto::agent::event::{GuestEvent, Power};
use hyper::{Method, StatusCode};

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
                    GuestEvent::Power { verb } => break assert_eq!(verb, expected),
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
        let mut hosted = Hosted::start_with(Options { acknowledge: false, ..Options::default() }).await;
        hosted.agent.request(Method::POST, "/shutdown", r#"{"verb":"poweroff","grace_ms":0}"#).await;
        // It still serves while it waits.
        assert_eq!(hosted.agent.run(&command(&["true"])).await.outcome.unwrap().code(), 0);
        assert_eq!(hosted.exit_code().await, Some(0));
    });
}

#[test]
fn a_guest_on_its_way_down_takes_another_word_for_it_and_goes_down_once() {
    on_one_thread(async {
        let mut hosted = Hosted::start_with(Options { acknowledge: false, ..Options::default() }).await;
        for verb in ["reboot", "poweroff"] {
            let body = format!(r#"{{"verb":"{verb}","grace_ms":0}}"#);
            let (status, _) = hosted.agent.request(Method::POST, "/shutdown", body).await;
            assert_eq!(status, StatusCode::ACCEPTED);
        }
        assert_eq!(hosted.exit_code().await, Some(0));
        let mut verbs = Vec::new();
        while let Some(event) = hosted.agent.events.recv().await {
            verbs.extend(matches!(event, GuestEvent::Power { .. }).then_some(event));
        }
        assert_eq!(verbs, [GuestEvent::Power { verb: Power::Reboot }]);
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
