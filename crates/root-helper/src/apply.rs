//! Applies nftables rule sets as text with `nft`, the only program the helper runs.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Most bytes of nft's stderr repeated in an error.
const MAX_STDERR: usize = 1000;

/// The `nft` program.
#[derive(Debug, Clone)]
pub(crate) struct Nft(PathBuf);

impl Nft {
    /// Finds `nft` where distributions install it.
    pub(crate) fn find() -> Option<Self> {
        ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft", "/run/current-system/sw/bin/nft"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.is_file())
            .map(Self)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Applies a text in one transaction.
    pub(crate) fn apply(&self, text: &str) -> io::Result<()> {
        let mut command = Command::new(&self.0);
        command.args(["-f", "-"]).env_clear().env("LANG", "C").current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        // nft may have ended already; its exit status then reports the failure.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output()?;
        if output.status.success() { Ok(()) } else { Err(refused(&output.stderr)) }
    }
}

fn refused(stderr: &[u8]) -> io::Error {
    let words: String = String::from_utf8_lossy(stderr).trim().chars().take(MAX_STDERR).collect();
    io::Error::other(format!("nft refused the rules: {words}"))
}
