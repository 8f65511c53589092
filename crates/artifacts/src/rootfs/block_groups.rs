//! The parts of an ext4 that do not depend on its files: superblock and copies, group descriptors, bitmaps, inode
//! tables, the journal.

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

/// Size of an inode in bytes, and inodes in a block.
pub(super) const INODE: usize = 256;
const INODES_PER_BLOCK: u64 = BLOCK / INODE as u64;
/// Upper bound of the inodes in a group: its bitmap is one block.
const INODES_PER_GROUP: u64 = 32_768;
/// Size of the journal in blocks: the smallest the kernel accepts. It stays empty and, being zeros, takes no room on
/// disk.
pub(super) const JOURNAL: u64 = 1024;
/// Lower bound of the size of an image in blocks: four times its journal.
const MIN_BLOCKS: u64 = 4 * JOURNAL;
/// Lower bound of the size of the last group in blocks, when it is not a whole one.
const MIN_LAST_GROUP: u64 = 2 * RESERVED;
/// Groups per flex group, as a power of two.
const LOG_GROUPS_PER_FLEX: u8 = 4;
/// Reserved inode numbers.
pub(super) const JOURNAL_INODE: u32 = 8;
pub(super) const LOST_FOUND_INODE: u32 = 11;
/// File type bits of an inode's mode, by the file type of a directory record.
const MODES: [u8; 8] = [0, 0o10, 0o04, 0o02, 0o06, 0o01, 0o14, 0o12];

/// Division of an image into block groups.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BlockGroups {
    blocks: u64,
    inodes_per_group: u64,
    /// Per group: the blocks of its block bitmap and inode bitmap, and the first block of its inode table.
    groups: Vec<[u64; 3]>,
}

/// Contents of the groups.
pub(super) struct GroupContents<'a> {
    pub(super) uuid: [u8; 16],
    pub(super) hash_seed: [u32; 4],
    pub(super) label: &'a str,
    pub(super) epoch: u32,
    /// All inodes, in the order of their numbers; the first has the number 1.
    pub(super) inodes: &'a [[u8; INODE]],
    /// First block of the journal.
    pub(super) journal: u64,
}

impl BlockGroups {
    /// Allocates the bitmaps and inode tables for so many inodes; nothing is allocated after them. The size of the
    /// image and the number of groups depend on each other, so the number grows until it suffices.
    pub(super) fn new(space: &mut Space, inodes: u64) -> Result<Self, RootfsError> {
        let mut count = inodes.div_ceil(INODES_PER_GROUP).max(space.end().div_ceil(BLOCKS_PER_GROUP)).max(1);
        loop {
            if count > MAX_GROUPS {
                return Err(RootfsError::TooManyBytes(MAX_BYTES));
            }
            let mut attempt = space.clone();
            let groups = Self::attempt(&mut attempt, count, inodes);
            let needed = groups.blocks.div_ceil(BLOCKS_PER_GROUP);
            if needed <= count {
                *space = attempt;
                return Ok(groups);
            }
            count = needed;
        }
    }

    fn attempt(space: &mut Space, count: u64, inodes: u64) -> Self {
        let inodes_per_group = inodes.div_ceil(count).next_multiple_of(INODES_PER_BLOCK);
        let mut groups: Vec<[u64; 3]> = (0..count).map(|_| [space.one(), 0, 0]).collect();
        for group in &mut groups {
            group[1] = space.one();
        }
        for group in &mut groups {
            group[2] = space.in_a_row(inodes_per_group / INODES_PER_BLOCK);
        }
        let blocks = space.end().max(MIN_BLOCKS).max((count - 1) * BLOCKS_PER_GROUP + 1);
        let last = blocks % BLOCKS_PER_GROUP;
        let short = if last == 0 { 0 } else { MIN_LAST_GROUP.saturating_sub(last) };
        Self { blocks: blocks + short, inodes_per_group, groups }
    }

    /// Returns the size of the image in bytes.
    pub(super) fn len(&self) -> u64 {
        self.blocks * BLOCK
    }

    fn count(&self) -> u64 {
        self.groups.len() as u64
    }

    /// Returns how many blocks a superblock with its group descriptors takes.
    fn superblock_blocks(&self) -> u64 {
        1 + self.count().div_ceil(DESCRIPTORS_PER_BLOCK)
    }

    fn superblock_groups(&self) -> impl Iterator<Item = u64> {
        groups_with_superblock(self.count())
    }

