//! Quotas for the streams of a session with the guest. Clients of published ports cannot use up the user's streams, and
//! the user cannot use up the daemon's: otherwise a VM could not be stopped in order.

use banger_link::MAX_GUEST_STREAMS;
use banger_proto::agent::link::MAX_STREAMS;

/// Connections to published ports, over all ports.
pub const PUBLISHED: usize = 224;
/// Streams of the user: commands, copies, ssh.
pub const USER: usize = 240;
/// Streams of the daemon: a few short requests at once.
pub const DAEMON: usize = 16;
/// Streams whose handle is dropped while their last bytes are still in transit.
const ENDING: usize = 16;

const _: () = assert!(PUBLISHED + USER + DAEMON + ENDING + MAX_GUEST_STREAMS <= MAX_STREAMS, "more than there are");
