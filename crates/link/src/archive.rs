//! What both ends of a copy do alike with the files in a tar archive: [`sparse`] handles zeros, [`mtime`] times.
//!
//! Nothing here concerns the channel. The modules are in this crate because it is the only one that the CLI and the
//! agent share, besides `banger_proto`, which has contracts only.

pub mod mtime;
pub mod sparse;
