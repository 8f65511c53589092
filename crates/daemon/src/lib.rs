//! The library behind `bangerd`, which composes four services over one store and owns every VM's life. The VMMs belong
//! to `banger-shim`, a program of `banger_machine`.

pub mod api;
pub mod config;
pub mod daemon;
pub mod doctor;
#[doc(hidden)]
pub mod fuzzing;
pub mod store;

mod capability;
mod disk_usage;
mod failures;
mod images;
mod network;
mod operation;
mod random;
mod ssh;
mod vm;
mod wire;
mod workspace;
