//! Works out what an existing workspace in a guest leaves behind when a repository is imported over it: what is
//! removed, and what stays the guest's own.

use super::{
    changes::RepoPath,
    guest_config::GuestConfig,
    guest_state::{GuestRepository, GuestState},
    plan::Plan,
    quote::quoted,
    refs::{self, MergedRefs},
};
use banger_proto::{api::workspace::Mode, failure::Failure};
use std::collections::{BTreeMap, HashSet};

/// Files to remove from an existing workspace, and what stays of its repositories.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// Files and directories to remove. A path that ends with a slash is a directory with all that is in it.
    pub(crate) removed: Vec<RepoPath>,
    /// Leftovers of each repository, by its path in the workspace.
    pub(super) repositories: BTreeMap<RepoPath, RepositoryLeftovers>,
    /// Whether the host's value wins where both sides changed something.
    pub(super) overwrite: bool,
    /// Whether the guest's refs are not known. Packed refs stay then, and the arriving ones are loose files, which win.
    pub(super) refs_unknown: bool,
}

/// Leftovers of one repository.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct RepositoryLeftovers {
    pub(super) refs: MergedRefs,
    /// Backup refs for overwritten work: object ids by ref names.
    pub(super) backups: BTreeMap<String, String>,
    /// The guest's shallow commits that stay shallow after the import, besides the arriving ones.
    pub(super) shallow: Vec<String>,
    /// Shallow commits of the import whose parents the guest already has.
    pub(super) with_parents: HashSet<String>,
    pub(super) config: GuestConfig,
}

impl RepositoryLeftovers {
    /// Returns the commits that are shallow in the guest after the import. Earlier imports stay cut off where they
    /// were.
    pub(super) fn shallow_commits<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a str> {
        let arriving = plan.shallow.iter().filter(|commit| !self.with_parents.contains(*commit));
        arriving.chain(&self.shallow).map(String::as_str)
    }
}

/// Files and directories (with a slash) in which git keeps the state of an unfinished merge, rebase or the like. They
/// are about another tree than the one that arrives, so they are removed.
const UNDER_WAY: [&str; 21] = [
    "MERGE_HEAD",
    "MERGE_MSG",
    "MERGE_MODE",
    "MERGE_RR",
    "MERGE_AUTOSTASH",
    "AUTO_MERGE",
    "SQUASH_MSG",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "REBASE_HEAD",
    "rebase-merge/",
    "rebase-apply/",
    "sequencer/",
    "BISECT_ANCESTORS_OK",
    "BISECT_EXPECTED_REV",
    "BISECT_FIRST_PARENT",
    "BISECT_HEAD",
    "BISECT_LOG",
    "BISECT_NAMES",
    "BISECT_START",
    "BISECT_TERMS",
];

impl Leftovers {
    /// Works out the leftovers of the workspace `state`. Runs git.
    pub(super) fn of(plan: &Plan, state: GuestState, overwrite: bool) -> Result<Self, Failure> {
        let gone = removed_submodules(plan, &state);
        let arriving: HashSet<RepoPath> = plan.files().into_iter().collect();
        // A submodule that is not imported, but that the guest checked out or made itself, is the guest's.
        let imported: HashSet<RepoPath> = plan.repositories().into_iter().map(|(below, _)| below).collect();
        let theirs: Vec<&RepoPath> =
            state.repositories.keys().filter(|below| !imported.contains(*below) && !gone.contains(*below)).collect();
        let is_theirs = |file: &RepoPath| theirs.iter().any(|below| is_below(file, below));
        let mut removed: Vec<RepoPath> =
            state.files.iter().filter(|file| !arriving.contains(*file) && !is_theirs(file)).cloned().collect();
        for below in &gone {
            removed.push([below.as_slice(), b"/.git/"].concat());
        }
        let (mut guests, mut repositories) = (state.repositories, BTreeMap::new());
        for (below, repository) in plan.repositories() {
            let git = if below.is_empty() { b".git".to_vec() } else { [&below, b"/.git".as_slice()].concat() };
            let mut remove = |name: &str| removed.push([&git, b"/".as_slice(), name.as_bytes()].concat());
            let left = match guests.remove(&below) {
                None => RepositoryLeftovers::default(),
                Some(GuestRepository { refs, shallow, with_parents, config }) => {
                    let backups = if overwrite { refs.backups(&repository.refs()) } else { BTreeMap::new() };
                    let refs = refs.merge(&repository.refs(), repository.request.mode == Mode::Full);
                    for name in &refs.removed {
                        remove(name);
                        // Its reflog would be in the way of another ref's.
                        remove(&format!("logs/{name}"));
                    }
                    let with_parents =
                        with_parents.into_iter().filter(|commit| repository.shallow.contains(commit)).collect();
                    RepositoryLeftovers {
                        refs,
                        backups,
                        shallow: still_shallow(repository, shallow)?,
                        with_parents,
                        config,
                    }
                }
            };
            obsolete_files(repository, &left).for_each(remove);
            repositories.insert(below, left);
        }
        Ok(Self { removed, repositories, overwrite, refs_unknown: false })
    }

    /// Works out the leftovers where nothing is known but the `files` that an index names.
    pub(super) fn without_state(plan: &Plan, files: Vec<RepoPath>) -> Result<Self, Failure> {
        let left = Self::of(plan, GuestState { files, ..GuestState::default() }, true)?;
        Ok(Self { refs_unknown: true, ..left })
    }

