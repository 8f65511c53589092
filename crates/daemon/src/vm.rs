//! VmService: every VM's life, from a request to nothing left.
//!
//! One task owns each VM and takes what is asked of it through a mailbox; what is legal when is [`policy`], a pure
//! function; everything a VM holds is written down before it is taken, and [`release`] gives it back, whoever asks.
//!
//! ```text
//!  state      holds                                      ends up there when
//!  created    row, state directory, work disk            create --no-start
//!  starting   + run directory, shim, VMM                 start; adopted by a later daemon as it is; others see it
//!                                                       from the moment that a start is asked for
//!  running    the same, and an agent that answers        Ready
//!  stopping   the same, on its way down                  stop, restart
//!  stopped    row, state directory, work disk            power-off, stop, kill
//!  failed     the same, with a reason                    the guest or the VMM died, or never became ready
//! ```

mod admission;
mod age;
mod await_agent;
mod await_boot;
mod console;
mod create;
mod guest;
mod keeper;
mod lease;
mod look_again;
mod naming;
mod owner;
mod phases;
mod policy;
mod reconcile;
mod release;
mod service;
mod set;
mod set_network;
mod silence;
mod sockets;
mod spec;
mod standing;
mod start;
mod stats;
mod stop;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod view;
mod words;

pub(crate) use console::{QUOTED_LINE, QUOTED_LINES, quoted, send as send_console};
pub(crate) use guest::Agent;
pub(crate) use policy::{Op, StopCause};
pub(crate) use service::{Parts, VmService};
pub(crate) use words::{MAX_WORDS, refusal};
