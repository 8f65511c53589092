//! Netlink, as far as banger speaks it: a message is built, sent, and acknowledged by the kernel before the next.
//!
//! The guest's agent configures `eth0` with it and the network helper its bridges, taps and sets: no `ip` program, no
//! runtime, no allocation that a reply decides. Beside it the ioctls of taps, which have no netlink. It knows formats and nothing of what a link or an address is for.

mod attribute;
pub mod link;
mod message;
pub mod nft;
pub mod route;
mod socket;
pub mod tap;

pub use attribute::{Attribute, attributes};
pub use message::{Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
pub use socket::{Reply, Socket};
