//! Who writes what was gathered for the image, and hashes it while it is warm.
//!
//! It does so on a thread of its own: half of the time it takes to finish an image is writing, and painting the next
//! blocks need not wait for it.

use super::{
    block_layout::Run,
    tree_hash::{PIECE, TreeHash, hash},
};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
    thread::{Builder, Scope, ScopedJoinHandle},
};

/// Bytes of a sheet, which is written at once: whole pieces.
pub(super) const BUFFER: usize = 2 * PIECE;
/// Sheets that are full and wait.
const QUEUE: usize = 2;

/// What it is told, in order.
enum Task {
    /// These bytes belong to this place.
    Write { at: u64, bytes: Vec<u8> },
    /// Somebody else wrote these blocks.
    Changed(Run),
    /// Somebody else made these blocks a hole.
    Cleared(Run),
}

/// Writes sheets behind the back of whoever fills them.
#[derive(Debug)]
pub(super) struct WriteBehind<'scope> {
    tasks: SyncSender<Task>,
    empty: Receiver<Vec<u8>>,
    thread: Option<ScopedJoinHandle<'scope, io::Result<TreeHash>>>,
}

impl<'scope> WriteBehind<'scope> {
    /// Writes into `image`, of which `pieces` is known.
    pub(super) fn start(
        scope: &'scope Scope<'scope, '_>,
        image: &'scope File,
        mut pieces: TreeHash,
    ) -> io::Result<Self> {
        let (tasks, queue) = sync_channel(QUEUE);
        let (spent, empty) = channel();
        let work = move || {
            for task in queue {
                match task {
                    Task::Write { at, bytes } => {
                        image.write_all_at(&bytes, at)?;
                        note(&mut pieces, at, &bytes);
                        // Who fills them may have ended.
                        let _ = spent.send(bytes);
                    }
                    Task::Changed(run) => pieces.changed(run),
                    Task::Cleared(run) => pieces.cleared(run),
                }
            }
            Ok(pieces)
        };
        let thread = Builder::new().name("image".into()).spawn_scoped(scope, work)?;
        Ok(Self { tasks, empty, thread: Some(thread) })
    }

    /// These bytes belong to byte `at`; an empty sheet for the next.
    pub(super) fn write(&mut self, at: u64, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        self.tell(Task::Write { at, bytes })?;
        let mut sheet = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER));
        sheet.clear();
        Ok(sheet)
    }

    /// Blocks were written past it.
    pub(super) fn changed(&mut self, run: Run) -> io::Result<()> {
        self.tell(Task::Changed(run))
    }

    /// Blocks were made a hole.
    pub(super) fn cleared(&mut self, run: Run) -> io::Result<()> {
        self.tell(Task::Cleared(run))
    }

    /// Waits until all is written; what is known of the image now.
    pub(super) fn finish(self) -> io::Result<TreeHash> {
        let Self { tasks, thread, .. } = self;
        drop(tasks);
        joined(thread)
    }

    fn tell(&mut self, task: Task) -> io::Result<()> {
        match self.tasks.send(task) {
            Ok(()) => Ok(()),
            // It ended before it was told to, and knows why.
            Err(_) => Err(joined(self.thread.take()).err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())),
        }
    }
}

fn joined(thread: Option<ScopedJoinHandle<'_, io::Result<TreeHash>>>) -> io::Result<TreeHash> {
    let thread = thread.ok_or(io::ErrorKind::BrokenPipe)?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// TreeHash that are whole are hashed now, and those at the edges when everything is there.
fn note(pieces: &mut TreeHash, at: u64, bytes: &[u8]) {
    let missing = at.next_multiple_of(PIECE as u64) - at;
    let missing = usize::try_from(missing).map_or(bytes.len(), |missing| missing.min(bytes.len()));
    let (edge, rest) = bytes.split_at(missing);
    pieces.changed(Run::of_bytes(at, edge.len() as u64));
    let mut at = at + edge.len() as u64;
    for piece in rest.chunks(PIECE) {
        if piece.len() == PIECE {
            pieces.hashed(at, hash(at, piece));
        } else {
            pieces.changed(Run::of_bytes(at, piece.len() as u64));
        }
        at += piece.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn what_it_wrote_is_there_and_hashed_whatever_the_edges() {
        let image = tempfile::tempfile().unwrap();
        let mut expected = vec![0; 8 * PIECE];
        image.set_len(expected.len() as u64).unwrap();
        let mut known = TreeHash::default();
        known.hashed(4 * PIECE as u64, [1; 32]);
        known.hashed(7 * PIECE as u64, [1; 32]);
        let pieces = thread::scope(|scope| {
            let mut scribe = WriteBehind::start(scope, &image, known).unwrap();
            // A hole where something was, what others wrote, a whole piece, one and two halves, one that follows on the
            // half before.
            scribe.changed(Run::of_bytes(7 * PIECE as u64, 1)).unwrap();
            scribe.cleared(Run::of_bytes(4 * PIECE as u64, PIECE as u64 + 4096)).unwrap();
            let parts = [(0, PIECE), (3 * PIECE / 2, 2 * PIECE), (7 * PIECE / 2, 4096), (6 * PIECE + 4096, 10_000)];
            for (n, (at, len)) in parts.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..len).map(|byte| u8::try_from((byte * (n + 3)) % 253).unwrap()).collect();
                expected[at..at + len].copy_from_slice(&bytes);
                assert!(scribe.write(at as u64, bytes).unwrap().is_empty());
            }
            scribe.finish().unwrap()
        });
        assert_eq!(pieces.digest(&image, expected.len() as u64).unwrap(), *blake3::hash(&expected).as_bytes());
    }

    #[test]
    fn why_it_could_not_write_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, "").unwrap();
        let image = File::open(path).unwrap();
        thread::scope(|scope| {
            let mut scribe = WriteBehind::start(scope, &image, TreeHash::default()).unwrap();
            // The queue takes some before anybody knows.
            let told = (0..2 * QUEUE + 2).find_map(|_| scribe.write(0, vec![1; 10]).err());
            let error = told.unwrap_or_else(|| scribe.finish().unwrap_err());
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        });
    }
}
