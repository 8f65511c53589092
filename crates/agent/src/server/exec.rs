//! `GET /exec`: one process over a WebSocket.
//!
//! ```text
//! upgrade → first message (the spec) → plan → spawn → pump → status → close 1000
//!                                                     └ client gone: HUP to the group, KILL to the cgroup 10 s later
//! ```
//!
//! The status follows everything that the command itself wrote. Processes that it leaves behind may hold its pipes
//! open; after [`LINGER`] of silence the status is sent nevertheless.

mod group;
mod plan;
mod session;
mod spawn;
mod terminal;

pub(super) use group::highest_taken;
pub(super) use plan::DEFAULT_PATH;

use super::{Context, body::Body, http::status};
use crate::boot;
use banger_link::Stream;
use banger_proto::{
    agent::exec::{CLOCK_HEADER, SUBPROTOCOL},
    failure::{Code, Failure},
};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper_util::rt::TokioIo;
use std::{rc::Rc, time::Duration};
use tokio::task::spawn_local;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Silence after which output pipes that other processes hold open count as ended.
const LINGER: Duration = Duration::from_millis(200);
/// Time between the group's HUP and the KILL of everything in its cgroup, after the client is gone.
const KILL_DELAY: Duration = Duration::from_secs(10);

/// Answers the WebSocket handshake; the session then runs on the stream.
pub(super) fn upgrade(context: Rc<Context>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let header = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let lists = |name: HeaderName, word: &str| {
        header(name).is_some_and(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(word)))
    };
    if !lists(UPGRADE, "websocket") || !lists(CONNECTION, "upgrade") || header(SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Failure::new(Code::Invalid, "exec wants a WebSocket (version 13)"));
    }
    if !lists(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(Failure::new(Code::Unsupported, format!("exec speaks the sub-protocol {SUBPROTOCOL} only")));
    }
    let accept = header(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let accept = accept.and_then(|accept| HeaderValue::try_from(accept).ok());
    let accept = accept.ok_or_else(|| Failure::new(Code::Invalid, "the WebSocket handshake has no key"))?;

    let asked_ms = boot::boottime_ms();
    let upgrade = hyper::upgrade::on(request);
    spawn_local(async move {
        if let Ok(upgraded) = upgrade.await
            && let Ok(parts) = upgraded.downcast::<TokioIo<Stream>>()
        {
            session::run(context, parts.io.into_inner(), parts.read_buf.to_vec(), asked_ms).await;
        }
    });
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    headers.insert(CLOCK_HEADER, HeaderValue::from(boot::clock_ns()));
    Ok(response)
}
