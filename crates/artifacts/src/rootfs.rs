//! A tree of files, gathered from streams, written once as a deterministic ext4 image.
//!
//! [`RootfsBuilder`] decides what a valid entry is and what replaces what; below it is what knows ext4, with the help of
//! a crate that knows its structures and checksums. It refuses to know where entries come from (a Debian bootstrap, OCI
//! layers, a kernel's modules) and what the image is for. No root, no mount, no staging tree: entries live in memory.
//! The contents of layers go to their final blocks as they come ([`Placer`]), all others into one unlinked spool file
//! first.

mod builder;
mod deal;
mod directory;
mod entry;
mod error;
mod extents;
mod fill;
mod frame;
mod ground;
mod image;
mod inode;
mod order;
mod path;
mod pieces;
mod place;
mod plain;
mod scribe;
mod space;
mod spool;
pub mod tar;
mod tree;
mod xattr;

pub use builder::{Format, Limits, RootfsBuilder, Written};
pub use entry::{Meta, Node, Timestamp, Xattr};
pub use error::{Error, Refusal};
pub use place::{Placed, Placer, Site, Stored};
