//! Tools shared by banger's tests: a hermetic environment around the real programs, the real kernel and image pulled
//! once, skips that are reported, and waiting that explains itself.
//!
//! Development only. It knows the programs by their command lines and files, as a user does, and links none of them.

#![expect(clippy::print_stderr, reason = "what a failed test shows belongs on stderr")]

mod binaries;
mod certificate;
mod command;
mod corpora;
mod environment;
pub mod escape_attempts;
pub mod fake;
mod filter;
mod generic_kernel;
mod golden;
mod image_layout;
mod invariants;
mod launcher;
mod meter;
mod netns;
mod package;
mod process;
mod registry;
mod relay;
mod requirements;
mod session;
mod slots;
mod subordinate;
mod wait;
mod web_server;

pub use binaries::bin_dir;
pub use certificate::{Authority, Private, certificate};
pub use command::{Invocation, Output};
pub use corpora::{Corpus, replay};
pub use environment::TestEnv;
pub use generic_kernel::generic_kernel;
pub use golden::Golden;
pub use image_layout::{Entry, ImageLayout, LayerWriter};
pub use launcher::Launcher;
pub use meter::Meter;
pub use netns::NetNamespace;
pub use package::package;
pub use process::{Identity, marked_processes};
pub use registry::{Registry, skopeo};
pub use relay::{Hold, Relay};
pub use requirements::require;
pub use session::{Session, Terminal};
pub use slots::{alone, shared};
pub use wait::wait_until;
pub use web_server::FileServer;
