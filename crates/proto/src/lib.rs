//! The contracts banger's processes meet in.
//!
//! Every process of banger (CLI, daemon, shim, agent) is built from this crate and from no other process's crate.
//! It decides the *shape* of names, sizes, failures and messages; it does no I/O and knows no behaviour.

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
