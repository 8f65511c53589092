//! Copies files and directories between this host and a guest, as tar streams of the agent's `/archive`.
//!
//! [`pack`] writes local files as a stream; [`entries`] and [`unpack`] read one from a guest, which is untrusted. They
//! block, so [`bridge`] connects their threads to the connection, which does not.

pub(crate) mod bridge;
pub(crate) mod endpoint;
pub(crate) mod entries;
pub(crate) mod pack;
pub(crate) mod unpack;
