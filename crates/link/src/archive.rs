//! How both ends of a copy read and write a file in a tar archive: [`sparse`] its zeros, [`mtime`] its time.
//!
//! Nothing here concerns the channel. The modules are in this crate because it is the only one that the CLI and the agent
//! share, besides `banger_proto`, which has contracts only.

pub mod mtime;
pub mod sparse;
