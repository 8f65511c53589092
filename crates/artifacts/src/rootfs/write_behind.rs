//! Write-behind buffer of an image: a thread that writes full buffers and hashes their pieces while they are in the
//! cache.
//!
//! It is a thread of its own because writing takes half of the time of finishing an image, and preparing the next
//! blocks need not wait for it.

use super::{
    block_layout::Run,
    tree_hash::{PIECE, TreeHash, hash},
    when_full::WhenFull,
};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
    thread::{Builder, Scope, ScopedJoinHandle},
};

/// Size of a buffer in bytes: whole pieces. A buffer is written at once.
pub(super) const BUFFER: usize = 2 * PIECE;
/// Upper bound of the full buffers that wait to be written.
const MAX_QUEUED: usize = 2;

/// Tasks of the thread, carried out in order.
enum Task {
    /// Bytes to write at byte `at`.
    Write { at: u64, bytes: Vec<u8> },
    /// Blocks that were written without this thread.
    Changed(Run),
    /// Blocks that were turned into a hole without this thread.
    Cleared(Run),
}

/// Handle of the thread. Dropping it without [`Self::finish`] leaves the rest to the thread's scope.
#[derive(Debug)]
pub(super) struct WriteBehind<'scope> {
    tasks: SyncSender<Task>,
    empty: Receiver<Vec<u8>>,
    thread: Option<ScopedJoinHandle<'scope, io::Result<TreeHash>>>,
}

impl<'scope> WriteBehind<'scope> {
    /// Starts the thread, which writes into `image`; `tree_hash` is what is known of its hashes.
    pub(super) fn start(
        scope: &'scope Scope<'scope, '_>,
        image: &'scope File,
        when_full: &'scope WhenFull,
        mut tree_hash: TreeHash,
    ) -> io::Result<Self> {
        let (tasks, queue) = sync_channel(MAX_QUEUED);
        let (written, empty) = channel();
        let work = move || {
            for task in queue {
                match task {
                    Task::Write { at, bytes } => {
                        when_full.fit(image, || image.write_all_at(&bytes, at))?;
                        record(&mut tree_hash, at, &bytes);
                        // The receiver may have been dropped.
                        let _ = written.send(bytes);
                    }
                    Task::Changed(run) => tree_hash.changed(run),
                    Task::Cleared(run) => tree_hash.cleared(run),
                }
            }
            Ok(tree_hash)
        };
        let thread = Builder::new().name("image".into()).spawn_scoped(scope, work)?;
        Ok(Self { tasks, empty, thread: Some(thread) })
    }

    /// Queues `bytes` to be written at byte `at` and returns an empty buffer for the next ones.
    pub(super) fn write(&mut self, at: u64, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        self.send(Task::Write { at, bytes })?;
        let mut buffer = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER));
        buffer.clear();
        Ok(buffer)
    }

    /// Reports blocks that were written without this thread.
    pub(super) fn changed(&mut self, run: Run) -> io::Result<()> {
        self.send(Task::Changed(run))
    }

    /// Reports blocks that were turned into a hole.
    pub(super) fn cleared(&mut self, run: Run) -> io::Result<()> {
        self.send(Task::Cleared(run))
    }

    /// Waits until everything is written and returns the hashes of the image.
    pub(super) fn finish(self) -> io::Result<TreeHash> {
        let Self { tasks, thread, .. } = self;
        drop(tasks);
        join(thread)
    }

    fn send(&mut self, task: Task) -> io::Result<()> {
        match self.tasks.send(task) {
            Ok(()) => Ok(()),
            // The thread ended early and knows why.
            Err(_) => Err(join(self.thread.take()).err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())),
        }
    }
}

fn join(thread: Option<ScopedJoinHandle<'_, io::Result<TreeHash>>>) -> io::Result<TreeHash> {
    let thread = thread.ok_or(io::ErrorKind::BrokenPipe)?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Hashes the whole pieces in `bytes` and marks those at the edges as changed, to be hashed when everything is there.
fn record(tree_hash: &mut TreeHash, at: u64, bytes: &[u8]) {
    let missing = at.next_multiple_of(PIECE as u64) - at;
    let missing = usize::try_from(missing).map_or(bytes.len(), |missing| missing.min(bytes.len()));
    let (edge, rest) = bytes.split_at(missing);
    tree_hash.changed(Run::of_bytes(at, edge.len() as u64));
    let mut at = at + edge.len() as u64;
    for piece in rest.chunks(PIECE) {
        if piece.len() == PIECE {
            tree_hash.hashed(at, hash(at, piece));
        } else {
            tree_hash.changed(Run::of_bytes(at, piece.len() as u64));
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
        let none = WhenFull::default();
        let tree_hash = thread::scope(|scope| {
            let mut writer = WriteBehind::start(scope, &image, &none, known).unwrap();
            // A hole over written blocks, foreign writes, a whole piece, one and two halves, and one that continues the
            // half before.
            writer.changed(Run::of_bytes(7 * PIECE as u64, 1)).unwrap();
            writer.cleared(Run::of_bytes(4 * PIECE as u64, PIECE as u64 + 4096)).unwrap();
            let parts = [(0, PIECE), (3 * PIECE / 2, 2 * PIECE), (7 * PIECE / 2, 4096), (6 * PIECE + 4096, 10_000)];
            for (n, (at, len)) in parts.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..len).map(|byte| u8::try_from((byte * (n + 3)) % 253).unwrap()).collect();
                expected[at..at + len].copy_from_slice(&bytes);
                assert!(writer.write(at as u64, bytes).unwrap().is_empty());
            }
            writer.finish().unwrap()
        });
        assert_eq!(tree_hash.digest(&image, expected.len() as u64).unwrap(), *blake3::hash(&expected).as_bytes());
    }

    #[test]
    fn a_write_error_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, "").unwrap();
        let image = File::open(path).unwrap();
        let none = WhenFull::default();
        thread::scope(|scope| {
            let mut writer = WriteBehind::start(scope, &image, &none, TreeHash::default()).unwrap();
            // The queue accepts a few before the failure is known.
            let failed = (0..2 * MAX_QUEUED + 2).find_map(|_| writer.write(0, vec![1; 10]).err());
            let error = failed.unwrap_or_else(|| writer.finish().unwrap_err());
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        });
    }
}
