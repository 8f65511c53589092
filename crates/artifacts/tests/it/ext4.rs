//! Inspection of images with independent tools: `e2fsck`, `debugfs`, and another reader.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use banger_artifacts::program::Program;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Image file and an independent reader of it.
pub(crate) struct Image {
    path: PathBuf,
    reader: ext4_view::Ext4,
}

impl Image {
    pub(crate) fn open(path: &Path) -> Self {
        Self { path: path.to_owned(), reader: ext4_view::Ext4::load_from_path(path).unwrap() }
    }

    pub(crate) fn read(&self, path: impl AsRef<[u8]>) -> Vec<u8> {
        self.reader.read(ext4_view::Path::try_from(path.as_ref()).unwrap()).unwrap()
    }

    pub(crate) fn link(&self, path: impl AsRef<[u8]>) -> Vec<u8> {
        self.reader.read_link(ext4_view::Path::try_from(path.as_ref()).unwrap()).unwrap().as_ref().to_vec()
    }

    pub(crate) fn is_dir(&self, path: impl AsRef<[u8]>) -> bool {
        let path = ext4_view::Path::try_from(path.as_ref()).unwrap();
        self.reader.symlink_metadata(path).unwrap().is_dir()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.reader.exists(path).unwrap()
    }

    /// Returns the output of `debugfs` about one inode.
    pub(crate) fn stat(&self, path: &str) -> String {
        self.debugfs(&format!("stat \"{path}\""))
    }

    pub(crate) fn debugfs(&self, request: &str) -> String {
        tool("debugfs", &["-R", request, self.path.to_str().unwrap()])
    }
}

/// Returns the answers of `debugfs` to requests, one line of bytes each: the request, then its answer.
pub(crate) fn debugfs(image: &Path, requests: Vec<u8>) -> String {
    let mut debugfs = Command::new(Program::find("debugfs").unwrap())
        .arg(image)
        // Names are bytes.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It answers while it is asked: what it says must not wait for the end of what is said to it.
    let mut stdin = debugfs.stdin.take().unwrap();
    let asking = std::thread::spawn(move || stdin.write_all(&requests).unwrap());
    let said = debugfs.wait_with_output().unwrap().stdout;
    asking.join().unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

/// Returns what a program of e2fsprogs prints on stdout.
pub(crate) fn tool(name: &str, args: &[&str]) -> String {
    let output = Command::new(Program::find(name).unwrap()).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails if `e2fsck` finds anything wrong with the image.
pub(crate) fn check(path: &Path) {
    let output = Command::new(Program::find("e2fsck").unwrap()).args(["-f", "-n"]).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "e2fsck: {said}{}", String::from_utf8_lossy(&output.stderr));
}
