//! Entry point of `banger-shim`; see `banger_machine::shim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_machine::shim::main()
}
