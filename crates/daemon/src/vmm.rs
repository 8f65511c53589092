//! Virtual machine monitors: what a machine is made of, and the drivers that make one.

pub mod host;
pub mod kvm_probe;
pub mod plan;
pub mod select;
pub mod tsc;
