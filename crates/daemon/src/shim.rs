//! The shim: one small process per VM that owns the VMM child, its console log and its exit status.

pub mod control;
