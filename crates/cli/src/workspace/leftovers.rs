//! What a workspace that stands in a guest has to do with the one that takes its place: what goes, and what stays the
//! guest's own.

use super::{
    changes::RepoPath,
    own::Own,
    plan::Plan,
    quote::quoted,
    refs::{self, Kept},
    standing::{Found, Standing},
};
use banger_proto::{api::workspace::Mode, failure::Failure};
use std::collections::{BTreeMap, HashSet};

/// See the module's words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// Files the guest has and shall not have; one that ends with a slash is a directory, with all that is in it.
    pub(crate) removed: Vec<RepoPath>,
    /// What is left of repositories, by their paths in the workspace.
    pub(super) remains: BTreeMap<RepoPath, Remains>,
    /// Whether what both sides changed is the repository's.
    pub(super) overwrite: bool,
    /// Whether nobody knows which refs are there. Those that are packed stay packed, and what arrives is in files of its
    /// own, which win.
    pub(super) unseen: bool,
}

/// What is left of one repository.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Remains {
    pub(super) refs: Kept,
    /// What those were that are overwritten with work in them: objects by the names under which they stay.
    pub(super) saved: BTreeMap<String, String>,
    /// Commits that have no parents there, besides those at which what arrives is cut off.
    pub(super) shallow: Vec<String>,
    /// Of those at which what arrives is cut off the ones that have their parents there.
    pub(super) whole: HashSet<String>,
    pub(super) own: Own,
}

impl Remains {
    /// Commits that have no parents in the guest when the repository has arrived: what was brought earlier is cut off
    /// where it was before.
    pub(super) fn cut<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a str> {
        let arriving = plan.shallow.iter().filter(|commit| !self.whole.contains(*commit));
        arriving.chain(&self.shallow).map(String::as_str)
    }
}

/// What git writes down of a merge, a rebase or the like that is under way. It is about another tree than the one that
/// arrives. Directories end with a slash.
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
    /// What becomes of what stands there. Runs git.
    pub(super) fn of(plan: &Plan, standing: Standing, overwrite: bool) -> Result<Self, Failure> {
        let gone = gone(plan, &standing);
        let arriving: HashSet<RepoPath> = plan.files().into_iter().collect();
        // A submodule that is not brought, but that the guest checked out or made all the same, is the guest's.
        let brought: HashSet<RepoPath> = plan.repositories().into_iter().map(|(below, _)| below).collect();
        let theirs: Vec<&RepoPath> =
            standing.repositories.keys().filter(|below| !brought.contains(*below) && !gone.contains(*below)).collect();
        let is_theirs = |file: &RepoPath| theirs.iter().any(|below| is_below(file, below));
        let mut removed: Vec<RepoPath> =
            standing.files.iter().filter(|file| !arriving.contains(*file) && !is_theirs(file)).cloned().collect();
        for below in &gone {
            removed.push([below.as_slice(), b"/.git/"].concat());
        }
        let (mut repositories, mut remains) = (standing.repositories, BTreeMap::new());
        for (below, repository) in plan.repositories() {
            let git = if below.is_empty() { b".git".to_vec() } else { [&below, b"/.git".as_slice()].concat() };
            let mut goes = |name: &str| removed.push([&git, b"/".as_slice(), name.as_bytes()].concat());
            let left = match repositories.remove(&below) {
                None => Remains::default(),
                Some(Found { refs, shallow, whole, own }) => {
                    let saved = if overwrite { refs.saved(&repository.refs()) } else { BTreeMap::new() };
                    let refs = refs.kept(&repository.refs(), repository.wish.mode == Mode::Full);
                    for name in &refs.gone {
                        goes(name);
                        // Its log would be in the way of another's.
                        goes(&format!("logs/{name}"));
                    }
                    let whole = whole.into_iter().filter(|commit| repository.shallow.contains(commit)).collect();
                    Remains { refs, saved, shallow: still_cut(repository, shallow)?, whole, own }
                }
            };
            forgotten(repository, &left).for_each(goes);
            remains.insert(below, left);
        }
        Ok(Self { removed, remains, overwrite, unseen: false })
    }

    /// The same where nothing is known but `files` that an index names.
    pub(super) fn unseen(plan: &Plan, files: Vec<RepoPath>) -> Result<Self, Failure> {
        let left = Self::of(plan, Standing { files, ..Standing::default() }, true)?;
        Ok(Self { unseen: true, ..left })
    }

    /// Names under which work of the guest's stays that is overwritten, each below its repository's path.
    pub(super) fn saved(&self) -> impl Iterator<Item = String> {
        let saved =
            self.remains.iter().flat_map(|(below, remains)| remains.saved.keys().map(move |name| (below, name)));
        saved.map(|(below, name)| if below.is_empty() { name.clone() } else { format!("{}: {name}", quoted(below)) })
    }

    /// What is left of the repository at `below`.
    pub(super) fn at(&self, below: &[u8]) -> Remains {
        self.remains.get(below).cloned().unwrap_or_default()
    }
}

