//! Disks of virtual machines: sparse files, made and copied without touching what is not there.
//!
//! A [`WorkDisks`] hands out the private disk a VM keeps its changes on. It decides the filesystem on it and that
//! making one costs the same whatever its size; what the guest mounts where is the agent's.

mod copy;
mod format;
mod work;

pub(crate) use copy::{clone_sparse, copy_range, write_sparse};
pub use work::{DiskError, MAX_SIZE, MIN_SIZE, WorkDisks, sync};
