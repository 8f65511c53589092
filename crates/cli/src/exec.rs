//! The client side of an exec session: one process in a guest, joined to streams and signals here.

pub(crate) mod capture;
pub(crate) mod keyboard;
pub(crate) mod outlet;
pub(crate) mod session;
pub(crate) mod terminal;
#[cfg(test)]
mod tests;
