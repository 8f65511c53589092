//! The real `banger` program against a fake daemon and a fake agent, which answer exactly as a test wants.
//!
//! The behavior of the real ones is left to the product tests; these tests check the output of the command line, its
//! requests, and its behavior when the other end is slow, absent, hostile or old.

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
