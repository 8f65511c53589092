//! Netlink client: builds a message, sends it, and waits for the kernel's acknowledgement before the next.
//!
//! The guest's agent configures `eth0` with it, and the network helper its bridges, taps and sets: without the `ip`
//! program, without an async runtime, and without allocations whose size a reply decides. It also has the ioctls of
//! taps, for which netlink has no messages. It knows formats, not what a link or an address is for.

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
