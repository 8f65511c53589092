//! Encoding of inodes.

use super::{
    block_groups::{INODE, directory_links, mode},
    block_layout::BLOCK,
    entry::Meta,
};
use mkext4::{csum, spec::Inode};

/// Size of the extra fields behind the first 128 bytes of an inode (`i_extra_isize`).
const EXTRA: u16 = 32;
/// Size of a sector in bytes: the unit in which an inode counts its blocks.
const SECTOR: u64 = 512;

/// Location of an inode's content.
pub(super) struct Body {
    pub(super) flags: u32,
    pub(super) block: [u8; 60],
    /// Number of blocks of content and of the extent tree.
    pub(super) blocks: u64,
}

impl Default for Body {
    fn default() -> Self {
        Self { flags: 0, block: [0; 60], blocks: 0 }
    }
}

/// Fields of an inode.
pub(super) struct Record<'a> {
    pub(super) number: u32,
    /// File type, as in a directory record.
    pub(super) kind: u8,
    pub(super) links: u64,
    pub(super) meta: &'a Meta,
    pub(super) size: u64,
    pub(super) body: &'a Body,
    /// Encoded attributes that are stored in the inode.
    pub(super) attributes: Vec<u8>,
    /// Block with further attributes; 0 if there is none.
    pub(super) file_acl: u64,
}

impl Record<'_> {
    /// Encodes the inode, in an image whose checksum seed is `seed`.
    pub(super) fn write(self, seed: u32, raw: &mut [u8; INODE]) {
        let Self { number, kind, links, meta, size, body, attributes, file_acl } = self;
        let (time, extra) = Inode::encode_timestamp(meta.mtime.secs, meta.mtime.nanos);
        let blocks = body.blocks + u64::from(file_acl > 0);
        let mut inode = Inode {
            mode: mode(kind, meta.mode),
            uid: meta.uid,
            gid: meta.gid,
            size,
            atime: time,
            ctime: time,
            mtime: time,
            crtime: time,
            atime_extra: extra,
            ctime_extra: extra,
            mtime_extra: extra,
            crtime_extra: extra,
            links_count: directory_links(links),
            blocks: blocks * (BLOCK / SECTOR),
            flags: body.flags,
            block: body.block,
            file_acl,
            extra_isize: EXTRA,
            ibody: attributes,
            ..Inode::default()
        };
        inode.encode(raw);
        inode.checksum = csum::inode(seed, number, 0, raw);
        inode.encode(raw);
    }
}
