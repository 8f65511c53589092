//! Kernels: everything a kernel can come from, and everything that can be wrong with it.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

mod apt;
mod boot_files;
mod bundle;
mod bzimage;
mod child;
mod fixture;
mod hostile;
mod import;
mod interrupted;
mod loose_files;
mod memory;
mod store;
