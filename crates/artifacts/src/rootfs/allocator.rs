//! Who gets the next blocks of the image, of several layers that are read at once.
//!
//! The same layers have to give the same image whatever else the machine does, so blocks are dealt in turns: the layers
//! at work sit in a ring, each takes one hand when its turn comes, and one that has ended makes room for the next in
//! line. Where a byte lands follows from what is in the layers and from nothing else; how they are packed, and how fast
//! they come, only decides who waits for whom.

use super::{block_layout::Run, tree_hash::PIECE_BLOCKS};
use crate::job::{Cancel, Cancelled};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A layer's first hand has as many blocks as a piece, each one twice as many as that before, up to that many times.
const DOUBLED: u32 = 5;
/// How often somebody who waits looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(25);

/// The blocks of an image, as they are dealt to layers.
#[derive(Debug)]
pub(super) struct TurnAllocator {
    ring: Mutex<Turns>,
    turned: Condvar,
}

#[derive(Debug)]
struct Turns {
    /// Layers at work.
    seats: Vec<usize>,
    /// Whose turn it is.
    turn: usize,
    /// Layers that will be at work.
    line: VecDeque<usize>,
    ended: HashSet<usize>,
    hands: HashMap<usize, u32>,
    /// The first block nobody has, as [`super::block_layout`] counts them.
    next: u64,
}

impl TurnAllocator {
    /// Deals to these layers in this order, `seats` of them at once. As many have to be at work: a layer that is not
    /// read keeps all others waiting.
    pub(super) fn new(layers: impl IntoIterator<Item = usize>, seats: usize) -> Self {
        let mut line: VecDeque<usize> = layers.into_iter().collect();
        let seats = line.drain(..seats.min(line.len())).collect();
        let ring = Turns { seats, turn: 0, line, ended: HashSet::new(), hands: HashMap::new(), next: 0 };
        Self { ring: Mutex::new(ring), turned: Condvar::new() }
    }

    /// Waits for the layer's turn; the blocks it has now.
    pub(super) fn deal(&self, layer: usize, cancel: &Cancel) -> Result<Run, Cancelled> {
        let mut ring = self.ring();
        loop {
            ring.settle();
            if ring.seats.get(ring.turn) == Some(&layer) {
                let hands = ring.hands.entry(layer).or_default();
                let len = PIECE_BLOCKS << *hands;
                *hands = (*hands + 1).min(DOUBLED);
                let start = ring.next;
                ring.next += len;
                ring.turn = (ring.turn + 1) % ring.seats.len();
                self.turned.notify_all();
                return Ok(Run { start, len });
            }
            cancel.check()?;
            ring = self.turned.wait_timeout(ring, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The layer wants no more.
    pub(super) fn end(&self, layer: usize) {
        self.ring().ended.insert(layer);
        self.turned.notify_all();
    }

    /// How many blocks were dealt.
    pub(super) fn dealt(&self) -> u64 {
        self.ring().next
    }

    fn ring(&self) -> MutexGuard<'_, Turns> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    /// Gives the seats of those that have ended, as it becomes their turn, to the next in line.
    fn settle(&mut self) {
        while let Some(layer) = self.seats.get(self.turn)
            && self.ended.contains(layer)
        {
            if let Some(next) = self.line.pop_front() {
                self.seats[self.turn] = next;
                continue;
            }
            self.seats.remove(self.turn);
            if self.turn == self.seats.len() {
                self.turn = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

    /// What each layer gets that takes as many hands as it says, delayed by as many milliseconds.
    fn dealt(hands: &[(usize, u64)]) -> Vec<Vec<Run>> {
        let dealer = Arc::new(TurnAllocator::new(0..hands.len(), 3));
        let line = Arc::new(Mutex::new(0..hands.len()));
        let results = Arc::new(Mutex::new(vec![Vec::new(); hands.len()]));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let Some(layer) = line.lock().unwrap().next() else { return };
                        let (count, pause) = hands[layer];
                        for _ in 0..count {
                            thread::sleep(Duration::from_millis(pause));
                            let run = dealer.deal(layer, &Cancel::default()).unwrap();
                            results.lock().unwrap()[layer].push(run);
                        }
                        dealer.end(layer);
                    }
                });
            }
        });
        Arc::into_inner(results).unwrap().into_inner().unwrap()
    }

    #[test]
    fn what_a_layer_gets_does_not_depend_on_who_is_faster() {
        let counts = [4, 0, 1, 7, 2, 0, 3];
        let expected = dealt(&counts.map(|count| (count, 0)));
        for pauses in [[3, 0, 0, 0, 0, 0, 0], [0, 2, 4, 1, 0, 3, 0], [0, 0, 0, 0, 5, 0, 1]] {
            let hands: Vec<_> = counts.into_iter().zip(pauses).collect();
            assert_eq!(dealt(&hands), expected);
        }
        let mut all: Vec<Run> = expected.into_iter().flatten().collect();
        all.sort_by_key(|run| run.start);
        let mut next = 0;
        for run in all {
            assert_eq!(run.start, next, "no block is left out or given twice");
            next += run.len;
        }
    }

    #[test]
    fn who_waits_can_be_called_off() {
        let dealer = TurnAllocator::new(0..2, 2);
        let cancel = Cancel::default();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| dealer.deal(1, &cancel));
            cancel.cancel();
            assert!(waiting.join().unwrap().is_err());
        });
    }
}
