//! Handling of files in tar archives that both ends of a copy share: zeros in [`sparse`], times in [`mtime`].
//!
//! Nothing here concerns the channel. The modules are in this crate because it is the only one that the CLI and the
//! agent share, besides `banger_proto`, which has contracts only.

pub mod mtime;
pub mod sparse;
