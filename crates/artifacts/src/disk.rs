//! Disks of virtual machines: sparse files, created and copied without touching their holes.
//!
//! [`WorkDisks`] creates the private disk a VM keeps its changes on. It decides the filesystem on it, and that creating
//! one costs the same whatever its size; where the guest mounts what is the agent's decision.

mod copy;
mod format;
mod work;

pub(crate) use copy::{clone_sparse, copy_range, write_sparse};
pub use work::{DiskError, MAX_SIZE, MIN_SIZE, WorkDisks, sync};
