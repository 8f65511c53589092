//! One machine: a VMM process that is started, confined, watched and ended; and `banger-shim`, which does that for one
//! VM and outlives the daemon.
//!
//! The daemon and the shim share [`shim::control`] and [`vmm::plan::LaunchPlan`]. Nothing here knows of the database,
//! the API, images by name or users: a shim has its launch plan and nothing else.

pub mod clock;
pub mod failpoint;
#[doc(hidden)]
pub mod fuzzing;
pub mod private_dir;
pub mod process;
pub mod random;
pub mod record;
pub mod shim;
pub mod socket_path;
pub mod vmm;
