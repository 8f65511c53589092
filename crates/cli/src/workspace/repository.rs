//! Finds the repository around a path without asking git, which would believe what the repository says of itself.
//!
//! A `.git` that points elsewhere is followed only if its target points back, as a worktree's and a submodule's does: a
//! directory that somebody sent must not import another repository of this user into a guest.

use super::{cannot, git::Git};
use banger_proto::failure::{Code, Failure};
use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// Largest file that holds a path, in bytes.
const MAX_POINTER: u64 = 8 << 10;
/// Files and directories that git reads in a git directory and in the one that worktrees share.
const READ: [&str; 8] =
    ["HEAD", "index", "objects", "objects/pack", "objects/info", "objects/info/alternates", "packed-refs", "refs"];

/// A repository with a working tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// Root of the working tree.
    pub(crate) root: PathBuf,
    /// Directory of HEAD and index.
    pub(crate) git_dir: PathBuf,
    /// Directory of objects and refs; differs from `git_dir` in a worktree.
    pub(crate) common_dir: PathBuf,
}

impl Repository {
    /// Finds the repository that `path` is in.
    pub(crate) fn around(git: &Git, path: &Path) -> Result<Self, Failure> {
        let start = path.canonicalize().map_err(|error| cannot("open", path, &error))?;
        if !start.is_dir() {
            return Err(Failure::new(Code::Invalid, format!("{} is not a directory", path.display())));
        }
        for dir in start.ancestors() {
            if is_git_dir(dir) {
                return Err(Failure::new(Code::Invalid, format!("{} is a bare repository", dir.display()))
                    .hint("clone it, and use the clone: only a repository with a working tree can be brought"));
            }
            if dir.join(".git").symlink_metadata().is_ok() {
                return Self::at(git, dir);
            }
        }
        Err(Failure::new(Code::NotFound, format!("{} is not in a git repository", path.display()))
            .hint("'git init' makes one; banger vm cp copies a directory that is none"))
    }

