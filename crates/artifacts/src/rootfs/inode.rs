//! The bytes of an inode.

use super::{
    block_groups::{INODE, directory_links, mode},
    block_layout::BLOCK,
    entry::Meta,
};
use mkext4::{csum, spec::Inode};

/// Bytes of an inode behind those every inode has.
const EXTRA: u16 = 32;
/// Bytes of a sector, in which an inode counts its blocks.
const SECTOR: u64 = 512;

/// What an inode says about where its content is.
pub(super) struct Body {
    pub(super) flags: u32,
    pub(super) block: [u8; 60],
    /// Blocks of content and of the map to it.
    pub(super) blocks: u64,
}

impl Default for Body {
    fn default() -> Self {
        Self { flags: 0, block: [0; 60], blocks: 0 }
    }
}

/// All that an inode says.
pub(super) struct Record<'a> {
    pub(super) number: u32,
    /// As in a directory's record.
    pub(super) kind: u8,
    pub(super) links: u64,
    pub(super) meta: &'a Meta,
    pub(super) size: u64,
    pub(super) body: &'a Body,
    /// Attributes that are in the inode, as they are written.
    pub(super) attributes: Vec<u8>,
    /// The block of further ones; 0 where there is none.
    pub(super) file_acl: u64,
}

impl Record<'_> {
    /// Writes it down, in an image whose checksums begin with `seed`.
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
