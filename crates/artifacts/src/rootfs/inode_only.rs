//! Files whose inode is all that is written of them: their contents are in the image, and what maps these fits in the inode.
//!
//! Nearly all files of a pulled image are like this. They need nothing of what is still to be given out, so half of them
//! are written behind the back of the other half.

use super::{
    block_groups::INODE,
    block_layout::BLOCK,
    error::RootfsError,
    extents::Map,
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

/// Writes their inodes into the table; all other files, in their order. Contents of those in `elsewhere` belong to another.
pub(super) fn write(
    tree: &Tree,
    order: &Order,
    elsewhere: &HashSet<Index>,
    seed: u32,
    table: &mut [[u8; INODE]],
    cancel: &Cancel,
) -> Result<Vec<Index>, RootfsError> {
    let (first, second) = order.files.split_at(order.files.len() / 2);
    // Files have their numbers in their order.
    let boundary = second.first().map_or(0, |&index| order.numbers[index as usize] as usize - 1);
    let (low, high) = table.split_at_mut(boundary);
    let write = |files: &[Index], table: &mut [[u8; INODE]], before: usize| {
        let mut rest = Vec::new();
        for &index in files {
            cancel.check()?;
            let number = order.numbers[index as usize];
            let is_placed = !elsewhere.contains(&index);
            if !is_placed || !one(tree, order, index, seed, &mut table[number as usize - 1 - before])? {
                rest.push(index);
            }
        }
        Ok::<_, RootfsError>(rest)
    };
    thread::scope(|scope| {
        let behind = scope.spawn(|| write(second, high, boundary));
        let mut rest = write(first, low, 0)?;
        rest.extend(behind.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        Ok(rest)
    })
}

/// Writes the inode of a file, if it is one of them.
fn one(tree: &Tree, order: &Order, index: Index, seed: u32, raw: &mut [u8; INODE]) -> Result<bool, RootfsError> {
    let inode = &tree.inodes[index as usize];
    let (Kind::File(Segment { len: size, .. }) | Kind::Sparse { len: size, .. }) = inode.kind else { return Ok(false) };
    let mut map = Map::default();
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
    let (attributes, block) = xattr::written(&inode.meta.xattrs).map_err(|why| RootfsError::entry(b".", why))?;
    let (Some(root), None) = (map.root(), block) else { return Ok(false) };
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