    /// Opens the repository whose working tree is exactly `root`.
    pub(crate) fn at(git: &Git, root: &Path) -> Result<Self, Failure> {
        let dot_git = root.join(".git");
        let meta = dot_git.symlink_metadata().map_err(|error| cannot("open", &dot_git, &error))?;
        let (git_dir, points) = if meta.is_dir() {
            (dot_git.clone(), false)
        } else if meta.is_symlink() {
            (dot_git.canonicalize().map_err(|error| cannot("open", &dot_git, &error))?, true)
        } else {
            let target = pointer(&dot_git, b"gitdir: ").map_err(|error| cannot("read", &dot_git, &error))?;
            let target = root.join(target);
            (target.canonicalize().map_err(|error| cannot("open", &target, &error))?, true)
        };
        if !git_dir.join("HEAD").symlink_metadata().is_ok_and(|meta| meta.is_file() || meta.is_symlink()) {
            return Err(Failure::new(Code::Invalid, format!("{} is not a git directory", git_dir.display())));
        }
        let common_dir = match pointer(&git_dir.join("commondir"), b"") {
            Ok(common) => {
                let common = git_dir.join(common);
                common.canonicalize().map_err(|error| cannot("open", &common, &error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => git_dir.clone(),
            Err(error) => return Err(cannot("read", &git_dir.join("commondir"), &error)),
        };
        let repository = Self { root: root.to_owned(), git_dir, common_dir };
        if points && !repository.points_back(git)? {
            return Err(Failure::new(
                Code::Denied,
                format!("{} points to {}, which does not point back", dot_git.display(), repository.git_dir.display()),
            )
            .hint("it may be another repository than it looks; a worktree or submodule git made itself is fine"));
        }
        if !repository.git_dir.starts_with(&repository.common_dir) {
            return Err(Failure::new(
                Code::Denied,
                format!("{} takes its objects from a directory it is not in", repository.git_dir.display()),
            ));
        }
        if let Some(link) = repository.link()? {
            return Err(Failure::new(
                Code::Denied,
                format!("{} is a link: it may lead to another repository", link.display()),
            )
            .hint("'git clone' makes a repository of its own"));
        }
        Ok(repository)
    }

    /// Returns a symbolic link by which git would read objects, refs or the index of somebody else. The only legitimate
    /// one is an old form of HEAD: a link to a ref.
    fn link(&self) -> Result<Option<PathBuf>, Failure> {
        for dir in [&self.git_dir, &self.common_dir] {
            for name in READ {
                let path = dir.join(name);
                let Ok(target) = fs::read_link(&path) else { continue };
                let plain = target.components().all(|part| matches!(part, Component::Normal(_)));
                if name != "HEAD" || !plain || !target.starts_with("refs") {
                    return Ok(Some(path));
                }
            }
        }
        // A ref that is a link has the content of a file elsewhere.
        let refs = [self.git_dir.join("refs"), self.common_dir.join("refs")];
        link_below(&refs).map_err(|error| cannot("read", &refs[1], &error))
    }

    /// Returns the directory of its objects.
    pub(crate) fn objects(&self) -> PathBuf {
        self.common_dir.join("objects")
    }

    /// Whether some of its objects are in other directories.
    pub(crate) fn borrows(&self) -> bool {
        fs::metadata(self.objects().join("info/alternates")).is_ok_and(|list| list.len() > 0)
    }

    /// Whether the git directory names this working tree as its own.
    fn points_back(&self, git: &Git) -> Result<bool, Failure> {
        let is_ours = |path: &Path, ours: &Path| path.canonicalize().is_ok_and(|path| path == ours);
        // A worktree's git directory names the file that led here.
        if let Ok(back) = pointer(&self.git_dir.join("gitdir"), b"") {
            return Ok(is_ours(&self.git_dir.join(back), &self.root.join(".git")));
        }
        // A submodule's git directory names its working tree.
        let config = self.git_dir.join("config");
        let args = [OsStr::new("config"), OsStr::new("--file"), config.as_os_str()];
        let worktree = git.call().args(args).args(["--get", "core.worktree"]).line()?;
        Ok(worktree.is_some_and(|worktree| is_ours(&self.git_dir.join(worktree), &self.root)))
    }
}

fn link_below(dirs: &[PathBuf]) -> io::Result<Option<PathBuf>> {
    let mut dirs = dirs.to_vec();
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                return Ok(Some(entry.path()));
            }
            if kind.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(None)
}

/// Whether git would take `dir` for a git directory.
fn is_git_dir(dir: &Path) -> bool {
    dir.join("HEAD").is_file() && dir.join("objects").is_dir() && dir.join("refs").is_dir()
}

/// Reads the path in a file of one line, after `prefix`.
fn pointer(file: &Path, prefix: &[u8]) -> io::Result<PathBuf> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(MAX_POINTER).read_to_end(&mut bytes)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "it does not name a git directory");
    let line = bytes.strip_prefix(prefix).ok_or_else(invalid)?;
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.is_empty() || line.contains(&b'\n') || line.contains(&0) {
        return Err(invalid());
    }
    Ok(PathBuf::from(OsStr::from_bytes(line)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn git(dir: &Path, args: &[&str]) {
        let status = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"])
            .args(args)
            .current_dir(dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(status.status.success(), "{args:?}: {}", String::from_utf8_lossy(&status.stderr));
    }

    fn around(path: &Path) -> Result<Repository, Failure> {
        Repository::around(&Git::find().unwrap(), path)
    }

    #[test]
    fn a_repository_is_found_from_within() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap().join("repo");
        fs::create_dir_all(root.join("a/b")).unwrap();
        assert_eq!(around(&root).unwrap_err().code, Code::NotFound);
        git(&root, &["init", "-q"]);
        let found = around(&root.join("a/b")).unwrap();
        assert_eq!((found.root.as_path(), found.common_dir.as_path()), (root.as_path(), root.join(".git").as_path()));
        assert!(around(&root.join(".git")).unwrap_err().message.contains("bare"));
        git(temp.path(), &["clone", "-q", "--bare", "repo", "bare.git"]);
        assert!(around(&temp.path().join("bare.git")).unwrap_err().message.contains("bare"));
    }

    #[test]
    fn worktrees_and_submodules_point_back_and_strangers_do_not() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().canonicalize().unwrap().join(name);
        fs::create_dir(at("main")).unwrap();
        git(&at("main"), &["init", "-q"]);
        git(&at("main"), &["commit", "-q", "--allow-empty", "-m", "x"]);
        git(&at("main"), &["worktree", "add", "-q", "../tree"]);
        let tree = around(&at("tree")).unwrap();
        assert_eq!(tree.common_dir, at("main/.git"));
        fs::create_dir(at("super")).unwrap();
        git(&at("super"), &["init", "-q"]);
        git(&at("super"), &["submodule", "add", "-q", "../main", "sub"]);
        assert_eq!(around(&at("super/sub")).unwrap().git_dir, at("super/.git/modules/sub"));

        for content in [format!("gitdir: {}\n", at("main/.git").display()), "gitdir: ../tree/.git\n".into()] {
            fs::create_dir_all(at("stranger")).unwrap();
            fs::write(at("stranger/.git"), content).unwrap();
            assert!(around(&at("stranger")).is_err());
        }
        fs::remove_file(at("stranger/.git")).unwrap();
        std::os::unix::fs::symlink(at("main/.git"), at("stranger/.git")).unwrap();
        assert_eq!(around(&at("stranger")).unwrap_err().code, Code::Denied);
        // A git directory that borrows somebody else's objects is refused as well.
        fs::remove_file(at("stranger/.git")).unwrap();
        fs::create_dir(at("stranger/.git")).unwrap();
        fs::write(at("stranger/.git/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(at("stranger/.git/commondir"), "../../main/.git\n").unwrap();
        assert_eq!(around(&at("stranger")).unwrap_err().code, Code::Denied);
    }
    #[test]
    fn links_in_a_git_directory_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().canonicalize().unwrap().join(name);
        for name in ["private", "stranger"] {
            fs::create_dir(at(name)).unwrap();
            git(&at(name), &["init", "-q", "-b", "main"]);
            git(&at(name), &["commit", "-q", "--allow-empty", "-m", name]);
        }
        let (theirs, ours) = (at("private/.git"), at("stranger/.git"));
        for name in ["HEAD", "index", "objects", "objects/pack", "refs", "refs/heads", "refs/heads/main", "packed-refs"]
        {
            let (kept, place) = (at("kept"), ours.join(name));
            let had = fs::rename(&place, &kept).is_ok();
            std::os::unix::fs::symlink(theirs.join(name), &place).unwrap();
            let failure = around(&at("stranger")).unwrap_err();
            assert_eq!(failure.code, Code::Denied, "{name}: {failure:?}");
            assert!(failure.message.contains(name), "{name}: {failure:?}");
            fs::remove_file(&place).unwrap();
            if had {
                fs::rename(&kept, &place).unwrap();
            }
        }
        // HEAD as early versions of git made it.
        fs::remove_file(ours.join("HEAD")).unwrap();
        std::os::unix::fs::symlink("refs/heads/main", ours.join("HEAD")).unwrap();
        around(&at("stranger")).unwrap();
    }
}