    /// Writes the groups and all copies of the superblock.
    pub(super) fn write(
        &self,
        contents: &GroupContents<'_>,
        space: &mut Space,
        filler: &mut BatchWriter<'_>,
    ) -> Result<(), RootfsError> {
        let failed = || RootfsError::io("write the image");
        for group in self.superblock_groups() {
            space.mark(Run { start: group * BLOCKS_PER_GROUP, len: self.superblock_blocks() });
        }
        let mut descriptors = vec![0; usize::try_from((self.superblock_blocks() - 1) * BLOCK).expect("a few blocks")];
        let mut free = 0;
        for (group, bytes) in (0..self.count()).zip(descriptors.chunks_exact_mut(32)) {
            free += self.write_group(group, contents, space, filler, bytes).map_err(failed())?;
        }
        let mut journal = vec![0; BLOCK_BYTES];
        journal_superblock(contents).encode(&mut journal);
        filler.put(contents.journal, &journal).map_err(failed())?;
        let superblock = self.superblock(contents, free);
        for group in self.superblock_groups() {
            let block = encoded(&superblock, group);
            filler.put(group * BLOCKS_PER_GROUP, &block).map_err(failed())?;
            filler.put(group * BLOCKS_PER_GROUP + 1, &descriptors).map_err(failed())?;
        }
        Ok(())
    }

    /// Writes the bitmaps and the inode table of a group and fills in its descriptor. Returns how many of its blocks
    /// are free.
    fn write_group(
        &self,
        group: u64,
        contents: &GroupContents<'_>,
        space: &Space,
        filler: &mut BatchWriter<'_>,
        descriptor: &mut [u8],
    ) -> std::io::Result<u64> {
        let seed = csum::fs_seed(&contents.uuid);
        let [block_bitmap, inode_bitmap, inode_table] = self.groups[to_usize(group)];
        let (blocks, free) = space.bitmap(group, (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP));
        filler.put(block_bitmap, &blocks)?;

        let per_group = to_usize(self.inodes_per_group);
        let inodes = contents.inodes.chunks(per_group).nth(to_usize(group)).unwrap_or_default();
        let mut used = vec![0_u8; BLOCK_BYTES];
        let is_used = |n: &usize| *n < inodes.len() || *n >= per_group;
        (0..used.len() * 8).filter(is_used).for_each(|n| used[n / 8] |= 1 << (n % 8));
        if !inodes.is_empty() {
            filler.put(inode_bitmap, &used)?;
            filler.put(inode_table, inodes.as_flattened())?;
        }
        let directories = inodes.iter().filter(|inode| inode[1] >> 4 == MODES[usize::from(file_type::DIR)]).count();
        let inodes_per_group = to_u32(self.inodes_per_group);
        let unused = to_u32((per_group - inodes.len()) as u64);
        let (flags, sum) = if inodes.is_empty() {
            (bg_flags::INODE_UNINIT, 0)
        } else {
            (0, csum::inode_bitmap(seed, &used, inodes_per_group))
        };
        let mut described = GroupDesc {
            block_bitmap,
            inode_bitmap,
            inode_table,
            free_blocks_count: to_u32(free),
            free_inodes_count: unused,
            used_dirs_count: to_u32(directories as u64),
            flags: bg_flags::INODE_ZEROED | flags,
            exclude_bitmap: 0,
            block_bitmap_csum: csum::block_bitmap(seed, &blocks).into(),
            inode_bitmap_csum: sum.into(),
            itable_unused: unused,
            checksum: 0,
        };
        described.encode32(descriptor);
        described.checksum = csum::group_desc(seed, to_u32(group), descriptor);
        described.encode32(descriptor);
        Ok(free)
    }

    fn superblock(&self, contents: &GroupContents<'_>, free: u64) -> Superblock {
        let groups = self.count();
        let tables = groups * (2 + self.inodes_per_group / INODES_PER_BLOCK);
        let overhead = self.superblock_groups().count() as u64 * self.superblock_blocks() + tables + JOURNAL;
        let mut volume_name = [0; 16];
        volume_name.iter_mut().zip(contents.label.bytes()).for_each(|(field, byte)| *field = byte);
        // Backup of the journal's extent tree and size.
        let journal = &contents.inodes[JOURNAL_INODE as usize - 1];
        let mut jnl_blocks = [0; 17];
        for (field, bytes) in jnl_blocks.iter_mut().zip(journal[0x28..0x64].chunks_exact(4)) {
            *field = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        }
        jnl_blocks[16] = to_u32(JOURNAL * BLOCK);
        let inodes_count = to_u32(groups * self.inodes_per_group);
        Superblock {
            inodes_count,
            blocks_count: self.blocks,
            r_blocks_count: 0,
            free_blocks_count: free,
            free_inodes_count: inodes_count - to_u32(contents.inodes.len() as u64),
            first_data_block: 0,
            log_block_size: 2,
            log_cluster_size: 2,
            blocks_per_group: to_u32(BLOCKS_PER_GROUP),
            clusters_per_group: to_u32(BLOCKS_PER_GROUP),
            inodes_per_group: to_u32(self.inodes_per_group),
            mtime: 0,
            wtime: contents.epoch,
            mnt_count: 0,
            max_mnt_count: 0xFFFF,
            state: 1,
            errors: 1,
            minor_rev_level: 0,
            lastcheck: contents.epoch,
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
            uuid: contents.uuid,
            volume_name,
            last_mounted: [0; 64],
            reserved_gdt_blocks: 0,
            journal_uuid: [0; 16],
            journal_inum: JOURNAL_INODE,
            journal_dev: 0,
            last_orphan: 0,
            hash_seed: contents.hash_seed,
            def_hash_version: 1,
            jnl_backup_type: 1,
            desc_size: 0,
            default_mount_opts: 0x0C,
            first_meta_bg: 0,
            mkfs_time: contents.epoch,
            jnl_blocks,
            min_extra_isize: 32,
            want_extra_isize: 32,
            flags: 1,
            log_groups_per_flex: LOG_GROUPS_PER_FLEX,
            checksum_type: 1,
            kbytes_written: (self.blocks - free) * (BLOCK / 1024),
            overhead_clusters: to_u32(overhead),
            lpf_ino: 0,
            checksum_seed: 0,
            checksum: 0,
        }
    }
}

