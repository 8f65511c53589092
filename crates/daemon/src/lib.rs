//! The library behind `bangerd` and `banger-shim`.
//!
//! `bangerd` composes four services over one store and owns every VM's life. `banger-shim` owns one VMM process and
//! outlives `bangerd`. They share [`shim::control`] and [`vmm::plan::LaunchPlan`].

pub mod api;
pub mod config;
pub mod daemon;
pub mod doctor;
#[doc(hidden)]
pub mod fuzzing;
pub mod process;
pub mod record;
pub mod shim;
pub mod store;
pub mod vmm;

mod capability;
mod clock;
mod disk_usage;
mod failpoint;
mod failures;
mod images;
mod network;
mod operation;
mod private_dir;
mod random;
mod socket_path;
mod ssh;
mod vm;
mod wire;
mod workspace;
