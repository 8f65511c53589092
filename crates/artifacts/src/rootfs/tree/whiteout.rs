//! Removal of what lower layers put into a tree: whiteouts and opaque directories.

use super::{EntryError, Index, Kind, Tree};

impl Tree {
    /// Removes what lower layers have at `path`.
    pub(in crate::rootfs) fn whiteout(&mut self, path: &[&[u8]]) -> Result<(), EntryError> {
        let Some((name, parents)) = path.split_last() else { return Err(EntryError::Empty) };
        self.parent_cache.clear();
        if let Some(directory) = self.find_directory(parents)? {
            self.remove_lower(directory, name);
        }
        Ok(())
    }

    /// Removes what lower layers have in the directory at `path`.
    pub(in crate::rootfs) fn opaque(&mut self, path: &[&[u8]]) -> Result<(), EntryError> {
        self.parent_cache.clear();
        if let Some(directory) = self.find_directory(path)? {
            self.clear_lower(directory);
        }
        Ok(())
    }

    /// Removes `name`, or, if the current layer has entries in it, the rest of it.
    fn remove_lower(&mut self, directory: Index, name: &[u8]) {
        let Kind::Dir { children, .. } = &mut self.inodes[directory as usize].kind else { return };
        let Some(child) = children.get(name).copied() else { return };
        if child.layer < self.layer {
            children.remove(name);
            self.unlink(child.index);
        } else {
            self.clear_lower(child.index);
        }
    }

    /// Removes from a directory what is of lower layers, and keeps entries of the current layer with their parents.
    /// Whatever comes afterwards is of the current layer, so clearing once is enough: however often a layer removes the
    /// same, each name is looked at once.
    fn clear_lower(&mut self, directory: Index) {
        let layer = self.layer;
        let mut work = vec![directory];
        let mut gone = Vec::new();
        while let Some(directory) = work.pop() {
            let Kind::Dir { children, cleared_in, .. } = &mut self.inodes[directory as usize].kind else { continue };
            if *cleared_in == layer {
                continue;
            }
            *cleared_in = layer;
            // An entry of the current layer marks all its parents, so below an unmarked name there is none.
            children.retain(|_, child| {
                let stays = child.layer == layer;
                let list = if stays { &mut work } else { &mut gone };
                list.push(child.index);
                stays
            });
            gone.drain(..).for_each(|index| self.unlink(index));
        }
    }
}
