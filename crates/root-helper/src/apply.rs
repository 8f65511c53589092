//! Giving nftables a text, and asking it for a set: the only program the helper runs.

use serde_json::Value;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Most of what nft says that is repeated, in bytes.
const MAX_WORDS: usize = 1000;

/// `nft`.
#[derive(Debug, Clone)]
pub(crate) struct Nft(PathBuf);

impl Nft {
    /// Where distributions keep it.
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

    /// Applies a text: all of it, or nothing.
    pub(crate) fn apply(&self, text: &str) -> io::Result<()> {
        let mut child = self.command(&["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        // It may have ended already; then its status says so.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output()?;
        if output.status.success() { Ok(()) } else { Err(refused(&output.stderr)) }
    }

    /// The elements of a set (or, of kind `map`, of a map); none when it is not there.
    pub(crate) fn elements(&self, kind: &str, table: &str, name: &str) -> io::Result<Vec<Value>> {
        let mut command = self.command(&["-j", "-n", "list", kind, "inet", table, name]);
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let missing = String::from_utf8_lossy(&output.stderr).contains("No such file or directory");
            return if missing { Ok(Vec::new()) } else { Err(refused(&output.stderr)) };
        }
        let listing: Value = serde_json::from_slice(&output.stdout)?;
        let sets = listing["nftables"].as_array().into_iter().flatten();
        Ok(sets.filter_map(|entry| entry[kind]["elem"].as_array()).flatten().cloned().collect())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.args(arguments).env_clear().env("LANG", "C").current_dir("/").stderr(Stdio::piped());
        command
    }
}

fn refused(stderr: &[u8]) -> io::Error {
    let words: String = String::from_utf8_lossy(stderr).trim().chars().take(MAX_WORDS).collect();
    io::Error::other(format!("nft refused the rules: {words}"))
}
