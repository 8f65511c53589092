//! Writes a file or directory of this host as a tar stream.

use banger_link::archive::mtime;
use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File, Metadata},
    io::{self, Read as _, Write},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};
use tar::{Builder, EntryType, Header};

/// Most hard links that are remembered; beyond, a file is written once per name.
const MAX_LINKED: usize = 1 << 16;

/// Writes `source` as `name`, links as links. Returns the paths that were left out because they are neither files,
/// directories nor links.
pub(crate) fn pack(stream: impl Write, source: &Path, name: &OsStr) -> io::Result<Vec<PathBuf>> {
    let mut packer = Packer { builder: Builder::new(stream), linked: HashMap::new(), skipped: Vec::new() };
    packer.add(source, &PathBuf::from(name)).map_err(|(path, error)| {
        if error.kind() == io::ErrorKind::BrokenPipe {
            error
        } else {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        }
    })?;
    packer.builder.into_inner()?.flush()?;
    Ok(packer.skipped)
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// Device and inode of each file with several links, and its first name.
    linked: HashMap<(u64, u64), PathBuf>,
    skipped: Vec<PathBuf>,
}

impl<W: Write> Packer<W> {
    /// Adds one path and everything below it, in the order of the names.
    fn add(&mut self, path: &Path, name: &Path) -> Result<(), (PathBuf, io::Error)> {
        let failed = |error: io::Error| (path.to_owned(), error);
        let meta = path.symlink_metadata().map_err(failed)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            self.time(&meta).map_err(failed)?;
            let mut header = header(&meta, EntryType::Directory, 0);
            self.builder.append_data(&mut header, name, io::empty()).map_err(failed)?;
            let mut children: Vec<_> =
                fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
            children.sort_by_key(fs::DirEntry::file_name);
            for child in children {
                self.add(&child.path(), &name.join(child.file_name()))?;
            }
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(failed)?;
            self.time(&meta).map_err(failed)?;
            let mut header = header(&meta, EntryType::Symlink, 0);
            self.builder.append_link(&mut header, name, &target).map_err(failed)?;
        } else if kind.is_file() {
            self.file(path, name, &meta).map_err(failed)?;
        } else {
            self.skipped.push(path.to_owned());
        }
        Ok(())
    }

    /// Adds a file with the size it has when it is opened; the stream fails if it shrinks meanwhile. The second name of
    /// a file becomes a hard link to the first.
    fn file(&mut self, path: &Path, name: &Path, meta: &Metadata) -> io::Result<()> {
        if meta.nlink() > 1 {
            if let Some(first) = self.linked.get(&(meta.dev(), meta.ino())) {
                return self.builder.append_link(&mut header(meta, EntryType::Link, 0), name, first);
            }
            if self.linked.len() < MAX_LINKED {
                self.linked.insert((meta.dev(), meta.ino()), name.to_owned());
            }
        }
        let file = File::open(path)?;
        let meta = file.metadata()?;
        self.time(&meta)?;
        let mut header = header(&meta, EntryType::Regular, meta.len());
        let mut content = file.take(meta.len());
        self.builder.append_data(&mut header, name, &mut content)?;
        if content.limit() == 0 {
            return Ok(());
        }
        Err(io::Error::other("the file became shorter while it was copied"))
    }

    /// Writes the PAX record for a time that the next entry's header cannot express.
    fn time(&mut self, meta: &Metadata) -> io::Result<()> {
        match mtime::to_pax(time(meta)) {
            Some(value) => self.builder.append_pax_extensions([("mtime", value.as_bytes())]),
            None => Ok(()),
        }
    }
}

fn time(meta: &Metadata) -> mtime::UnixTime {
    (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0))
}

/// Builds a header. Files in a guest belong to root, as with docker cp.
fn header(meta: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode() & 0o7777);
    header.set_mtime(mtime::header_seconds(time(meta)));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

/// Returns the name of `source` at the destination: its last component, also of `.` and `..`.
pub(crate) fn base_name(source: &Path) -> io::Result<std::ffi::OsString> {
    if let Some(name) = source.file_name() {
        return Ok(name.to_owned());
    }
    let real = source.canonicalize()?;
    match real.file_name() {
        Some(name) => Ok(name.to_owned()),
        None => Ok(OsStr::from_bytes(b"root").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::unpack::unpack;
    use std::{
        fs::FileTimes,
        os::unix::fs::{PermissionsExt as _, symlink},
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    #[test]
    fn what_is_packed_unpacks_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("sub").join("n".repeat(200)), "long name").unwrap();
        fs::write(source.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(source.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("nowhere", source.join("link")).unwrap();
        // A time between two seconds, and one before 1970.
        let moment = |name: &str, time: SystemTime| {
            let file = File::options().read(true).open(source.join(name)).unwrap();
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        };
        moment("run", UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789));
        fs::hard_link(source.join("run"), source.join("sub/again")).unwrap();
        moment("sub", UNIX_EPOCH - Duration::new(1_000, 250_000_000));
        let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();

        let mut bytes = Vec::new();
        let skipped = pack(&mut bytes, &source, OsStr::new("anything")).unwrap();
        assert_eq!(skipped, [source.join("socket")]);
        unpack(bytes.as_slice(), dir.path(), OsStr::new("copy")).unwrap();
        let copy = dir.path().join("copy");
        assert_eq!(fs::read_to_string(copy.join("sub").join("n".repeat(200))).unwrap(), "long name");
        assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("nowhere"));
        assert_eq!(copy.join("run").metadata().unwrap().mode() & 0o777, 0o755);
        let inode = |name: &str| copy.join(name).metadata().unwrap().ino();
        assert_eq!(inode("run"), inode("sub/again"));
        for name in ["run", "sub", "link", "sub/again", "."] {
            let time = |root: &Path| time(&root.join(name).symlink_metadata().unwrap());
            assert_eq!(time(&copy), time(&source), "{name}");
        }
        assert_eq!(time(&copy.join("sub").metadata().unwrap()), (-1_001, 750_000_000));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = pack(Vec::new(), Path::new("/nonexistent/x"), OsStr::new("x")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"), "{error}");
    }

    #[test]
    fn names_of_dots() {
        assert_eq!(base_name(Path::new("a/b/")).unwrap(), "b");
        assert_eq!(base_name(Path::new("/")).unwrap(), "root");
        let here = std::env::current_dir().unwrap();
        assert_eq!(base_name(Path::new(".")).unwrap(), here.file_name().unwrap());
    }
}
