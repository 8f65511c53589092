//! A tree of files, gathered from streams, written once as a deterministic ext4 image.
//!
//! [`RootfsBuilder`] decides what a valid entry is and what replaces what. The modules below it know ext4, with the
//! help of a crate that knows its structures and checksums. They refuse to know where entries come from (a Debian
//! bootstrap, OCI layers, a kernel's modules) and what the image is for. No root, no mount, no staging tree: entries
//! live in memory. The contents of layers are written to their final blocks while they arrive ([`ContentWriter`]), all
//! others to one unlinked spool file first.

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
mod tree;
mod tree_hash;
mod when_full;
mod write_behind;
mod xattr;

pub use builder::RootfsBuilder;
pub use content::{ContentLocation, ContentWriter, TargetImage, WrittenContent};
pub use entry::{Meta, Node, Timestamp, Xattr};
pub(crate) use error::quoted;
pub use error::{EntryError, RootfsError};
pub use format::{Format, Limits, Written};
pub use when_full::WhenFull;
