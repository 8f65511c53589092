//! A tree of files, gathered from a stream, written once as a deterministic ext4 image.
//!
//! [`RootfsBuilder`] is banger's own interface in front of the crate that writes the filesystem: it decides what a
//! valid entry is, what replaces what, and how big the image must be. It refuses to know where entries come from (a
//! Debian bootstrap, OCI layers, a kernel's modules) and what the image is for. No root, no mount, no staging tree:
//! entries live in memory, file contents in one unlinked spool file.

mod builder;
mod digest;
mod entry;
mod error;
mod fill;
mod foreign;
mod geometry;
mod image;
mod path;
mod spool;
pub mod tar;
mod tree;
mod xattr;

pub use builder::{Adopted, Format, Limits, RootfsBuilder, Written};
pub use entry::{Meta, Node, Timestamp, Xattr};
pub use error::{Error, Refusal};
