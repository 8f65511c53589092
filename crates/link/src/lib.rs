//! The guest channel: many byte streams over one byte pipe, and the two handshakes around it.
//!
//! [`HostSession`] and [`guest::run`] are the two ends of one pipe (a virtio-serial port of QEMU, or a socketpair in
//! tests): first a nonce handshake that works in spite of garbage in the pipe, then streams with a port each. [`vsock`]
//! is the other interface, Firecracker's *hybrid vsock*: a Unix socket on which `CONNECT <port>` names the stream.
//!
//! The multiplexing is yamux on the wire. The implementation is our own, because the one maintained crate cannot be
//! used here: a stream that is dropped after its writing half was closed never tells its peer, which then writes to no
//! reader until the session ends; and opening one stream too many ends the session. A test talks to that crate to prove
//! compatibility.
//!
//! [`archive`] has the handling of files in tar archives, which both ends of a copy over the channel share.
//!
//! The cost of a peer is bounded: [`WINDOW`] bytes of unread data per stream, [`OUTBOX`] bytes of unsent data per
//! stream, and `MAX_STREAMS` streams per session, of which a guest may open [`MAX_GUEST_STREAMS`] at a host.

pub mod archive;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod guest;
mod handshake;
mod host;
mod session;
pub mod vsock;

pub use frame::WINDOW;
pub use host::HostSession;
pub use session::{
    Ended,
    dial::{DialError, Dialer},
    driver::Driver,
    inbound::{Inbound, Incoming},
    mux::{MAX_GUEST_STREAMS, OUTBOX},
    stream::Stream,
};
