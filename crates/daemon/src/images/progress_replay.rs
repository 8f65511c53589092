//! What was said of a pull so far, for who joins it later.
//!
//! Whoever comes in the middle hears the phase, what was worth a word, and of each layer what became of it and in which
//! order, as if it had been there from the beginning.

use crate::operation::Operation;
use banger_artifacts::job::{Part, PartState, Progress as _};
use std::collections::VecDeque;

/// Most notices that are kept; the oldest go. A server that stumbles over and over has one for each time.
const NOTICES: usize = 64;

/// What there is to say again.
#[derive(Debug, Default)]
pub(super) struct ProgressReplay {
    phase: Option<String>,
    notices: VecDeque<String>,
    /// Each layer in each state it was in, with how far it was last.
    parts: Vec<(String, PartState, u64, u64)>,
}

impl ProgressReplay {
    /// A new phase began.
    pub(super) fn phase(&mut self, what: &str) {
        self.phase = Some(what.to_owned());
    }

    /// There was something worth saying.
    pub(super) fn notice(&mut self, text: &str) {
        if self.notices.len() == NOTICES {
            self.notices.pop_front();
        }
        self.notices.push_back(text.to_owned());
    }

    /// A layer is so far.
    pub(super) fn part(&mut self, part: &Part<'_>) {
        let Part { name, state, done, total } = *part;
        // What waits has not begun, or begins anew.
        if state == PartState::Waiting {
            self.parts.retain(|(known, ..)| known != name);
        }
        match self.parts.iter_mut().rev().find(|(known, was, ..)| known == name && *was == state) {
            Some(known) => (known.2, known.3) = (done, total),
            None => self.parts.push((name.to_owned(), state, done, total)),
        }
    }

    /// Says it to one who was not there.
    pub(super) fn replay_to(&self, operation: &Operation) {
        if let Some(phase) = &self.phase {
            operation.begin(phase.clone());
        }
        self.notices.iter().for_each(|text| operation.notice(text.clone()));
        for (name, state, done, total) in &self.parts {
            let part = |done| operation.part(&Part { name, state: *state, done, total: *total });
            // That it began is never passed over.
            if *state != PartState::Done && *done > 0 {
                part(0);
            }
            part(*done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_a_layer_that_begins_anew_has_not_ended() {
        let mut replay = ProgressReplay::default();
        let mut part = |state, done| replay.part(&Part { name: "a", state, done, total: 9 });
        part(PartState::Waiting, 0);
        (0..1000).for_each(|done| part(PartState::Cached, done));
        part(PartState::Done, 9);
        part(PartState::Waiting, 0);
        part(PartState::Coming, 3);
        let states: Vec<_> = replay.parts.iter().map(|(_, state, done, _)| (*state, *done)).collect();
        assert_eq!(states, [(PartState::Waiting, 0), (PartState::Coming, 3)]);
        (0..1000).for_each(|number| replay.notice(&number.to_string()));
        assert_eq!((replay.notices.len(), replay.notices.back().unwrap().as_str()), (NOTICES, "999"));
    }
}
