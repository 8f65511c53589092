//! What banger's tests share: a hermetic environment around the real programs, the real kernel and image fetched once,
//! skips that are loud, and waiting that explains itself.
//!
//! Development only. It knows the programs by their command lines and files, as a user does; it links none of them.

#![expect(clippy::print_stderr, reason = "what a failed test shows belongs on stderr")]

mod binaries;
mod capability;
mod certificate;
mod command;
mod corpora;
mod environment;
pub mod fake;
mod files;
mod filter;
mod generic_kernel;
mod golden;
mod image_layout;
mod meter;
mod order;
mod package;
pub mod probe;
mod process;
mod registry;
mod relay;
mod session;
mod slots;
mod space;
mod subordinate;
mod wait;
mod way;

pub use binaries::bin_dir;
pub use capability::require;
pub use certificate::{Private, certificate};
pub use command::{Invocation, Output};
pub use corpora::{Corpus, replay};
pub use environment::TestEnv;
pub use files::FileServer;
pub use generic_kernel::generic_kernel;
pub use golden::Golden;
pub use image_layout::{Entry, ImageLayout, LayerWriter};
pub use meter::Meter;
pub use package::package;
pub use process::{Identity, marked_processes};
pub use registry::{Registry, skopeo};
pub use relay::{Hold, Relay};
pub use session::{Session, Terminal};
pub use slots::{alone, shared};
pub use space::Space;
pub use wait::wait_until;
pub use way::Way;
