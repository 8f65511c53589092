//! A tree of files, gathered from streams, written once as a deterministic ext4 image.
//!
//! [`RootfsBuilder`] decides what a valid entry is and what replaces what; below it is what knows ext4, with the help of
//! a crate that knows its structures and checksums. It refuses to know where entries come from (a Debian bootstrap, OCI
//! layers, a kernel's modules) and what the image is for. No root, no mount, no staging tree: entries live in memory.
//! The contents of layers go to their final blocks as they come ([`ContentWriter`]), all others into one unlinked spool file
//! first.

mod allocator;
mod batch_writer;
mod block_groups;
mod block_layout;
mod builder;
mod content;
mod directory;
mod entry;
mod error;
mod extents;
mod format;
mod image;
mod inode;
mod inode_only;
mod order;
mod path;
mod space;
mod spool;
pub mod tar;
mod tree;
mod tree_hash;
mod write_behind;
mod xattr;

pub use builder::RootfsBuilder;
pub use content::{ContentLocation, ContentWriter, TargetImage, WrittenContent};
pub use entry::{Meta, Node, Timestamp, Xattr};
pub use error::{EntryError, RootfsError};
pub use format::{Format, Limits, Written};