/// Adds to what the guest did what it did on branches that are somewhere else when the repository arrives, or nowhere.
pub(super) fn at_stake(plan: &Plan, standing: &mut Standing) {
    let (gone, brought) = (gone(plan, standing), plan.repositories());
    let (files, mut submodules): (HashSet<RepoPath>, _) = (plan.files().into_iter().collect(), Vec::new());
    // One that would stay, were there no file in its way.
    let stays = |below: &RepoPath| !gone.contains(below) && !brought.iter().any(|(other, _)| other == below);
    let makes_way = |below: &RepoPath| files.contains(below) || above(below).any(|dir| files.contains(dir));
    submodules.extend(standing.repositories.keys().filter(|below| stays(below) && makes_way(below)).cloned());
    for below in gone {
        let kept = standing.repositories.get(&below).map(|found| found.refs.kept(&BTreeMap::new(), true));
        if kept.is_some_and(|kept| !kept.own.is_empty() || !kept.odd.is_empty()) {
            submodules.push(below);
        }
    }
    for (below, repository) in brought {
        let (Some(found), arriving) = (standing.repositories.get(&below), repository.refs()) else { continue };
        if below.is_empty() {
            standing.work.refs.extend(found.refs.at_stake(&arriving).map(str::to_owned));
        } else if found.refs.at_stake(&arriving).next().is_some() {
            submodules.push(below);
        }
    }
    for below in submodules {
        if !standing.work.submodules.contains(&below) {
            standing.work.submodules.push(below);
        }
    }
}

/// Submodules that were brought there and that the repository has no longer, outer before inner. One that the guest made
/// was never the repository's; nor is one any longer that has such a one in it: the git directory of the one holds that of the
/// other, as a rule.
fn gone(plan: &Plan, standing: &Standing) -> Vec<RepoPath> {
    let brought = plan.repositories();
    let named: HashSet<RepoPath> = brought
        .iter()
        .flat_map(|(below, repository)| {
            let names = repository.changes.submodules.iter();
            names.map(|name| if below.is_empty() { name.clone() } else { [below.as_slice(), b"/", name].concat() })
        })
        .collect();
    let mut gone: Vec<RepoPath> = Vec::new();
    for (below, found) in &standing.repositories {
        if below.is_empty() || named.contains(below) || !found.own.was_brought() {
            continue;
        }
        let outer = standing.repositories.keys().filter(|outer| is_below(below, outer)).max_by_key(|outer| outer.len());
        // Within one that is not brought nobody knows what it has.
        let is_known =
            outer.is_none_or(|outer| gone.contains(outer) || brought.iter().any(|(below, _)| below == outer));
        let made =
            |(inner, found): (&RepoPath, &Found)| inner != below && is_below(inner, below) && !found.own.was_brought();
        if is_known && !standing.repositories.iter().any(made) {
            gone.push(below.clone());
        }
    }
    gone
}

/// The directories a path is in.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &path[..end])
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Of the commits that have no parents in the guest those that have none when the repository has arrived.
fn still_cut(plan: &Plan, shallow: Vec<String>) -> Result<Vec<String>, Failure> {
    if shallow.is_empty() {
        return Ok(shallow);
    }
    let comes: Box<dyn Fn(&str) -> bool> = match plan.wish.mode {
        Mode::Overlay => Box::new(|commit| plan.history.has(commit)),
        Mode::Full => {
            let all = plan.all_commits()?;
            Box::new(move |commit| all.contains(commit))
        }
    };
    Ok(shallow.into_iter().filter(|commit| !comes(commit) && !plan.shallow.contains(commit)).collect())
}

/// What an earlier workspace wrote down in its git directories that does not hold for this one.
fn forgotten<'a>(plan: &'a Plan, left: &'a Remains) -> impl Iterator<Item = &'static str> + use<'a> {
    let names = [
        ("shallow", left.cut(plan).next().is_none()),
        (refs::BASE, plan.is_clean()),
        ("banger-assumed", !plan.changes.unwatched),
        // What the guest's git worked out of a history that was cut off elsewhere; it does so again.
        ("objects/info/commit-graph", true),
        ("objects/info/commit-graphs/commit-graph-chain", true),
        // As older ones brought it: it may name packs that are not there.
        ("objects/pack/multi-pack-index", plan.wish.mode == Mode::Full),
    ];
    names.into_iter().filter_map(|(name, goes)| goes.then_some(name)).chain(UNDER_WAY)
}
