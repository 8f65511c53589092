//! Virtual machine monitors: what a machine is made of, and the drivers that make one.

pub mod plan;
