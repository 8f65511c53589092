//! How the streams of a session with the guest are shared out: who comes through a published port takes none of the
//! user's, and the user takes none of the daemon's. Without the last a VM could not be stopped in order.

use banger_link::MAX_GUEST_STREAMS;
use banger_proto::agent::link::MAX_STREAMS;

/// Connections to published ports, of all ports together.
pub const PUBLISHED: usize = 224;
/// The user's: commands, copies, ssh.
pub const USER: usize = 240;
/// The daemon's: a few short requests at once.
pub const DAEMON: usize = 16;
/// Streams whose handle is gone and whose last bytes are not.
const ENDING: usize = 16;

const _: () = assert!(PUBLISHED + USER + DAEMON + ENDING + MAX_GUEST_STREAMS <= MAX_STREAMS, "more than there are");
