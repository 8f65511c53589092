//! Files and directories between this host and a guest, as tar streams of the agent's `/archive`.
//!
//! [`pack`] makes a stream of what is here; [`entries`] and [`unpack`] take one from a guest, which may say anything.
//! [`bridge`] lets them, which block, work beside the connection, which does not.

pub(crate) mod bridge;
pub(crate) mod endpoint;
pub(crate) mod entries;
pub(crate) mod pack;
pub(crate) mod unpack;
