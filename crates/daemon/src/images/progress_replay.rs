//! Progress of a pull so far, replayed to an operation that joins later.
//!
//! The newcomer gets the phase, the notices, and for each layer the states it went through in order, as if it had
//! watched from the beginning.

use crate::operation::Operation;
use banger_artifacts::job::{Part, PartState, Progress as _};
use std::collections::VecDeque;

/// Most notices kept; the oldest are dropped. A server that fails over and over causes one each time.
const NOTICES: usize = 64;

/// Progress to replay.
#[derive(Debug, Default)]
pub(super) struct ProgressReplay {
    phase: Option<String>,
    notices: VecDeque<String>,
    /// Every state each layer was in, with its last progress there.
    parts: Vec<(String, PartState, u64, u64)>,
}

impl ProgressReplay {
    /// Records a new phase.
    pub(super) fn phase(&mut self, what: &str) {
        self.phase = Some(what.to_owned());
    }

    /// Records a notice.
    pub(super) fn notice(&mut self, text: &str) {
        if self.notices.len() == NOTICES {
            self.notices.pop_front();
        }
        self.notices.push_back(text.to_owned());
    }

    /// Records the progress of a layer.
    pub(super) fn part(&mut self, part: &Part<'_>) {
        let Part { name, state, done, total } = *part;
        // A waiting layer has not begun yet, or begins again.
        if state == PartState::Waiting {
            self.parts.retain(|(known, ..)| known != name);
        }
        match self.parts.iter_mut().rev().find(|(known, was, ..)| known == name && *was == state) {
            Some(known) => (known.2, known.3) = (done, total),
            None => self.parts.push((name.to_owned(), state, done, total)),
        }
    }

    /// Replays everything to an operation that was not there.
    pub(super) fn replay_to(&self, operation: &Operation) {
        if let Some(phase) = &self.phase {
            operation.begin(phase.clone());
        }
        self.notices.iter().for_each(|text| operation.notice(text.clone()));
        for (name, state, done, total) in &self.parts {
            let part = |done| operation.part(&Part { name, state: *state, done, total: *total });
            // The beginning of a layer is never skipped.
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
