//! Edits the user's own `~/.ssh/config`: banger adds one line at the top, between two marks, and removes exactly that.
//!
//! The line is at the top because ssh takes the first value of an option, and it is an `Include` because a section
//! there would absorb the user's first lines. Everything else in the file stays unchanged, byte by byte.

use banger_proto::failure::{Code, Failure};
use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

const BEGIN: &str = "# >>> banger (banger ssh-config --uninstall removes this) >>>";
const END: &str = "# <<< banger <<<";
/// Line between the marks in a file that existed and was empty. Without it, a file in which nothing else is left is
/// deleted.
const WAS_EMPTY: &str = "# The file was there before, and empty.";
/// Most bytes of a file that is edited.
const MAX_FILE: u64 = 4 << 20;

/// Result of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edit {
    Changed,
    /// The file was as requested already.
    Unchanged,
}

/// Adds an include of `included` (already quoted) to the file.
pub(crate) fn install(file: &Path, included: &str) -> Result<Edit, Failure> {
    edit(file, |text| with(text, included))
}

/// Removes what [`install`] added.
pub(crate) fn uninstall(file: &Path) -> Result<Edit, Failure> {
    edit(file, |text| without(text.unwrap_or_default()))
}

/// Returns the text with the block at its top, in place of any other block of banger's.
fn with(text: Option<&[u8]>, included: &str) -> Result<Vec<u8>, Broken> {
    let note = if text.is_some_and(was_empty) { format!("{WAS_EMPTY}\n") } else { String::new() };
    let block = format!("{BEGIN}\nInclude {included}\n{note}{END}\n");
    let text = text.unwrap_or_default();
    let rest = without(text)?;
    if text.len() != rest.len() && contains(text, block.as_bytes()) && rest.len() + block.len() == text.len() {
        return Ok(text.to_vec());
    }
    Ok([block.as_bytes(), &rest].concat())
}

/// Returns the text without any block of banger's.
fn without(text: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut rest = Vec::with_capacity(text.len());
    let mut inside = false;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.trim_ascii();
        match (inside, bare == BEGIN.as_bytes(), bare == END.as_bytes()) {
            (false, true, _) => inside = true,
            (true, _, true) => inside = false,
            (true, true, _) | (false, _, true) => return Err(Broken),
            (true, ..) => {}
            (false, ..) => rest.extend_from_slice(line),
        }
    }
    if inside { Err(Broken) } else { Ok(rest) }
}

/// Whether the file existed and was empty before banger added its block: it is then kept when the block is removed.
fn was_empty(text: &[u8]) -> bool {
    text.is_empty() || contains(text, WAS_EMPTY.as_bytes())
}

/// One mark was found without the other, so the extent of the block is unknown.
#[derive(Debug, PartialEq, Eq)]
struct Broken;

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn edit(file: &Path, change: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>, Broken>) -> Result<Edit, Failure> {
    let failed = |what: &str, error: &io::Error| {
        let code = if error.kind() == io::ErrorKind::PermissionDenied { Code::Denied } else { Code::Unavailable };
        Failure::caused_by(code, format!("cannot {what} {}", file.display()), error)
    };
    // The user may keep the file elsewhere behind a link: the target is edited, the link stays.
    let target = target(file).map_err(|error| failed("find", &error))?;
    let (text, mode) = match fs::metadata(&target) {
        Ok(meta) if !meta.is_file() => {
            return Err(Failure::new(Code::Invalid, format!("{} is not a file", file.display())));
        }
        Ok(meta) if meta.len() > MAX_FILE => {
            return Err(Failure::new(Code::Invalid, format!("{} is larger than 4 MiB", file.display())));
        }
        Ok(meta) => (Some(fs::read(&target).map_err(|error| failed("read", &error))?), meta.mode() & 0o777),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, 0o600),
        Err(error) => return Err(failed("read", &error)),
    };
    let old = text.as_deref().unwrap_or_default();
    let new = change(text.as_deref()).map_err(|Broken| {
        Failure::new(Code::Conflict, format!("{} has one of banger's marks without the other", file.display()))
            .cause(format!("{BEGIN:?} and {END:?} belong together"))
            .hint("remove the lines that are banger's by hand, then try again")
    })?;
    if new == old {
        return Ok(Edit::Unchanged);
    }
    if new.is_empty() && !was_empty(old) && !file.is_symlink() {
        // The file never had anything else.
        fs::remove_file(&target).map_err(|error| failed("remove", &error))?;
        return Ok(Edit::Changed);
    }
    write(&target, &new, mode).map_err(|error| failed("write", &error))?;
    Ok(Edit::Changed)
}

