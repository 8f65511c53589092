//! Client side of an exec session: one process in a guest, attached to streams and signals of this process.

pub(crate) mod capture;
pub(crate) mod session;
pub(crate) mod stdin;
pub(crate) mod stream_writer;
pub(crate) mod terminal;
#[cfg(test)]
mod tests;
