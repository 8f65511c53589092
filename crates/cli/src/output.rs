//! Output to the user's terminal.

pub(crate) mod age;
pub(crate) mod escape;
pub(crate) mod printer;
pub(crate) mod progress;
pub(crate) mod table;
