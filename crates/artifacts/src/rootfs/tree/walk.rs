//! Path resolution in a tree: names to inodes, with or without symbolic links, and missing parent directories.

use super::{EntryError, Index, Inode, Kind, LOST_FOUND, ROOT, Tree, implied_directory, quoted};

/// Upper bound of the links followed on the way to one file, as in the kernel.
const MAX_LINKS_FOLLOWED: u32 = 40;
/// Upper bound of the total length of the link targets that all paths together follow, in bytes. A million paths that
/// each follow a hundred bytes are far below it.
pub(super) const MAX_LINK_BYTES: u64 = 256 << 20;
/// Longest name in bytes; names in paths were checked, those in link targets were not.
const MAX_NAME: usize = 255;

impl Tree {
    /// Returns the inode at `path`, without following links.
    pub(in crate::rootfs) fn find(&self, path: &[&[u8]]) -> Option<Index> {
        path.iter().try_fold(ROOT, |dir, name| self.child(dir, name))
    }

    /// Returns the inode that a hard link to `path` names: a link at its end is not followed.
    pub(super) fn find_link_target(&mut self, path: &[&[u8]]) -> Result<Option<Index>, EntryError> {
        let Some((name, parents)) = path.split_last() else { return Ok(Some(ROOT)) };
        Ok(self.find_directory(parents)?.and_then(|directory| self.child(directory, name)))
    }

    /// Returns the directory at `path`, if it is one: through links in a tree of layers, else without.
    pub(super) fn find_directory(&mut self, path: &[&[u8]]) -> Result<Option<Index>, EntryError> {
        let index = if self.layer == 0 {
            self.find(path)
        } else {
            let mut link_bytes = 0;
            let index = self.follow(&path.join(&b'/'), &mut link_bytes);
            self.count_link_bytes(link_bytes)?;
            index
        };
        Ok(index.filter(|&index| self.is_dir(index)))
    }

    /// Returns the inode at `path` as a process in the image would see it: links followed, `..` stopping at the root.
    pub(in crate::rootfs) fn resolve(&self, path: &[u8]) -> Option<Index> {
        self.follow(path, &mut 0)
    }

    /// Resolves `path` like [`Self::resolve`], and adds the length of the followed link targets to `link_bytes`.
    fn follow(&self, path: &[u8], link_bytes: &mut u64) -> Option<Index> {
        let mut at = vec![ROOT];
        let mut rest: Vec<&[u8]> = path.rsplit(|&byte| byte == b'/').collect();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let dir = *at.last()?;
            match name {
                b"" | b"." => {}
                b".." => at.truncate((at.len() - 1).max(1)),
                _ => {
                    let index = self.child(dir, name)?;
                    if let Kind::Symlink(target) = &self.inodes[index as usize].kind {
                        links += 1;
                        *link_bytes += target.len() as u64;
                        if links > MAX_LINKS_FOLLOWED {
                            return None;
                        }
                        if target.starts_with(b"/") {
                            at.truncate(1);
                        }
                        rest.extend(target.rsplit(|&byte| byte == b'/'));
                    } else {
                        at.push(index);
                    }
                }
            }
        }
        at.pop()
    }

    /// Counts the length of followed link targets against the limit. One target may have 4,095 bytes, a path may lead
    /// through 40, and there are millions of paths.
    fn count_link_bytes(&mut self, link_bytes: u64) -> Result<(), EntryError> {
        self.link_bytes += link_bytes;
        if self.link_bytes > MAX_LINK_BYTES { Err(EntryError::LinkSteps) } else { Ok(()) }
    }

    /// Returns the directory that holds the last component of `path` and creates missing directories on the way.
    pub(super) fn make_parent(&mut self, path: &[&[u8]]) -> Result<Index, EntryError> {
        if path.first() == Some(&LOST_FOUND) {
            return Err(EntryError::Reserved);
        }
        let parents = &path[..path.len().saturating_sub(1)];
        if let Some(directory) = self.parent_cache.get(parents) {
            return Ok(directory);
        }
        let directory =
            if self.layer > 0 { self.make_parent_through_links(parents) } else { self.make_parent_by_names(parents) }?;
        self.parent_cache.set(parents, directory);
        Ok(directory)
    }

    fn make_parent_by_names(&mut self, parents: &[&[u8]]) -> Result<Index, EntryError> {
        let mut dir = ROOT;
        for (depth, name) in parents.iter().enumerate() {
            dir = match self.child(dir, name) {
                Some(index) if self.is_dir(index) => index,
                Some(_) => return Err(EntryError::NotADirectory(quoted(&parents[..=depth].join(&b'/')))),
                None => {
                    let Inode { kind, meta, .. } = implied_directory(self.layer);
                    self.insert(dir, name, kind, meta)?
                }
            };
        }
        Ok(dir)
    }

    /// Returns the directory at these names, if all of them are directories already, as most are.
    fn existing_parent(&mut self, names: &[&[u8]]) -> Option<Index> {
        let mut directory = ROOT;
        for name in names {
            let Kind::Dir { children, .. } = &self.inodes[directory as usize].kind else { return None };
            let child = *children.get(*name)?;
            if !self.is_dir(child.index) {
                return None;
            }
            if child.layer != self.layer {
                self.mark_name(directory, name);
            }
            directory = child.index;
        }
        Some(directory)
    }

    /// Returns the directory at these names, following the tree's links, and creates missing ones; `..` in a link stops
    /// at the root.
    fn make_parent_through_links(&mut self, parents: &[&[u8]]) -> Result<Index, EntryError> {
        if let Some(directory) = self.existing_parent(parents) {
            return Ok(directory);
        }
        let mut at = vec![ROOT];
        let mut rest: Vec<Vec<u8>> = parents.iter().rev().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let dir = *at.last().expect("the root stays");
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.truncate((at.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            let Some(index) = self.child(dir, &name) else {
                if name.len() > MAX_NAME {
                    return Err(EntryError::NameTooLong(name.len()));
                }
                let Inode { kind, meta, .. } = implied_directory(self.layer);
                at.push(self.insert(dir, &name, kind, meta)?);
                continue;
            };
            match &self.inodes[index as usize].kind {
                Kind::Dir { .. } => {
                    self.mark_name(dir, &name);
                    at.push(index);
                }
                Kind::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS_FOLLOWED {
                        return Err(EntryError::LinkLoop(quoted(&parents.join(&b'/'))));
                    }
                    if target.starts_with(b"/") {
                        at.truncate(1);
                    }
                    let link_bytes = target.len() as u64;
                    rest.extend(target.rsplit(|&byte| byte == b'/').map(<[u8]>::to_vec));
                    self.count_link_bytes(link_bytes)?;
                }
                _ => return Err(EntryError::NotADirectory(quoted(&parents.join(&b'/')))),
            }
        }
        Ok(at.pop().expect("the root stays"))
    }
}
