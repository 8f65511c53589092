//! The protocol between the host and the guest agent.
//!
//! One layer a file: [`link`] is the byte pipe (a virtio-serial port or a vsock connection); [`event`] has the messages
//! the agent sends by itself; [`exec`], [`http`] and [`workspace`] are the requests of the host; [`boot`] is the
//! configuration in the initramfs and [`driver`] the drivers the agent loads from there.

pub mod boot;
pub mod driver;
pub mod event;
pub mod exec;
pub mod http;
pub mod link;
pub mod workspace;
