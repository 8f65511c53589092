//! Where the entry before was put: most entries follow on one of the same directory, and the way there costs more than
//! the entry does.

use super::Index;

/// The directory an entry was put in, and by which names.
#[derive(Debug, Default)]
pub(super) struct ParentCache {
    /// The names that lead there, with a slash between two.
    path: Vec<u8>,
    directory: Option<Index>,
}

impl ParentCache {
    /// The directory at these names, if it is that one.
    pub(super) fn at(&self, names: &[&[u8]]) -> Option<Index> {
        self.directory.filter(|_| self.path.split(|&byte| byte == b'/').eq(names.iter().copied()))
    }

    pub(super) fn note(&mut self, names: &[&[u8]], directory: Index) {
        self.path.clear();
        for (n, name) in names.iter().enumerate() {
            if n > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
        }
        self.directory = Some(directory);
    }

    /// Names may lead elsewhere from now on.
    pub(super) fn forget(&mut self) {
        self.directory = None;
    }
}
