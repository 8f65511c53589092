//! The contracts between banger's processes.
//!
//! Every process of banger (CLI, daemon, shim, helper, agent) depends on this crate and on no other process's crate. It
//! defines the *shape* of names, sizes, failures and messages; it does no I/O and contains no behaviour.

pub mod agent;
pub mod api;
pub mod failure;
pub mod framing;
pub mod helper;
pub mod layout;
pub mod name;
pub mod network;
pub mod size;
pub mod span;
pub mod time;
mod words;
