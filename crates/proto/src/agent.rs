//! What the host and the guest agent say to each other.
//!
//! A few layers, each in its own file: [`link`] is the byte pipe (one virtio-serial port or one vsock), [`event`] is what
//! the agent announces by itself, [`exec`], [`http`] and [`workspace`] are what the host asks of it, and [`boot`] is what it finds in
//! its initramfs before anything else exists, [`driver`] with the drivers it loads from there.

pub mod boot;
pub mod driver;
pub mod event;
pub mod exec;
pub mod http;
pub mod link;
pub mod workspace;
