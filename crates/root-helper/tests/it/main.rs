//! The helper against the kernel, in namespaces that end with the test. Nothing here sends a packet anywhere else.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what is being tried is printed when it fails")]

mod confinement;
mod guest;
mod hostile;
mod judge;
mod life;
mod policy;
mod requests;
mod sniffer;
mod spoof;
mod system;
mod users;
mod world;
