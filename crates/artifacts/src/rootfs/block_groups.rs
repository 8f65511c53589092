//! What every ext4 has: superblock and copies, group descriptors, bitmaps, inode tables, a journal.

use super::{
    batch_writer::BatchWriter,
    block_layout::{
        BLOCK, BLOCK_BYTES, BLOCKS_PER_GROUP, DESCRIPTORS_PER_BLOCK, MAX_BYTES, MAX_GROUPS, RESERVED, Run,
        groups_with_superblock,
    },
    error::RootfsError,
    space::Space,
};
use mkext4::{
    csum,
    spec::{GroupDesc, JournalSuperblock, LINK_MAX, Superblock, bg_flags, compat, file_type, incompat, ro_compat},
};

/// Bytes of an inode, and inodes in a block.
pub(super) const INODE: usize = 256;
const INODES_PER_BLOCK: u64 = BLOCK / INODE as u64;
/// Most inodes of a group: its bitmap is one block.
const INODES_PER_GROUP: u64 = 32_768;
/// Blocks of the journal: the smallest the kernel accepts. It stays empty and, being zeros, takes no room on disk.
pub(super) const JOURNAL: u64 = 1024;
/// An image has at least as many blocks, four times its journal.
const MIN_BLOCKS: u64 = 4 * JOURNAL;
/// Blocks the last group has at least, where it has fewer than all.
const LAST_GROUP: u64 = 2 * RESERVED;
/// Groups that are spoken of together, as a power of two.
const LOG_GROUPS_PER_FLEX: u8 = 4;
/// Inodes with a purpose of their own.
pub(super) const JOURNAL_INODE: u32 = 8;
pub(super) const LOST_FOUND_INODE: u32 = 11;
/// The file type in a mode, by the kind in a directory's record.
const MODES: [u8; 8] = [0, 0o10, 0o04, 0o02, 0o06, 0o01, 0o14, 0o12];

/// How an image is divided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BlockGroups {
    blocks: u64,
    inodes_per_group: u64,
    /// For each group the blocks of its bitmaps, of blocks and of inodes, and the first of its table.
    groups: Vec<[u64; 3]>,
}

/// What is in it.
pub(super) struct GroupContents<'a> {
    pub(super) uuid: [u8; 16],
    pub(super) hash_seed: [u32; 4],
    pub(super) label: &'a str,
    pub(super) epoch: u32,
    /// Every inode, in the order of their numbers; the first has the number 1.
    pub(super) inodes: &'a [[u8; INODE]],
    /// The first block of the journal.
    pub(super) journal: u64,
}

impl BlockGroups {
    /// Takes the last blocks of an image with so many inodes: how many there are follows from how many groups there
    /// are, and the other way round.
    pub(super) fn new(space: &mut Space, inodes: u64) -> Result<Self, RootfsError> {
        let mut groups = inodes.div_ceil(INODES_PER_GROUP).max(space.end().div_ceil(BLOCKS_PER_GROUP)).max(1);
        loop {
            if groups > MAX_GROUPS {
                return Err(RootfsError::TooManyBytes(MAX_BYTES));
            }
            let mut tried = space.clone();
            let frame = Self::tried(&mut tried, groups, inodes);
            let needed = frame.blocks.div_ceil(BLOCKS_PER_GROUP);
            if needed <= groups {
                *space = tried;
                return Ok(frame);
            }
            groups = needed;
        }
    }

    fn tried(space: &mut Space, groups: u64, inodes: u64) -> Self {
        let inodes_per_group = inodes.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
        let mut places: Vec<[u64; 3]> = (0..groups).map(|_| [space.one(), 0, 0]).collect();
        for place in &mut places {
            place[1] = space.one();
        }
        for place in &mut places {
            place[2] = space.in_a_row(inodes_per_group / INODES_PER_BLOCK);
        }
        let blocks = space.end().max(MIN_BLOCKS).max((groups - 1) * BLOCKS_PER_GROUP + 1);
        let last = blocks % BLOCKS_PER_GROUP;
        let short = if last == 0 { 0 } else { LAST_GROUP.saturating_sub(last) };
        Self { blocks: blocks + short, inodes_per_group, groups: places }
    }

    /// Bytes of the image.
    pub(super) fn len(&self) -> u64 {
        self.blocks * BLOCK
    }

    fn count(&self) -> u64 {
        self.groups.len() as u64
    }

    /// Blocks of a superblock with the descriptors behind it.
    fn head(&self) -> u64 {
        1 + self.count().div_ceil(DESCRIPTORS_PER_BLOCK)
    }

    fn copies(&self) -> impl Iterator<Item = u64> {
        groups_with_superblock(self.count())
    }

