//! Files of which only the inode has to be written: their content is in the image, and its extents fit the inode.
//!
//! Nearly all files of a pulled image are like this. They allocate nothing, so two threads write half of them each.

use super::{
    block_groups::INODE,
    block_layout::BLOCK,
    error::RootfsError,
    extents::BlockMap,
    image::{blocks, segments},
    inode::{Body, Record},
    order::Order,
    spool::{IMAGE, Segment},
    tree::{Index, Kind, Tree},
    xattr,
};
use crate::job::Cancel;
use mkext4::spec::{file_type, iflags};
use std::{collections::HashSet, panic::resume_unwind, thread};

/// Writes the inodes of such files into `table` and returns all other files, in order. The content of those in
/// `needs_copy` belongs to another file.
pub(super) fn write(
    tree: &Tree,
    order: &Order,
    needs_copy: &HashSet<Index>,
    seed: u32,
    table: &mut [[u8; INODE]],
    cancel: &Cancel,
) -> Result<Vec<Index>, RootfsError> {
    let (first, second) = order.files.split_at(order.files.len() / 2);
    // Inode numbers follow the order of the files.
    let boundary = second.first().map_or(0, |&index| order.numbers[index as usize] as usize - 1);
    let (low, high) = table.split_at_mut(boundary);
    let write = |files: &[Index], table: &mut [[u8; INODE]], before: usize| {
        let mut rest = Vec::new();
        for &index in files {
            cancel.check()?;
            let number = order.numbers[index as usize];
            let is_in_place = !needs_copy.contains(&index);
            if !is_in_place || !write_inode(tree, order, index, seed, &mut table[number as usize - 1 - before])? {
                rest.push(index);
            }
        }
        Ok::<_, RootfsError>(rest)
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| write(second, high, boundary));
        let mut rest = write(first, low, 0)?;
        rest.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        Ok(rest)
    })
}

/// Writes the inode of a file and returns true, if only the inode has to be written.
fn write_inode(
    tree: &Tree,
    order: &Order,
    index: Index,
    seed: u32,
    raw: &mut [u8; INODE],
) -> Result<bool, RootfsError> {
    let inode = &tree.inodes[index as usize];
    let (Kind::File(Segment { len: size, .. }) | Kind::Sparse { len: size, .. }) = inode.kind else { return Ok(false) };
    let mut map = BlockMap::default();
    for (at, segment) in segments(&inode.kind) {
        if segment.source != IMAGE {
            return Ok(false);
        }
        let mut logical = at / BLOCK;
        for run in blocks(&segment) {
            map.push(logical, run);
            logical += run.len;
        }
    }
    let (attributes, block) = xattr::encode(&inode.meta.xattrs).map_err(|why| RootfsError::entry(b".", why))?;
    let (Some(root), None) = (map.inline_root(), block) else { return Ok(false) };
    let record = Record {
        number: order.numbers[index as usize],
        kind: file_type::REG,
        links: order.links[index as usize],
        meta: &inode.meta,
        size,
        body: &Body { flags: iflags::EXTENTS, block: root, blocks: map.blocks() },
        attributes,
        file_acl: 0,
    };
    record.write(seed, raw);
    Ok(true)
}
