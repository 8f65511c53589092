//! Plans an import before there is a VM. Nothing here needs one, so a repository that cannot be imported is refused
//! before a VM is made.

use super::{
    cannot,
    changes::{Changes, RepoPath},
    files::Tree,
    git::Git,
    history::History,
    quote::quoted,
    refs,
    repository::Repository,
    settings::{Config, Settings, Upstream},
    shadow_repository::{ShadowRepository, shallow_of},
    swap,
};
use banger_proto::{
    agent::workspace::HashName,
    api::workspace::Mode,
    failure::{Code, Failure},
};
use std::{
    collections::HashSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Deepest nesting of submodules.
const MAX_NESTING: usize = 16;

/// A user's request to import a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImportRequest {
    /// Any directory in the repository.
    pub(crate) path: PathBuf,
    /// Amount of history that is imported.
    pub(crate) mode: Mode,
    /// Branch to make in the guest only.
    pub(crate) branch: Option<String>,
    /// Commit at which that branch begins.
    pub(crate) from: Option<String>,
    /// Whether untracked files are imported, too.
    pub(crate) include_untracked: bool,
    /// Path in the guest: absolute or below `~/`, without `..`.
    pub(crate) guest_path: String,
}

/// Everything that is known of an import before its first byte is sent.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) request: ImportRequest,
    pub(crate) repository: Repository,
    pub(crate) shadow: ShadowRepository,
    pub(crate) tree: Tree,
    pub(crate) changes: Changes,
    pub(crate) history: History,
    pub(crate) hash: HashName,
    /// Commit of HEAD on the host.
    pub(crate) host_commit: Option<String>,
    /// Commit of HEAD in the guest.
    pub(crate) commit: Option<String>,
    /// Content of the guest's `HEAD`.
    pub(crate) head: String,
    pub(crate) config: Config,
    /// Refs written as loose files: name and object id. They win over what an earlier workspace left.
    pub(crate) loose: Vec<(String, String)>,
    /// All other refs, as lines of `packed-refs`: object id, space, name.
    pub(crate) packed: String,
    /// Hash over the entries of the index.
    pub(crate) staged: String,
    /// Commits at which the guest's history is cut off (git's shallow commits).
    pub(crate) shallow: Vec<String>,
    /// Submodules by their paths (full mode only).
    pub(crate) submodules: Vec<(RepoPath, Plan)>,
    /// Lines to tell the user.
    pub(crate) notices: Vec<String>,
}

impl Plan {
    /// Plans the import. Takes back an `export --apply` that was killed in this repository first.
    pub(crate) fn make(request: ImportRequest) -> Result<Self, Failure> {
        let git = Git::find()?;
        let repository = Repository::around(&git, &request.path)?;
        let notice = swap::roll_back(&repository)?;
        let mut plan = Self::of(&git, repository, request, 0)?;
        plan.notices.splice(0..0, notice);
        Ok(plan)
    }

    fn of(git: &Git, repository: Repository, request: ImportRequest, depth: usize) -> Result<Self, Failure> {
        let settings = Settings::read(git, &repository)?;
        let branch = git.reading(&repository.git_dir).args(["symbolic-ref", "-q", "HEAD"]).line()?;
        let host_commit = resolve(git, &repository, "HEAD")?;
        let commit = match &request.from {
            None => host_commit.clone(),
            Some(from) => Some(
                resolve(git, &repository, &format!("{from}^{{commit}}"))?
                    .ok_or_else(|| Failure::new(Code::NotFound, format!("the repository has no commit {from:?}")))?,
            ),
        };
        let guest_branch = match &request.branch {
            Some(name) => Some(branch_ref(git, name)?),
            None => branch.clone(),
        };
        let shadow = ShadowRepository::over(git, &repository, &settings, commit.as_deref())?;
        let tree = Tree::open(&repository.root).map_err(|error| cannot("open", &repository.root, &error))?;
        let changes = match &request.from {
            Some(_) => Changes::of_commit(&shadow, commit.as_deref().unwrap_or_default())?,
            None => Changes::compare(&shadow, &tree, commit.as_deref(), request.include_untracked)?,
        };
        let upstream = upstream(git, &repository, &settings, branch.as_deref().filter(|_| request.branch.is_none()))?;
        let shallow = shallow_of(&repository).map_err(|error| cannot("read", &repository.common_dir, &error))?;
        let mut plan = Self {
            head: match (&guest_branch, &commit) {
                (Some(branch), _) => format!("ref: {branch}\n"),
                (None, Some(commit)) => format!("{commit}\n"),
                (None, None) => "ref: refs/heads/main\n".into(),
            },
            config: settings.for_guest(),
            loose: Vec::new(),
            packed: String::new(),
            staged: shadow.staged()?,
            shallow: Vec::new(),
            history: History::default(),
            hash: if settings.object_format().is_some() { HashName::Sha256 } else { HashName::Sha1 },
            submodules: Vec::new(),
            notices: Vec::new(),
            request,
            repository,
            shadow,
            tree,
            changes,
            host_commit,
            commit,
        };
        plan.set_upstream(guest_branch.as_deref(), upstream.as_ref().map(|(upstream, _)| upstream));
        match plan.request.mode {
            Mode::Overlay => plan.overlay(guest_branch.as_deref(), upstream, &shallow)?,
            Mode::Full => plan.full(git, guest_branch.as_deref(), shallow, depth)?,
        }
        plan.add_notices();
        Ok(plan)
    }

