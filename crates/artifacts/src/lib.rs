//! Turns names of kernels and images into verified files on disk: kernels, root filesystem images, and the disks and
//! archives a VM boots from.
//!
//! All input is hostile, and all output is published by one atomic rename. The crate knows no VMs, needs no root, and
//! blocks: the daemon runs it on its blocking pool with a [`job::Job`] that carries progress and cancellation.

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
pub mod tar;
mod timestamp;
