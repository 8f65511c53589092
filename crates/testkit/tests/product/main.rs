//! The whole product on the fake VMM: real CLI, real daemon, real shim, real agent, and no virtual machine.
