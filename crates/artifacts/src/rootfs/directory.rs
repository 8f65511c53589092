//! Blocks of a directory: a list of names, or, if they do not fit one block, leaves in the order of the names' hashes
//! behind an index (htree).

use super::{block_layout::BLOCK_BYTES, error::RootfsError};
use mkext4::{
    csum,
    dirhash::{HashSeed, Signedness, half_md4},
    spec::{dirent, file_type, htree},
};

/// Size of the checksum record at the end of a block, in bytes.
const TAIL: usize = 12;
const USABLE: usize = BLOCK_BYTES - TAIL;
/// Size of all entries, in bytes, from which on there is an index: that of `e2fsck -D`.
const INDEXED: usize = BLOCK_BYTES - 24;
/// Version of the name hash, half MD4, and the size of the index's header.
const HASH_VERSION: u8 = 1;
const INFO: u8 = 8;

/// Name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) inode: u32,
    pub(super) kind: u8,
}

/// Encoded directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) blocks: Vec<Vec<u8>>,
    pub(super) indexed: bool,
}

impl Directory {
    /// Encodes the directory `inode` in the directory `parent`, with these names. `seed` is its checksum seed.
    pub(super) fn new(
        inode: u32,
        parent: u32,
        names: &[Name<'_>],
        hash: &HashSeed,
        seed: u32,
    ) -> Result<Self, RootfsError> {
        let dots = [
            Name { bytes: b".", inode, kind: file_type::DIR },
            Name { bytes: b"..", inode: parent, kind: file_type::DIR },
        ];
        let bytes: usize = names.iter().map(|name| dirent::rec_len_for(name.bytes.len())).sum();
        if bytes >= INDEXED {
            return Ok(Self { blocks: encode_indexed(inode, parent, names, hash, seed)?, indexed: true });
        }
        let all: Vec<Name<'_>> = dots.iter().chain(names).copied().collect();
        Ok(Self { blocks: split_into_blocks(&all).map(|names| encode_leaf(names, seed)).collect(), indexed: false })
    }

    /// Encodes `lost+found`, with empty blocks for names.
    pub(super) fn lost_found(inode: u32, parent: u32, blocks: usize, seed: u32) -> Result<Self, RootfsError> {
        let mut directory = Self::new(inode, parent, &[], &[0; 4], seed)?;
        directory.blocks.resize_with(blocks, || encode_leaf(&[], seed));
        Ok(directory)
    }
}

/// Splits names into groups that fit one block each.
fn split_into_blocks<'a, 'n>(mut names: &'a [Name<'n>]) -> impl Iterator<Item = &'a [Name<'n>]> {
    std::iter::from_fn(move || {
        let mut used = 0;
        let fit = names.iter().take_while(|name| {
            used += dirent::rec_len_for(name.bytes.len());
            used <= USABLE
        });
        let (now, rest) = names.split_at(fit.count());
        names = rest;
        (!now.is_empty()).then_some(now)
    })
}

/// Encodes a block of names.
fn encode_leaf(names: &[Name<'_>], seed: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = 0;
    for (number, name) in names.iter().enumerate() {
        let needed = dirent::rec_len_for(name.bytes.len());
        let len = if number + 1 == names.len() { USABLE - at } else { needed };
        record(&mut block[at..], name, len);
        at += len;
    }
    if names.is_empty() {
        put16(&mut block, 4, USABLE);
    }
    put16(&mut block, USABLE + 4, TAIL);
    block[USABLE + 7] = 0xDE;
    let sum = csum::dirent_block(seed, &block);
    block[BLOCK_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    block
}

fn record(field: &mut [u8], name: &Name<'_>, len: usize) {
    field[..4].copy_from_slice(&name.inode.to_le_bytes());
    put16(field, 4, len);
    field[6] = u8::try_from(name.bytes.len()).expect("names were checked");
    field[7] = name.kind;
    field[8..8 + name.bytes.len()].copy_from_slice(name.bytes);
}

/// Encodes the root of the index, the leaves, and a level of nodes between them if there are many.
fn encode_indexed(
    inode: u32,
    parent: u32,
    names: &[Name<'_>],
    hash: &HashSeed,
    seed: u32,
) -> Result<Vec<Vec<u8>>, RootfsError> {
    let mut hashed: Vec<((u32, u32), Name<'_>)> =
        names.iter().map(|name| (half_md4(hash, Signedness::Signed, name.bytes), *name)).collect();
    hashed.sort_by_key(|(hash, _)| *hash);
    let sorted: Vec<Name<'_>> = hashed.iter().map(|(_, name)| *name).collect();

    let mut blocks = vec![Vec::new()];
    let mut leaves = Vec::new();
    let mut before = 0;
    for names in split_into_blocks(&sorted) {
        let first = hashed[before].0.0;
        // The lowest bit means that the leaf before ends with the same hash.
        let goes_on = before > 0 && hashed[before - 1].0.0 == first;
        leaves.push((first | u32::from(goes_on), number(blocks.len())));
        blocks.push(encode_leaf(names, seed));
        before += names.len();
    }

    let (root_limit, node_limit) = (htree::root_limit(BLOCK_BYTES), htree::node_limit(BLOCK_BYTES));
    let mut levels = 0;
    let mut entries = leaves;
    if entries.len() > usize::from(root_limit) {
        levels = 1;
        let mut nodes = Vec::new();
        for children in entries.chunks(usize::from(node_limit)) {
            let mut node = vec![0; BLOCK_BYTES];
            // To readers without htree support it is a block without names.
            put16(&mut node, 4, BLOCK_BYTES);
            index(&mut node, htree::NODE_COUNT_OFFSET, node_limit, children, seed);
            nodes.push((children[0].0, number(blocks.len())));
            blocks.push(node);
        }
        entries = nodes;
    }
    if entries.len() > usize::from(root_limit) {
        return Err(RootfsError::DirectoryTooLarge(names.len()));
    }

    let mut root = vec![0; BLOCK_BYTES];
    record(&mut root, &Name { bytes: b".", inode, kind: file_type::DIR }, 12);
    record(&mut root[12..], &Name { bytes: b"..", inode: parent, kind: file_type::DIR }, USABLE);
    root[28] = HASH_VERSION;
    root[29] = INFO;
    root[30] = levels;
    index(&mut root, htree::ROOT_COUNT_OFFSET, root_limit, &entries, seed);
    blocks[0] = root;
    Ok(blocks)
}

/// Writes the entries of an index node, the first of which has no hash of its own, and its checksum.
fn index(node: &mut [u8], at: usize, limit: u16, entries: &[(u32, u32)], seed: u32) {
    for (field, (hash, block)) in node[at..].chunks_exact_mut(8).zip(entries) {
        field[..4].copy_from_slice(&hash.to_le_bytes());
        field[4..].copy_from_slice(&block.to_le_bytes());
    }
    let count = u16::try_from(entries.len()).expect("at most the limit");
    node[at..at + 2].copy_from_slice(&limit.to_le_bytes());
    node[at + 2..at + 4].copy_from_slice(&count.to_le_bytes());
    let sum = csum::dx_block(seed, node, at, count, limit);
    let tail = at + usize::from(limit) * 8 + 4;
    node[tail..tail + 4].copy_from_slice(&sum.to_le_bytes());
}

fn number(block: usize) -> u32 {
    u32::try_from(block).expect("a directory has fewer blocks")
}

fn put16(bytes: &mut [u8], at: usize, number: usize) {
    let number = u16::try_from(number).expect("lengths within a block");
    bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
}
