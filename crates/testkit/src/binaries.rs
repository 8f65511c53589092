//! Location of the programs under test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Directory with `banger`, `bangerd`, `banger-shim`, `banger-vsock-agent` and the fake programs.
///
/// `BANGER_BIN_DIR` if set; else `scripts/build.sh dev` is run, once per test program, so that nobody tests programs
/// older than the last edit.
pub fn bin_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = std::env::var_os("BANGER_BIN_DIR").map_or_else(build, PathBuf::from);
        for program in ["banger", "bangerd", "bangerd-root", "banger-shim", "banger-vsock-agent"] {
            assert!(
                dir.join(program).is_file(),
                "{} is missing: run scripts/build.sh dev",
                dir.join(program).display()
            );
        }
        dir
    })
}

/// Root of the repository.
pub(crate) fn repository() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.ancestors().nth(2).expect("crates/testkit is two levels down").to_path_buf()
}

fn build() -> PathBuf {
    let repository = repository();
    let built = Command::new("scripts/build.sh")
        .arg("dev")
        .current_dir(&repository)
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/build.sh can be run");
    assert!(built.status.success(), "scripts/build.sh dev failed");
    let dir = String::from_utf8(built.stdout).expect("a directory");
    repository.join(dir.trim_end())
}
