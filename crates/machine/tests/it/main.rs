//! Component tests of the machine crate.

#![expect(clippy::unwrap_used, reason = "a test may panic anywhere, its helpers too")]

mod confinement;
mod conformance;
mod corpora;
mod firecracker;
mod machine;
mod misbehaviour;
mod snapshot;