    /// Has the guest's branch follow the same upstream branch as the host's.
    fn set_upstream(&mut self, branch: Option<&str>, upstream: Option<&Upstream>) {
        if let (Some(name), Some(upstream)) = (branch.and_then(|branch| branch.strip_prefix("refs/heads/")), upstream) {
            self.config.set(&format!("branch.{name}.remote"), "origin");
            self.config.set(&format!("branch.{name}.merge"), &upstream.merge);
        }
    }

    /// Plans overlay mode: the current branch and its upstream, ten generations deep. Refuses submodules.
    fn overlay(
        &mut self,
        branch: Option<&str>,
        upstream: Option<(Upstream, String)>,
        shallow: &[String],
    ) -> Result<(), Failure> {
        if let Some(first) = self.changes.submodules.first() {
            let count = self.changes.submodules.len();
            let failure = Failure::new(
                Code::Unsupported,
                format!("{} has submodules, which overlay mode does not bring", self.repository.root.display()),
            );
            let failure = failure.cause(format!("{count} of them, the first {}", quoted(first)));
            return Err(failure.hint("--mode full brings them, and all history with them"));
        }
        // With the upstream branch, `git status` can say how the two differ; if that branch is older than the ten
        // generations, it says nothing.
        let mut tips: Vec<String> = self.commit.iter().cloned().collect();
        let mut history = History::walk(&self.shadow, tips.clone(), shallow)?;
        if let (Some((upstream, at)), Some(_)) = (upstream, &self.commit) {
            if !history.has(&at) {
                tips.push(at.clone());
                history = History::walk(&self.shadow, tips, shallow)?;
            }
            self.loose.push((upstream.tracking, at));
        }
        if let (Some(branch), Some(commit)) = (branch, &self.commit) {
            self.loose.push((branch.to_owned(), commit.clone()));
        }
        self.shadow.cut(&history.cut).map_err(|error| cannot("write", &self.shadow.index(), &error))?;
        self.shallow.clone_from(&history.cut);
        self.history = history;
        Ok(())
    }

    /// Plans full mode: every ref, and every submodule that is checked out.
    fn full(&mut self, git: &Git, branch: Option<&str>, shallow: Vec<String>, depth: usize) -> Result<(), Failure> {
        let args = ["for-each-ref", "--format=%(objectname) %(refname)"];
        let listing = git.reading(&self.repository.git_dir).args(args).ask("list the repository's refs", b"")?;
        let listing = String::from_utf8(listing)
            .map_err(|error| Failure::caused_by(Code::Unsupported, "a ref's name is not UTF-8", &error))?;
        // for-each-ref sorts by name, as packed-refs wants it.
        let is_private = |line: &&str| line.split(' ').nth(1).is_some_and(|name| name.starts_with(refs::PRIVATE));
        self.packed = listing.split_inclusive('\n').filter(|line| !is_private(line)).collect();
        if let (Some(branch), Some(commit)) = (branch, &self.commit) {
            self.loose.push((branch.to_owned(), commit.clone()));
        }
        self.shallow = shallow;
        if self.repository.borrows() {
            let refs = self.packed.lines().filter_map(|line| line.split(' ').next());
            self.history.tips = refs.map(str::to_owned).chain(self.commit.clone()).collect();
        }
        if depth > MAX_NESTING {
            return Err(Failure::new(Code::Invalid, format!("submodules are more than {MAX_NESTING} deep")));
        }
        for path in self.changes.submodules.clone() {
            let root = self.repository.root.join(OsStr::from_bytes(&path));
            if root.join(".git").symlink_metadata().is_err() {
                continue;
            }
            let request = ImportRequest {
                path: root.clone(),
                mode: Mode::Full,
                branch: None,
                from: None,
                include_untracked: self.request.include_untracked,
                guest_path: format!("{}/{}", self.request.guest_path, String::from_utf8_lossy(&path)),
            };
            let root = root.canonicalize().map_err(|error| cannot("open", &root, &error))?;
            let submodule = Repository::at(git, &root)?;
            self.submodules.push((path, Self::of(git, submodule, request, depth + 1)?));
        }
        Ok(())
    }