    /// Writes it.
    pub(super) fn write(
        &self,
        picture: &GroupContents<'_>,
        space: &mut Space,
        filler: &mut BatchWriter<'_>,
    ) -> Result<(), RootfsError> {
        let failed = || RootfsError::io("write the image");
        for group in self.copies() {
            space.mark(Run { start: group * BLOCKS_PER_GROUP, len: self.head() });
        }
        let mut descriptors = vec![0; usize::try_from((self.head() - 1) * BLOCK).expect("a few blocks")];
        let mut free = 0;
        for (group, bytes) in (0..self.count()).zip(descriptors.chunks_exact_mut(32)) {
            free += self.group(group, picture, space, filler, bytes).map_err(failed())?;
        }
        let mut journal = vec![0; BLOCK_BYTES];
        journal_superblock(picture).encode(&mut journal);
        filler.put(picture.journal, &journal).map_err(failed())?;
        let superblock = self.superblock(picture, free);
        for group in self.copies() {
            let block = encoded(&superblock, group);
            filler.put(group * BLOCKS_PER_GROUP, &block).map_err(failed())?;
            filler.put(group * BLOCKS_PER_GROUP + 1, &descriptors).map_err(failed())?;
        }
        Ok(())
    }

    /// Writes bitmaps and table of a group, and describes it. How many of its blocks are free.
    fn group(
        &self,
        group: u64,
        picture: &GroupContents<'_>,
        space: &Space,
        filler: &mut BatchWriter<'_>,
        descriptor: &mut [u8],
    ) -> std::io::Result<u64> {
        let seed = csum::fs_seed(&picture.uuid);
        let [block_bitmap, inode_bitmap, inode_table] = self.groups[small(group)];
        let (blocks, free) = space.bitmap(group, (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP));
        filler.put(block_bitmap, &blocks)?;

        let per_group = small(self.inodes_per_group);
        let inodes = picture.inodes.chunks(per_group).nth(small(group)).unwrap_or_default();
        let mut used = vec![0_u8; BLOCK_BYTES];
        let is_used = |n: &usize| *n < inodes.len() || *n >= per_group;
        (0..used.len() * 8).filter(is_used).for_each(|n| used[n / 8] |= 1 << (n % 8));
        if !inodes.is_empty() {
            filler.put(inode_bitmap, &used)?;
            filler.put(inode_table, inodes.as_flattened())?;
        }
        let directories = inodes.iter().filter(|inode| inode[1] >> 4 == MODES[usize::from(file_type::DIR)]).count();
        let inodes_per_group = word(self.inodes_per_group);
        let unused = word((per_group - inodes.len()) as u64);
        let (flags, sum) = if inodes.is_empty() {
            (bg_flags::INODE_UNINIT, 0)
        } else {
            (0, csum::inode_bitmap(seed, &used, inodes_per_group))
        };
        let mut described = GroupDesc {
            block_bitmap,
            inode_bitmap,
            inode_table,
            free_blocks_count: word(free),
            free_inodes_count: unused,
            used_dirs_count: word(directories as u64),
            flags: bg_flags::INODE_ZEROED | flags,
            exclude_bitmap: 0,
            block_bitmap_csum: csum::block_bitmap(seed, &blocks).into(),
            inode_bitmap_csum: sum.into(),
            itable_unused: unused,
            checksum: 0,
        };
        described.encode32(descriptor);
        described.checksum = csum::group_desc(seed, word(group), descriptor);
        described.encode32(descriptor);
        Ok(free)
    }

    fn superblock(&self, picture: &GroupContents<'_>, free: u64) -> Superblock {
        let groups = self.count();
        let tables = groups * (2 + self.inodes_per_group / INODES_PER_BLOCK);
        let overhead = self.copies().count() as u64 * self.head() + tables + JOURNAL;
        let mut volume_name = [0; 16];
        volume_name.iter_mut().zip(picture.label.bytes()).for_each(|(place, byte)| *place = byte);
        // A copy of the journal's map and size.
        let journal = &picture.inodes[JOURNAL_INODE as usize - 1];
        let mut jnl_blocks = [0; 17];
        for (place, bytes) in jnl_blocks.iter_mut().zip(journal[0x28..0x64].chunks_exact(4)) {
            *place = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        }
        jnl_blocks[16] = word(JOURNAL * BLOCK);
        let inodes_count = word(groups * self.inodes_per_group);
        Superblock {
            inodes_count,
            blocks_count: self.blocks,
            r_blocks_count: 0,
            free_blocks_count: free,
            free_inodes_count: inodes_count - word(picture.inodes.len() as u64),
            first_data_block: 0,
            log_block_size: 2,
            log_cluster_size: 2,
            blocks_per_group: word(BLOCKS_PER_GROUP),
            clusters_per_group: word(BLOCKS_PER_GROUP),
            inodes_per_group: word(self.inodes_per_group),
            mtime: 0,
            wtime: picture.epoch,
            mnt_count: 0,
            max_mnt_count: 0xFFFF,
            state: 1,
            errors: 1,
            minor_rev_level: 0,
            lastcheck: picture.epoch,
            checkinterval: 0,
            creator_os: 0,
            rev_level: 1,
            def_resuid: 0,
            def_resgid: 0,
            first_ino: LOST_FOUND_INODE,
            inode_size: u16::try_from(INODE).expect("256"),
            block_group_nr: 0,
            feature_compat: compat::WRITER,
            feature_incompat: incompat::WRITER,
            feature_ro_compat: ro_compat::WRITER,
            uuid: picture.uuid,
            volume_name,
            last_mounted: [0; 64],
            reserved_gdt_blocks: 0,
            journal_uuid: [0; 16],
            journal_inum: JOURNAL_INODE,
            journal_dev: 0,
            last_orphan: 0,
            hash_seed: picture.hash_seed,
            def_hash_version: 1,
            jnl_backup_type: 1,
            desc_size: 0,
            default_mount_opts: 0x0C,
            first_meta_bg: 0,
            mkfs_time: picture.epoch,
            jnl_blocks,
            min_extra_isize: 32,
            want_extra_isize: 32,
            flags: 1,
            log_groups_per_flex: LOG_GROUPS_PER_FLEX,
            checksum_type: 1,
            kbytes_written: (self.blocks - free) * (BLOCK / 1024),
            overhead_clusters: word(overhead),
            lpf_ino: 0,
            checksum_seed: 0,
            checksum: 0,
        }
    }
}

