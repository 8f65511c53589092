//! Selects the commits that are imported in overlay mode: the last ten generations, as `git clone --depth 10` takes
//! them, and the commits at which history is cut off.

use super::{
    git::{drain_stderr, git_failed},
    shadow_repository::ShadowRepository,
};
use banger_proto::failure::Failure;
use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{ChildStdin, ChildStdout, Stdio},
};

/// Generations of commits that are imported.
pub(crate) const DEPTH: usize = 10;
/// Largest commit object, in bytes.
const MAX_COMMIT: u64 = 16 << 20;
/// Most commits within the depth; merges make more than one a generation.
const MAX_COMMITS: usize = 100_000;

/// Commits that are imported.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// Newest commits, where the walk starts.
    pub(crate) tips: Vec<String>,
    /// Commits whose parents are not imported.
    pub(crate) cut: Vec<String>,
    included: BTreeSet<String>,
}

impl History {
    /// Walks back from `tips`; `shallow` commits have no parents here either.
    pub(crate) fn walk(shadow: &ShadowRepository, tips: Vec<String>, shallow: &[String]) -> Result<Self, Failure> {
        if tips.is_empty() {
            return Ok(Self::default());
        }
        let mut child = shadow.call().args(["cat-file", "--batch"]).spawn(Stdio::piped())?;
        let complaints = child.stderr.take().map(drain_stderr);
        let found = match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Reader { stdin, stdout: BufReader::new(stdout) }.walk(&tips, shallow),
            _ => None,
        };
        let _ = child.wait();
        let complaint = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
        let (included, cut) = found.ok_or_else(|| {
            git_failed("read the repository's history", &complaint)
                .hint("'git fsck' says what is missing; a partial clone needs 'git fetch --refetch' first")
        })?;
        Ok(Self { tips, cut, included })
    }

    /// Whether a commit is imported.
    pub(crate) fn has(&self, commit: &str) -> bool {
        self.included.contains(commit)
    }
}

struct Reader {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Reader {
    fn walk(mut self, tips: &[String], shallow: &[String]) -> Option<(BTreeSet<String>, Vec<String>)> {
        let mut included: BTreeSet<String> = BTreeSet::new();
        let mut parents = Vec::new();
        let mut generation: Vec<String> = tips.to_vec();
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for commit in generation {
                if !included.insert(commit.clone()) {
                    continue;
                }
                if included.len() > MAX_COMMITS {
                    return None;
                }
                let its = if shallow.contains(&commit) { Vec::new() } else { self.parents(&commit)? };
                next.extend(its.iter().cloned());
                parents.push((commit, its));
            }
            generation = next;
        }
        let is_cut = |commit: &String, its: &[String]| {
            shallow.contains(commit) || its.iter().any(|parent| !included.contains(parent))
        };
        let cut =
            parents.iter().filter(|(commit, its)| is_cut(commit, its)).map(|(commit, _)| commit.clone()).collect();
        Some((included, cut))
    }

    fn parents(&mut self, commit: &str) -> Option<Vec<String>> {
        writeln!(self.stdin, "{commit}").ok()?;
        let mut head = String::new();
        (&mut self.stdout).take(256).read_line(&mut head).ok()?;
        let mut words = head.trim_end().split(' ');
        let (_, kind, size) = (words.next()?, words.next()?, words.next()?.parse::<u64>().ok()?);
        if kind != "commit" || size > MAX_COMMIT {
            return None;
        }
        let mut content = vec![0; usize::try_from(size).ok()? + 1];
        self.stdout.read_exact(&mut content).ok()?;
        let lines = content.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
        let parents = lines.filter_map(|line| line.strip_prefix(b"parent "));
        Some(parents.map(|parent| String::from_utf8_lossy(parent).into_owned()).collect())
    }
}
