//! Talks to an agent from the host, by hand: `drive SOCKET [WORD…]`, where SOCKET is the VMM's end of the channel.
//!
//! ```text
//! ready | booted | power       wait for that announcement and print it
//! exec:SCRIPT                  run a shell script, print its output and status
//! get:PATH                     a GET request, printed
//! poweroff | reboot            POST /shutdown
//! end                          wait until the channel ends
//! ```
#![expect(unreachable_pub, reason = "shared with the tests, where nothing is public")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for a person at a terminal")]

#[path = "../tests/it/client.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod client;

use banger_proto::agent::event::GuestEvent;
use client::{Agent, shell};
use hyper::Method;
use std::time::Instant;
use tokio::{net::UnixStream, sync::watch};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let start = Instant::now();
    let mut words = std::env::args().skip(1);
    let socket = words.next().expect("usage: drive SOCKET [WORD…]");
    let mut agent =
        Agent::connect(UnixStream::connect(socket).await.unwrap(), watch::Sender::new(true).subscribe()).await;
    for word in words {
        let (verb, rest) = word.split_once(':').unwrap_or((&word, ""));
        match verb {
            "ready" | "booted" | "power" => loop {
                let event = agent.events.recv().await.expect("the announcements ended");
                let at = start.elapsed().as_millis();
                println!("{at} ms {}", serde_json::to_string(&event).unwrap());
                let found = match event {
                    GuestEvent::Ready(_) => "ready",
                    GuestEvent::Booted { .. } => "booted",
                    GuestEvent::Power { .. } => "power",
                    GuestEvent::Trouble { .. } => "trouble",
                    GuestEvent::Exec { .. } => "exec",
                };
                if found == verb {
                    break;
                }
            },
            "exec" => {
                let ran = agent.run(&shell(rest)).await;
                let at = start.elapsed().as_millis();
                println!("{at} ms {:?}", ran.outcome);
                println!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
            }
            "get" => {
                let (status, body) = agent.request(Method::GET, rest, "").await;
                println!("{status} {}", String::from_utf8_lossy(&body));
            }
            "poweroff" | "reboot" => {
                let body = format!(r#"{{"verb":"{verb}","grace_ms":2000}}"#);
                println!("{:?}", agent.request(Method::POST, "/shutdown", body).await);
            }
            "end" => {
                let ended = (&mut agent.driver).await.unwrap();
                println!("{} ms {ended}", start.elapsed().as_millis());
            }
            other => panic!("{other:?} is no word"),
        }
    }
}