/// The block of a group with the superblock or its copy.
fn encoded(superblock: &Superblock, group: u64) -> Vec<u8> {
    // Only the first begins behind room for a boot loader.
    let at = if group == 0 { 1024 } else { 0 };
    let mut block = vec![0; BLOCK_BYTES];
    let mut superblock = superblock.clone();
    superblock.block_group_nr = u16::try_from(group).expect("groups are few");
    superblock.encode(&mut block[at..at + Superblock::LEN]);
    superblock.checksum = csum::superblock(&block[at..at + Superblock::LEN]);
    superblock.encode(&mut block[at..at + Superblock::LEN]);
    block
}

fn journal_superblock(picture: &GroupContents<'_>) -> JournalSuperblock {
    JournalSuperblock {
        blocktype: 4,
        blocksize: word(BLOCK),
        maxlen: word(JOURNAL),
        first: 1,
        sequence: 1,
        start: 0,
        errno: 0,
        feature_compat: 0,
        feature_incompat: 0,
        feature_ro_compat: 0,
        uuid: picture.uuid,
        nr_users: 1,
        dynsuper: 0,
        max_transaction: 0,
        max_trans_data: 0,
        checksum_type: 0,
        num_fc_blocks: 0,
        head: 0,
        checksum: 0,
    }
}

/// The type and permissions of an inode of that kind.
pub(super) fn mode(kind: u8, permissions: u16) -> u16 {
    u16::from(MODES[usize::from(kind)]) << 12 | permissions & 0o7777
}

/// How a directory with more subdirectories than can be counted says so.
pub(super) fn directory_links(links: u64) -> u16 {
    u16::try_from(links).ok().filter(|&links| u32::from(links) <= LINK_MAX).unwrap_or(1)
}

fn word(number: u64) -> u32 {
    u32::try_from(number).expect("an image is below 16 TiB and its inodes are counted in 32 bits")
}

fn small(number: u64) -> usize {
    usize::try_from(number).expect("groups and their inodes are few")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frame around so many blocks of content.
    fn around(blocks: u64, inodes: u64) -> BlockGroups {
        let mut space = Space::new(0);
        space.take(blocks);
        let frame = BlockGroups::new(&mut space, inodes).unwrap();
        assert!(space.end() <= frame.blocks && frame.blocks.div_ceil(BLOCKS_PER_GROUP) == frame.count());
        assert!(frame.inodes_per_group * frame.count() >= inodes && frame.inodes_per_group <= INODES_PER_GROUP);
        let last = frame.blocks % BLOCKS_PER_GROUP;
        assert!(last == 0 || last >= LAST_GROUP, "{frame:?}");
        frame
    }

    #[test]
    fn sizes_around_the_end_of_a_group() {
        for groups in [1, 2, 3, 9, 16, 17] {
            for less in 0..200 {
                let frame = around(groups * BLOCKS_PER_GROUP - less, 100);
                assert!(frame.blocks < (groups + 1) * BLOCKS_PER_GROUP + 20 * RESERVED + 100);
            }
        }
    }

    #[test]
    fn many_inodes_and_little_content() {
        for inodes in [11, 16, 17, 32_768, 32_769, 4_000_000] {
            around(10, inodes);
        }
    }

    #[test]
    fn what_is_too_large_is_said() {
        let mut space = Space::new(MAX_GROUPS * BLOCKS_PER_GROUP);
        space.one();
        assert!(matches!(BlockGroups::new(&mut space, 11), Err(RootfsError::TooManyBytes(MAX_BYTES))));
    }
}
