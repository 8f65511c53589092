//! VmService: every VM's life, from the request to its complete removal.
//!
//! One task owns each VM and takes commands from a mailbox. Which command is legal when is decided by [`policy`], a
//! pure function. Whatever a VM holds on this host is recorded before it is taken, and [`release`] gives it back,
//! whoever asks.
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
mod agent;
mod console;
mod create;
mod expiry;
mod guest_text;
mod lease;
mod live_state;
mod mailbox;
mod naming;
mod owner;
mod phases;
mod policy;
mod readopt;
mod reconcile;
mod release;
mod service;
mod set;
mod sockets;
mod spec;
mod start;
mod stats;
mod stop;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod view;
mod wait;
mod watchdog;

pub(crate) use agent::Agent;
pub(crate) use console::{QUOTED_LINE, QUOTED_LINES, quoted, send as send_console};
pub(crate) use guest_text::{MAX_GUEST_TEXT, agent_refusal};
pub(crate) use policy::{Op, StopCause};
pub(crate) use service::{Parts, VmService};