/// Encodes the superblock, or its copy, for the first block of a group.
fn encoded(superblock: &Superblock, group: u64) -> Vec<u8> {
    // Only group 0 begins with room for a boot loader.
    let at = if group == 0 { 1024 } else { 0 };
    let mut block = vec![0; BLOCK_BYTES];
    let mut superblock = superblock.clone();
    superblock.block_group_nr = u16::try_from(group).expect("groups are few");
    superblock.encode(&mut block[at..at + Superblock::LEN]);
    superblock.checksum = csum::superblock(&block[at..at + Superblock::LEN]);
    superblock.encode(&mut block[at..at + Superblock::LEN]);
    block
}

fn journal_superblock(contents: &GroupContents<'_>) -> JournalSuperblock {
    JournalSuperblock {
        blocktype: 4,
        blocksize: to_u32(BLOCK),
        maxlen: to_u32(JOURNAL),
        first: 1,
        sequence: 1,
        start: 0,
        errno: 0,
        feature_compat: 0,
        feature_incompat: 0,
        feature_ro_compat: 0,
        uuid: contents.uuid,
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

/// Returns the mode of an inode: file type and permissions.
pub(super) fn mode(kind: u8, permissions: u16) -> u16 {
    u16::from(MODES[usize::from(kind)]) << 12 | permissions & 0o7777
}

/// Returns the link count of a directory; 1 stands for more subdirectories than can be counted (`dir_nlink`).
pub(super) fn directory_links(links: u64) -> u16 {
    u16::try_from(links).ok().filter(|&links| u32::from(links) <= LINK_MAX).unwrap_or(1)
}

fn to_u32(number: u64) -> u32 {
    u32::try_from(number).expect("an image is below 16 TiB and its inodes are counted in 32 bits")
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("groups and their inodes are few")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lays out the groups of an image with that many blocks of content.
    fn laid_out(blocks: u64, inodes: u64) -> BlockGroups {
        let mut space = Space::new(0);
        space.take(blocks);
        let groups = BlockGroups::new(&mut space, inodes).unwrap();
        assert!(space.end() <= groups.blocks && groups.blocks.div_ceil(BLOCKS_PER_GROUP) == groups.count());
        assert!(groups.inodes_per_group * groups.count() >= inodes && groups.inodes_per_group <= INODES_PER_GROUP);
        let last = groups.blocks % BLOCKS_PER_GROUP;
        assert!(last == 0 || last >= MIN_LAST_GROUP, "{groups:?}");
        groups
    }

    #[test]
    fn sizes_around_the_end_of_a_group() {
        for groups in [1, 2, 3, 9, 16, 17] {
            for less in 0..200 {
                let laid_out = laid_out(groups * BLOCKS_PER_GROUP - less, 100);
                assert!(laid_out.blocks < (groups + 1) * BLOCKS_PER_GROUP + 20 * RESERVED + 100);
            }
        }
    }

    #[test]
    fn many_inodes_and_little_content() {
        for inodes in [11, 16, 17, 32_768, 32_769, 4_000_000] {
            laid_out(10, inodes);
        }
    }

    #[test]
    fn an_image_that_is_too_large_is_refused() {
        let mut space = Space::new(MAX_GROUPS * BLOCKS_PER_GROUP);
        space.one();
        assert!(matches!(BlockGroups::new(&mut space, 11), Err(RootfsError::TooManyBytes(MAX_BYTES))));
    }
}
