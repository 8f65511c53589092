//! The real `banger` program against a daemon and an agent made here, which say exactly what a test wants.
//!
//! What the real ones do is for the product tests; here stands how the command line looks, what it asks for, and how it
//! behaves when the other end is slow, absent, hostile or old.

#![expect(clippy::unwrap_used, reason = "tests")]

mod agent;
mod bad_input;
mod completion;
mod copy;
mod corpora;
mod data;
mod events;
mod fake;
mod groups;
mod interrupt;
mod session;
mod start;
mod terminal;
mod verbs;