/// Resolves a chain of links; the target need not exist.
fn target(file: &Path) -> io::Result<PathBuf> {
    let mut path = file.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(link) => path = path.parent().unwrap_or_else(|| Path::new("/")).join(link),
            Err(_) => return Ok(path),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// Writes the file atomically, with its previous mode.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let mut file = tempfile::Builder::new().prefix(".banger-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const UGLY: [&[u8]; 8] = [
        b"",
        b"Host a\n    User b\n",
        b"User first\n\nHost *\n  Port 2222",
        b"Host a\r\n    User b\r\n",
        b"\xff\xfe not UTF-8 \x00\n",
        b"\n\n\n",
        b"# >>> somebody else >>>\nInclude x\n# <<< somebody else <<<\n",
        b"Match exec \"true\"\n\tHostName %h",
    ];

    #[test]
    fn what_was_there_is_there_again_byte_by_byte() {
        let temp = tempfile::tempdir().unwrap();
        for (n, ugly) in UGLY.iter().enumerate() {
            let file = temp.path().join(format!("{n}/config"));
            if !ugly.is_empty() {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, ugly).unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            }
            assert_eq!(install(&file, "\"/x\"").unwrap(), Edit::Changed);
            let installed = fs::read(&file).unwrap();
            assert!(installed.starts_with(BEGIN.as_bytes()) && installed.ends_with(ugly));
            assert_eq!(install(&file, "\"/x\"").unwrap(), Edit::Unchanged);
            assert_eq!(install(&file, "\"/y\"").unwrap(), Edit::Changed);
            assert_eq!(fs::read(&file).unwrap().len(), installed.len());
            let mode = if ugly.is_empty() { 0o600 } else { 0o640 };
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(uninstall(&file).unwrap(), Edit::Changed);
            assert_eq!(fs::read(&file).unwrap_or_default(), *ugly);
            assert_eq!(uninstall(&file).unwrap(), Edit::Unchanged);
        }
    }

    #[test]
    fn an_empty_file_is_there_again() {
        let temp = tempfile::tempdir().unwrap();
        let (file, none) = (temp.path().join("config"), temp.path().join("none"));
        fs::write(&file, "").unwrap();
        for file in [&file, &none] {
            assert_eq!(install(file, "\"/x\"").unwrap(), Edit::Changed);
            assert_eq!(install(file, "\"/x\"").unwrap(), Edit::Unchanged);
            install(file, "\"/y\"").unwrap();
            assert_eq!(uninstall(file).unwrap(), Edit::Changed);
        }
        assert!(fs::read(&file).unwrap().is_empty() && !none.exists());
        // Text that was added meanwhile stays.
        install(&file, "\"/x\"").unwrap();
        fs::write(&file, [&fs::read(&file).unwrap()[..], b"Host a\n"].concat()).unwrap();
        uninstall(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"Host a\n");
    }

    #[test]
    fn a_block_stays_where_its_user_put_it_and_doubles_become_one() {
        let block = format!("{BEGIN}\nInclude \"/x\"\n{END}\n");
        let moved = format!("Host a\n{block}Host b\n");
        assert_eq!(with(Some(moved.as_bytes()), "\"/x\"").unwrap(), moved.as_bytes());
        let twice = format!("{block}Host a\n{block}");
        assert_eq!(with(Some(twice.as_bytes()), "\"/x\"").unwrap(), format!("{block}Host a\n").as_bytes());
    }

    #[test]
    fn half_a_block_is_not_guessed_at() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("config");
        for text in [format!("{BEGIN}\nHost a\n"), format!("Host a\n{END}\n"), format!("{BEGIN}\n{BEGIN}\n{END}\n")] {
            fs::write(&file, &text).unwrap();
            assert_eq!(install(&file, "\"/x\"").unwrap_err().code, Code::Conflict);
            assert_eq!(uninstall(&file).unwrap_err().code, Code::Conflict);
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[test]
    fn a_link_stays_a_link() {
        let temp = tempfile::tempdir().unwrap();
        let (file, kept) = (temp.path().join("config"), temp.path().join("dotfiles/ssh"));
        fs::create_dir(temp.path().join("dotfiles")).unwrap();
        symlink("dotfiles/ssh", &file).unwrap();
        install(&file, "\"/x\"").unwrap();
        assert!(file.is_symlink() && fs::read_to_string(&kept).unwrap().contains("Include"));
        uninstall(&file).unwrap();
        assert!(file.is_symlink() && fs::read(&kept).unwrap().is_empty());
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(install(&file, "\"/x\"").unwrap_err().code, Code::Invalid);
    }

    #[test]
    fn a_link_to_nothing_gets_its_file_and_a_ring_of_links_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let (file, kept) = (temp.path().join("config"), temp.path().join("away/ssh"));
        symlink("away/ssh", &file).unwrap();
        install(&file, "\"/x\"").unwrap();
        assert!(file.is_symlink() && fs::metadata(&kept).unwrap().mode() & 0o777 == 0o600);
        fs::remove_file(&file).unwrap();
        symlink("config", &file).unwrap();
        assert!(install(&file, "\"/x\"").is_err() && uninstall(&file).is_err());
        assert!(file.is_symlink());
    }

    #[test]
    fn what_is_too_large_or_odd_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("config");
        fs::write(&file, vec![b'\n'; usize::try_from(MAX_FILE).unwrap() + 1]).unwrap();
        for edited in [install(&file, "\"/x\""), uninstall(&file)] {
            assert_eq!(edited.unwrap_err().code, Code::Invalid);
        }
        assert_eq!(fs::metadata(&file).unwrap().len(), MAX_FILE + 1);
        // A read-only file stays read-only. No temporary file is left.
        fs::write(&file, "Host a\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        install(&file, "\"/x\"").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o400);
        uninstall(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o400);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    /// ssh itself shows that the user's settings stay in force, whatever precedes them in the file.
    #[test]
    fn ssh_reads_the_same_of_what_was_there() {
        if !banger_testkit::require("ssh") {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (file, included) = (temp.path().join("config"), temp.path().join("vms"));
        fs::write(&included, "Host *.vm\n  User root\n  Port 2200\n").unwrap();
        let asked = |host: &str| {
            let args = ["-G", "-F", file.to_str().unwrap(), host];
            let out = std::process::Command::new("ssh").args(args).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        for text in [
            "",
            "User first\n\nHost *\n  Port 2222",
            "Host a\r\n  User b\r\n",
            "Match host a\n  User m\nHost *\n User z\n",
        ] {
            fs::write(&file, text).unwrap();
            let before = asked("a");
            install(&file, &format!("\"{}\"", included.display())).unwrap();
            assert_eq!(asked("a"), before, "{text:?}");
            let vm = asked("x.vm");
            assert!(vm.contains("\nuser root\n") || vm.starts_with("user root\n"), "{text:?}: {vm}");
            assert!(vm.contains("\nport 2200\n"), "{text:?}: {vm}");
        }
    }
}