    /// Returns the names of all backup refs, each with its repository's path.
    pub(super) fn backups(&self) -> impl Iterator<Item = String> {
        let names =
            self.repositories.iter().flat_map(|(below, left)| left.backups.keys().map(move |name| (below, name)));
        names.map(|(below, name)| if below.is_empty() { name.clone() } else { format!("{}: {name}", quoted(below)) })
    }

    /// Returns the leftovers of the repository at `below`.
    pub(super) fn at(&self, below: &[u8]) -> RepositoryLeftovers {
        self.repositories.get(below).cloned().unwrap_or_default()
    }
}

/// Adds to the guest's changes those on branches that the import overwrites or removes.
pub(super) fn at_risk(plan: &Plan, state: &mut GuestState) {
    let (gone, imported) = (removed_submodules(plan, state), plan.repositories());
    let (files, mut submodules): (HashSet<RepoPath>, _) = (plan.files().into_iter().collect(), Vec::new());
    // Submodules that would stay, were there no arriving file in their way.
    let stays = |below: &RepoPath| !gone.contains(below) && !imported.iter().any(|(other, _)| other == below);
    let makes_way = |below: &RepoPath| files.contains(below) || above(below).any(|dir| files.contains(dir));
    submodules.extend(state.repositories.keys().filter(|below| stays(below) && makes_way(below)).cloned());
    for below in gone {
        let merged = state.repositories.get(&below).map(|guest| guest.refs.merge(&BTreeMap::new(), true));
        if merged.is_some_and(|merged| !merged.own.is_empty() || !merged.not_utf8.is_empty()) {
            submodules.push(below);
        }
    }
    for (below, repository) in imported {
        let (Some(guest), arriving) = (state.repositories.get(&below), repository.refs()) else { continue };
        if below.is_empty() {
            state.changes.refs.extend(guest.refs.at_risk(&arriving).map(str::to_owned));
        } else if guest.refs.at_risk(&arriving).next().is_some() {
            submodules.push(below);
        }
    }
    for below in submodules {
        if !state.changes.submodules.contains(&below) {
            state.changes.submodules.push(below);
        }
    }
}

/// Returns the paths of imported submodules that the repository has no longer, outer before inner. A submodule that the
/// guest made never was the repository's; nor does one count that has such a one in it, since the git directory of the
/// outer one usually holds that of the inner one.
fn removed_submodules(plan: &Plan, state: &GuestState) -> Vec<RepoPath> {
    let imported = plan.repositories();
    let named: HashSet<RepoPath> = imported
        .iter()
        .flat_map(|(below, repository)| {
            let names = repository.changes.submodules.iter();
            names.map(|name| if below.is_empty() { name.clone() } else { [below.as_slice(), b"/", name].concat() })
        })
        .collect();
    let mut gone: Vec<RepoPath> = Vec::new();
    for (below, guest) in &state.repositories {
        if below.is_empty() || named.contains(below) || !guest.config.was_imported() {
            continue;
        }
        let outer = state.repositories.keys().filter(|outer| is_below(below, outer)).max_by_key(|outer| outer.len());
        // Inside a submodule that is not imported it is not known what the repository has.
        let is_known =
            outer.is_none_or(|outer| gone.contains(outer) || imported.iter().any(|(below, _)| below == outer));
        let made = |(inner, guest): (&RepoPath, &GuestRepository)| {
            inner != below && is_below(inner, below) && !guest.config.was_imported()
        };
        if is_known && !state.repositories.iter().any(made) {
            gone.push(below.clone());
        }
    }
    gone
}

/// Returns the directories above a path.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &path[..end])
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Returns the guest's shallow commits that stay shallow after the import.
fn still_shallow(plan: &Plan, shallow: Vec<String>) -> Result<Vec<String>, Failure> {
    if shallow.is_empty() {
        return Ok(shallow);
    }
    let comes: Box<dyn Fn(&str) -> bool> = match plan.request.mode {
        Mode::Overlay => Box::new(|commit| plan.history.has(commit)),
        Mode::Full => {
            let all = plan.all_commits()?;
            Box::new(move |commit| all.contains(commit))
        }
    };
    Ok(shallow.into_iter().filter(|commit| !comes(commit) && !plan.shallow.contains(commit)).collect())
}

/// Returns the names of files in a git directory that hold state of the earlier workspace and are wrong for the new
/// one.
fn obsolete_files<'a>(plan: &'a Plan, left: &'a RepositoryLeftovers) -> impl Iterator<Item = &'static str> + use<'a> {
    let names = [
        ("shallow", left.shallow_commits(plan).next().is_none()),
        (refs::BASE, plan.is_clean()),
        ("banger-assumed", !plan.changes.any_assumed),
        // Computed by the guest's git from a history that was cut off elsewhere. It computes them anew.
        ("objects/info/commit-graph", true),
        ("objects/info/commit-graphs/commit-graph-chain", true),
        // Imported by older versions of banger: it may name packs that are missing.
        ("objects/pack/multi-pack-index", plan.request.mode == Mode::Full),
    ];
    names.into_iter().filter_map(|(name, remove)| remove.then_some(name)).chain(UNDER_WAY)
}
