//! From a name to verified files on disk.
//!
//! Kernels, root filesystem images and the disks and archives a VM boots from. Everything read here is hostile input
//! and everything written here is published by one atomic rename. There are no VM concepts in this crate, it needs no
//! root, and it blocks: the daemon runs it on its blocking pool with a [`job::Job`] that carries progress and
//! cancellation.

pub mod catalog;
pub mod disk;
#[doc(hidden)]
pub mod failpoint;
pub mod fetch;
pub mod image;
pub mod initramfs;
pub mod job;
pub mod kernel;
pub mod oci;
pub mod program;
pub mod publish;
pub mod rootfs;
mod timestamp;
