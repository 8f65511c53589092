//! Entry points for fuzzing: arbitrary bytes in place of a guest's answers. The corpora are replayed through
//! them too. No other part of the daemon uses them.
//!
//! Each function panics when its input was not refused, bounded or escaped as the reader promises.

use crate::{
    network,
    vm::{MAX_GUEST_TEXT, QUOTED_LINE, QUOTED_LINES, agent_refusal, quoted},
};
use banger_proto::agent::http::{Health, Port, Stats};
use hyper::StatusCode;

/// An agent's responses to requests.
pub fn answers(data: &[u8]) {
    let _ = serde_json::from_slice::<Health>(data);
    let _ = serde_json::from_slice::<Stats>(data);
    let _ = serde_json::from_slice::<Vec<Port>>(data);
    let told = agent_refusal("/", StatusCode::INTERNAL_SERVER_ERROR, data);
    assert!(told.hints.is_empty() && told.operation.is_none(), "{told:?}");
    for cause in &told.causes {
        assert!(cause.chars().count() <= MAX_GUEST_TEXT, "{} characters", cause.len());
        assert!(!cause.contains(char::is_control), "{cause:?}");
    }
}

/// Console output of a guest: searched for a panic, and quoted.
pub fn console(data: &[u8]) {
    let lines = quoted(data);
    assert!(lines.len() <= QUOTED_LINES, "{} lines", lines.len());
    for line in lines.iter().chain(&banger_machine::fuzzing::panic_on(data)) {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(lines.iter().all(|line| line.chars().count() <= QUOTED_LINE), "{lines:?}");
}

/// A guest's query to the resolver, and the response of an outside resolver.
pub fn names(data: &[u8]) {
    network::read_as_any(data);
}
