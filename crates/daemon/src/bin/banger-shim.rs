//! Entry point of `banger-shim`; see `banger_daemon::shim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_daemon::shim::main()
}
