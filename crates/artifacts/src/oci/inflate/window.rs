//! Sliding window: the bytes decompressed before the current buffer, which a match may refer to.

/// Longest distance of a match, in bytes.
const SIZE: usize = 32 << 10;

/// Last bytes decompressed into earlier buffers.
pub(super) struct Window {
    /// Bytes of the window, aligned to its end.
    window: Box<[u8]>,
    /// Number of valid bytes.
    len: usize,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { window: vec![0; SIZE].into(), len: 0 }
    }

    /// Empties the window for another stream.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends decompressed bytes.
    pub(super) fn push(&mut self, out: &[u8]) {
        let new = out.len().min(SIZE);
        self.window.copy_within(new.., 0);
        self.window[SIZE - new..].copy_from_slice(&out[out.len() - new..]);
        self.len = SIZE.min(self.len + new);
    }

    /// Copies a match to `out[at..end]` from `distance` bytes before, which may be before the buffer.
    pub(super) fn copy(&self, out: &mut [u8], at: usize, end: usize, distance: usize) -> Result<(), &'static str> {
        if distance > at + self.len {
            return Err("a match from before the beginning");
        }
        let mut at = at;
        if distance > at {
            let from = SIZE - (distance - at);
            let len = (end - at).min(SIZE - from);
            out[at..at + len].copy_from_slice(&self.window[from..from + len]);
            at += len;
        }
        while at < end {
            // The match overlaps itself: what is there so far repeats.
            let len = distance.min(end - at);
            out.copy_within(at - distance..at - distance + len, at);
            at += len;
        }
        Ok(())
    }
}
