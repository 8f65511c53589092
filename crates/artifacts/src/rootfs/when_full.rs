//! What is done when the disk is full while an image is written: somebody may free room, and the write is tried again.

use crate::publish::is_full;
use std::{fmt, fs::File, io, sync::Arc};

/// Frees room on the file system of an image, and returns whether there was anything to free.
type MakeRoom = dyn Fn(&File) -> bool + Send + Sync;

/// Source of room for an image; the default has none.
#[derive(Clone, Default)]
pub struct WhenFull(Option<Arc<MakeRoom>>);

impl WhenFull {
    /// Calls `make_room` with the image when the disk is full, until it returns false.
    pub fn new(make_room: impl Fn(&File) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(make_room)))
    }

    /// Runs `write`, which may be repeated, until it fits or nothing more can be freed.
    pub(super) fn fit(&self, image: &File, mut write: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        loop {
            match write() {
                Err(error) if is_full(&error) && self.0.as_ref().is_some_and(|make_room| make_room(image)) => {}
                done => return done,
            }
        }
    }
}

impl fmt::Debug for WhenFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WhenFull").field(&self.0.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_write_is_repeated_as_long_as_room_is_made() {
        let (image, room) = (tempfile::tempfile().unwrap(), Arc::new(AtomicU32::new(0)));
        let made = room.clone();
        let when_full = WhenFull::new(move |_| made.fetch_add(1, Ordering::SeqCst) < 2);
        let full = || Err(io::ErrorKind::StorageFull.into());
        when_full.fit(&image, || if room.load(Ordering::SeqCst) < 2 { full() } else { Ok(()) }).unwrap();
        assert_eq!(when_full.fit(&image, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        let broken = || Err(io::ErrorKind::BrokenPipe.into());
        assert_eq!(when_full.fit(&image, broken).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(room.load(Ordering::SeqCst), 3, "only where that helps");
    }
}
