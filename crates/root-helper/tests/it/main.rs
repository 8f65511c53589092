//! The helper against the kernel, in namespaces that end with the test. Nothing here sends a packet anywhere else.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what is being tried is printed when it fails")]

mod guest;
mod hostile;
mod life;
mod policy;
mod spoof;
mod system;
mod world;
