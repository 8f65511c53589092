//! What the network costs: attaching a VM, published ports, the way out, names.

mod attach;
mod dns;
mod nat;
mod ports;
mod stage;

pub(crate) use attach::attach;
pub(crate) use dns::dns;
pub(crate) use nat::nat;
pub(crate) use ports::ports;