    fn add_notices(&mut self) {
        let left_out = self.changes.left_out;
        if left_out > 0 {
            let files = if left_out == 1 { "file stays" } else { "files stay" };
            self.notices.push(format!("{left_out} untracked {files} here; --include-untracked brings them"));
        }
        if self.request.from.is_some() {
            self.notices.push("the tree is as it was committed: --from leaves changes of the working tree here".into());
        }
        for (path, submodule) in &mut self.submodules {
            let named = submodule.notices.drain(..).map(|notice| format!("{}: {notice}", quoted(path)));
            self.notices.extend(named);
        }
    }

    /// Returns all files that arrive, submodules' included, as paths below the workspace.
    pub(crate) fn files(&self) -> Vec<RepoPath> {
        let mut files: Vec<RepoPath> = self.changes.files().into_iter().cloned().collect();
        for (path, submodule) in &self.submodules {
            files.extend(submodule.files().into_iter().map(|file| [path.as_slice(), b"/", &file].concat()));
        }
        files.sort_unstable();
        files
    }

    /// Returns all refs that arrive.
    pub(super) fn refs(&self) -> refs::RefIds<'_> {
        let packed = self.packed.lines().filter_map(|line| line.split_once(' ')).map(|(id, name)| (name, id));
        packed.chain(self.loose.iter().map(|(name, id)| (name.as_str(), id.as_str()))).collect()
    }

    /// Returns all commits that arrive in full mode. Runs git.
    pub(super) fn all_commits(&self) -> Result<HashSet<String>, Failure> {
        let packed = self.packed.lines().filter_map(|line| line.split(' ').next());
        let tips: Vec<&str> = packed.chain(self.commit.as_deref()).collect();
        let call = self.shadow.call().args(["rev-list", "--stdin"]);
        let listing = call.ask("list the repository's commits", (tips.join("\n") + "\n").as_bytes())?;
        Ok(String::from_utf8_lossy(&listing).lines().map(str::to_owned).collect())
    }

    /// Returns this plan and those of all submodules with their paths below the workspace, outer before inner.
    pub(super) fn repositories(&self) -> Vec<(RepoPath, &Self)> {
        let mut all = vec![(RepoPath::new(), self)];
        for (path, submodule) in &self.submodules {
            for (below, inner) in submodule.repositories() {
                let below = if below.is_empty() { path.clone() } else { [path.as_slice(), b"/", &below].concat() };
                all.push((below, inner));
            }
        }
        all
    }

    /// Whether the tree that arrives is exactly that of HEAD.
    pub(crate) fn is_clean(&self) -> bool {
        self.commit.is_some() && !self.changes.dirty
    }
}

/// Resolves a revision to a commit.
fn resolve(git: &Git, repository: &Repository, name: &str) -> Result<Option<String>, Failure> {
    let args = ["rev-parse", "-q", "--verify", "--end-of-options", name];
    git.reading(&repository.git_dir).args(args).line()
}

/// Returns the full name of a branch; refuses a name that git does not allow.
fn branch_ref(git: &Git, name: &str) -> Result<String, Failure> {
    let full = format!("refs/heads/{name}");
    let valid = !name.starts_with('-') && git.call().args(["check-ref-format", &full]).answer(b"")?.success;
    if valid { Ok(full) } else { Err(Failure::new(Code::Invalid, format!("{name:?} cannot be a branch"))) }
}

fn upstream(
    git: &Git,
    repository: &Repository,
    settings: &Settings,
    branch: Option<&str>,
) -> Result<Option<(Upstream, String)>, Failure> {
    let Some(name) = branch.and_then(|branch| branch.strip_prefix("refs/heads/")) else { return Ok(None) };
    let Some(upstream) = settings.upstream(name) else { return Ok(None) };
    let at = resolve(git, repository, &upstream.tracking)?;
    Ok(at.map(|at| (upstream, at)))
}

/// A guest path as it may be given: absolute, or in the home of the VM's user; plain.
pub(crate) fn guest_path(text: &str) -> Result<String, String> {
    let (begin, rest) = match text.strip_prefix("~/") {
        Some(rest) => ("~/", rest),
        None => ("/", text.strip_prefix('/').unwrap_or_default()),
    };
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    let plain = !parts.iter().any(|part| matches!(*part, "." | "..")) && !text.contains(char::is_control);
    if plain && !parts.is_empty() && text.len() < 4000 {
        Ok(format!("{begin}{}", parts.join("/")))
    } else {
        Err("write an absolute path in the guest, such as /srv/repo, or ~/repo for the user's home".into())
    }
}

/// Whether a path given to `run` was probably meant as a command.
pub(crate) fn looks_like_a_command(path: &Path) -> bool {
    path.symlink_metadata().is_err() && path.components().count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_paths_are_plain() {
        assert_eq!(guest_path("/root//repo/").unwrap(), "/root/repo");
        assert_eq!(guest_path("~//src/repo").unwrap(), "~/src/repo");
        for bad in ["", "/", "~", "~/", "~x/y", "repo", "/a/../b", "/a/./b", "~/../x", "/a\0", "/a\nb"] {
            assert!(guest_path(bad).is_err(), "{bad:?}");
        }
    }
}
