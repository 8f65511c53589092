//! Files of the user that every VM gets: read when the agent answers, sent as one archive.
//!
//! The kernel resolves each path beneath the user's home (openat2), so links may lead anywhere in the home and nowhere
//! else. A missing file is left out and reported; the VM starts all the same.

use super::{Capability, Hook, Launch};
use crate::{config::FileSync, failures::because, operation::Operation, store::VmRow, vm::Agent};
use banger_proto::{
    agent::event::Ready,
    failure::{Code, Failure},
    layout::Layout,
};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

pub(crate) struct FileSyncCapability {
    pub(crate) layout: Layout,
    /// Home directory of the user.
    pub(crate) home: Option<PathBuf>,
    pub(crate) files: Vec<FileSync>,
}

impl Capability for FileSyncCapability {
    fn name(&self) -> &'static str {
        "file-sync"
    }

    fn phase(&self) -> &'static str {
        "files"
    }

    /// Reports the missing files here, because a client still listens.
    fn contribute<'a>(&'a self, _vm: &'a VmRow, _launch: &'a mut Launch, operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            for file in &self.files {
                if let Err(error) = self.read(file) {
                    operation.notice(format!("file_sync leaves out {file}: {error}"));
                }
            }
            Ok(())
        })
    }

    fn after_start<'a>(&'a self, vm: &'a VmRow, _ready: &'a Ready) -> Hook<'a> {
        Box::pin(async {
            if self.files.is_empty() {
                return Ok(());
            }
            let archive =
                self.archive().map_err(|error| because(Code::Internal, "cannot pack file_sync's files", &error))?;
            let agent = Agent::of(&self.layout, &vm.id);
            agent.unpack(archive).await.map_err(|failure| {
                Failure::new(failure.code, "cannot copy the files of [[file_sync]] into the guest")
                    .cause(failure.to_string())
            })
        })
    }
}

impl FileSyncCapability {
    fn archive(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for file in &self.files {
            let Ok(content) = self.read(file) else { continue };
            let mut header = tar::Header::new_gnu();
            header.set_mode(file.mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(banger_machine::clock::now());
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, file.guest.trim_start_matches('/'), content.as_slice())?;
        }
        archive.into_inner()
    }

    fn read(&self, file: &FileSync) -> io::Result<Vec<u8>> {
        let home = self.home.as_deref().ok_or_else(|| io::Error::other("HOME is not set"))?;
        read_below(home, &file.host)
    }
}

fn read_below(home: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let home = open(home, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(&home, path, flags, Mode::empty(), beneath).map_err(|error| match error {
        Errno::XDEV => io::Error::new(io::ErrorKind::PermissionDenied, "a link in it leaves your home"),
        error => error.into(),
    })?;
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn nothing_outside_the_home_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let (home, outside) = (temp.path().join("home"), temp.path().join("outside"));
        for dir in [&home, &outside] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(outside.join("secret"), "x").unwrap();
        fs::write(home.join("file"), "mine").unwrap();
        symlink("file", home.join("inside")).unwrap();
        symlink("../outside/secret", home.join("leaves")).unwrap();
        symlink(outside.join("secret"), home.join("absolute")).unwrap();
        symlink("../outside", home.join("dir")).unwrap();
        fs::write(home.join("large"), vec![0; (1 << 20) + 1]).unwrap();
        assert_eq!(read_below(&home, Path::new("file")).unwrap(), b"mine");
        assert_eq!(read_below(&home, Path::new("inside")).unwrap(), b"mine");
        for path in ["leaves", "absolute", "dir/secret", "../outside/secret", "missing", "large", "."] {
            assert!(read_below(&home, Path::new(path)).is_err(), "{path}");
        }
    }
}
