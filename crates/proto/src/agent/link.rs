//! The byte pipe between host and guest: session handshake and stream headers.
//!
//! The pipe is a virtio-serial port (QEMU), or a vsock connection (Firecracker) that the host makes to [`LINK_PORT`] of
//! the guest after a process in the guest connected to [`KNOCK_PORT`] of the host: any process may do that, but only
//! root can listen on a port this low. It carries:
//!
//! ```text
//! host  → guest   HELLO (16 bytes) nonce (16 bytes)        repeated until answered; repeats are skipped
//! guest → host    REPLY (16 bytes) nonce (16 bytes)        the host drops everything before it
//! both            yamux frames; each stream begins with a header from its opener:
//!                 port (4 bytes, big endian); the other end answers one byte, [`ACCEPTED`] or [`REFUSED`]
//! ```
//!
//! A guest in a session that reads bytes that are no yamux frame ends the session and waits for HELLO again; a restored
//! snapshot gets into this situation.

/// First bytes of a session. No yamux frame begins with the same byte: a yamux frame begins with version 0.
pub const HELLO: [u8; 16] = *b"banger-hello-v1\n";
/// Answer of the guest to [`HELLO`].
pub const REPLY: [u8; 16] = *b"banger-reply-v1\n";
/// Length of the nonce that ties a reply to its hello, in bytes.
pub const NONCE_LEN: usize = 16;

/// Answer to a stream header: something listens on that port.
pub const ACCEPTED: u8 = 0;
/// Answer to a stream header: nothing listens on that port.
pub const REFUSED: u8 = 1;

/// Guest port of the agent's HTTP server.
pub const AGENT_PORT: u32 = 1024;
/// Host port the agent dials once it serves, to announce itself ([`super::event`]).
pub const EVENTS_PORT: u32 = 1025;

/// Guest vsock port of the agent's end of the pipe. Ports below 1024 are for root.
pub const LINK_PORT: u32 = 1023;
/// Host vsock port the agent connects to and closes again to say that it listens.
pub const KNOCK_PORT: u32 = 1025;

/// Most streams open at once in a session, both directions together.
pub const MAX_STREAMS: usize = 512;
/// Receive window of all streams of a session together, in bytes.
pub const MAX_SESSION_WINDOW: usize = 256 << 20;

/// Name of the virtio-serial port (QEMU `name=`, `/sys/class/virtio-ports/*/name` in the guest).
pub const PORT_NAME: &str = "banger.agent.0";
