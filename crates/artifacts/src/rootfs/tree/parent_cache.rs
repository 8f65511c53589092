//! Cache of the directory of the previous entry: most entries follow one of the same directory, and resolving its path
//! costs more than the entry does.

use super::Index;

/// Directory an entry was put into, and the names that led there.
#[derive(Debug, Default)]
pub(super) struct ParentCache {
    /// Names that lead there, joined by slashes.
    path: Vec<u8>,
    directory: Option<Index>,
}

impl ParentCache {
    /// Returns the cached directory, if these names lead to it.
    pub(super) fn get(&self, names: &[&[u8]]) -> Option<Index> {
        self.directory.filter(|_| self.path.split(|&byte| byte == b'/').eq(names.iter().copied()))
    }

    pub(super) fn set(&mut self, names: &[&[u8]], directory: Index) {
        self.path.clear();
        for (n, name) in names.iter().enumerate() {
            if n > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
        }
        self.directory = Some(directory);
    }

    /// Forgets the directory: the same names may lead elsewhere from now on.
    pub(super) fn clear(&mut self) {
        self.directory = None;
    }
}
