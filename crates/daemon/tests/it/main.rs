//! Component tests of the daemon crate.

#![expect(clippy::unwrap_used, reason = "a test may panic anywhere, its helpers too")]

mod corpora;
mod startup;
