//! What came out before the buffer at hand: a match may begin there.

/// How far back a match may reach.
const WINDOW: usize = 32 << 10;

/// The end of what came out in earlier buffers.
pub(super) struct Past {
    /// Its last byte is the last.
    window: Box<[u8]>,
    /// How much of it there is.
    len: usize,
}

impl Past {
    pub(super) fn new() -> Self {
        Self { window: vec![0; WINDOW].into(), len: 0 }
    }

    /// Another stream begins.
    pub(super) fn forget(&mut self) {
        self.len = 0;
    }

    /// These bytes came out.
    pub(super) fn keep(&mut self, out: &[u8]) {
        let new = out.len().min(WINDOW);
        self.window.copy_within(new.., 0);
        self.window[WINDOW - new..].copy_from_slice(&out[out.len() - new..]);
        self.len = WINDOW.min(self.len + new);
    }

    /// Writes `out[at..end]`: what is `distance` before each byte of it, which may be before the buffer.
    pub(super) fn copy(&self, out: &mut [u8], at: usize, end: usize, distance: usize) -> Result<(), &'static str> {
        if distance > at + self.len {
            return Err("a match from before the beginning");
        }
        let mut at = at;
        if distance > at {
            let from = WINDOW - (distance - at);
            let len = (end - at).min(WINDOW - from);
            out[at..at + len].copy_from_slice(&self.window[from..from + len]);
            at += len;
        }
        while at < end {
            // What there is of it so far repeats.
            let len = distance.min(end - at);
            out.copy_within(at - distance..at - distance + len, at);
            at += len;
        }
        Ok(())
    }
}
