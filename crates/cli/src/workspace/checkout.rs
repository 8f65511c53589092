//! The guest's side of the work: short shell scripts around the guest's own git, each one exec.
//!
//! Where there is no git there may be no shell either; both say 127, as a shell would.

use super::changes::RepoPath;
use crate::{
    exec::capture::{Captured, capture},
    exit::Result,
    guest,
};
use banger_proto::{
    agent::exec::ExecSpec,
    api::vm::GuestEndpoint,
    failure::{Code, Failure},
};
use std::collections::BTreeMap;

/// Most bytes a script that names files answers with.
const MAX_NAMES: usize = 256 << 20;

/// Common beginning: git is there, the workspace is where we are, and nothing of the caller's git counts.
const BEGIN: &str = r#"
set -eu
command -v git >/dev/null 2>&1 || exit 127
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY
export GIT_AUTHOR_NAME=banger GIT_AUTHOR_EMAIL=banger@localhost GIT_COMMITTER_NAME=banger GIT_COMMITTER_EMAIL=banger@localhost
cd "$1"
export GIT_DIR=.git GIT_WORK_TREE=.
"#;

/// Writes the files, where the agent does not.
const CHECKOUT: &str = r"
umask 022
s=.git/banger
[ ! -s $s/removed ] || xargs -0 rm -f -- < $s/removed
[ ! -e .git/index ] || if [ -e $s/written ]; then
    git -c checkout.workers=0 checkout-index -q -f -u -z --stdin < $s/written
else
    git -c checkout.workers=0 checkout-index -q -f -u -a
fi
rm -rf $s
";

/// Makes a commit of the tree as it is, on no branch. `$2`: its parent, if any.
const KEEP: &str = r#"
i=.git/banger-index.$$
trap 'rm -f "$i"' EXIT
[ ! -e .git/index ] || cp .git/index "$i"
tree=$(GIT_INDEX_FILE=$i sh -c 'git add -A . && git write-tree')
commit=$(git commit-tree ${2:+-p "$2"} -m 'The tree as banger brought it' "$tree")
git update-ref refs/banger/base "$commit"
echo "$commit"
"#;

/// Says what stands there. `$2`: the commit that holds the tree as it was brought.
const INSPECT: &str = r#"
t=.git/banger-look.$$
trap 'rm -rf "$t"' EXIT
mkdir "$t" "$t/objects"
[ ! -e .git/index ] || cp .git/index "$t/index"
head=$(git rev-parse -q --verify HEAD || :)
was=$2
[ "$(git rev-parse -q --verify refs/banger/base)" != "$2" ] || was=$(git rev-parse -q --verify "$2^" || :)
tree=$(GIT_INDEX_FILE=$t/index GIT_OBJECT_DIRECTORY=$t/objects GIT_ALTERNATE_OBJECT_DIRECTORIES=.git/objects \
    sh -c 'git add -A . && git write-tree')
if [ "$head" = "$was" ] && [ "$tree" = "$(git rev-parse -q --verify "$2^{tree}")" ]; then echo same; else echo changed; fi
git ls-files -z
"#;

/// What stands where a workspace was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Something banger did not bring, or cannot look at.
    Unknown,
    /// The workspace; whether the guest changed it, and the files its index names.
    Workspace { changed: bool, files: Vec<RepoPath> },
}

/// Runs a script of banger's in a guest, as the user everything in the workspace belongs to.
async fn script(endpoint: &GuestEndpoint, text: &str, args: &[&str], limit: usize) -> Result<Captured> {
    let stream = guest::call(endpoint).await?;
    capture(stream, &spec(text, args), limit).await
}

/// The exec that runs a script.
pub(crate) fn spec(text: &str, args: &[&str]) -> ExecSpec {
    let argv = ["sh", "-c", text, "banger"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    ExecSpec { argv, env: BTreeMap::new(), cwd: Some("/".into()), user: None, tty: None }
}

/// A script with its beginning.
pub(crate) fn with_git(text: &str) -> String {
    format!("{BEGIN}{text}")
}

/// Has the guest's git write the files; `false` without git.
pub(crate) async fn checkout(endpoint: &GuestEndpoint, path: &str) -> Result<bool> {
    let done = script(endpoint, &with_git(CHECKOUT), &[path], 4096).await?;
    if done.is_missing() {
        return Ok(false);
    }
    succeeded(&done, "write the repository's files in the guest")?;
    Ok(true)
}

/// Has the guest's git commit the tree as it arrived, and gives that commit; none without git.
pub(crate) async fn keep(endpoint: &GuestEndpoint, path: &str, parent: Option<&str>) -> Result<Option<String>> {
    let done = script(endpoint, &with_git(KEEP), &[path, parent.unwrap_or("")], 4096).await?;
    if done.is_missing() {
        return Ok(None);
    }
    succeeded(&done, "write down the tree as it was brought")?;
    Ok(Some(commit_id(String::from_utf8_lossy(&done.stdout).trim())?))
}

/// What a guest says is a commit.
fn commit_id(text: &str) -> std::result::Result<String, Failure> {
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_id {
        Ok(text.to_owned())
    } else {
        Err(Failure::new(Code::Guest, "the guest's git did not say which commit it made"))
    }
}

/// Looks at what stands at `path`, which the VM's record says is a workspace brought as `base`, or does not.
pub(crate) async fn inspect(endpoint: &GuestEndpoint, path: &str, base: Option<&str>) -> Result<Standing> {
    let Some(base) = base else { return Ok(Standing::Unknown) };
    let looked = script(endpoint, &with_git(INSPECT), &[path, base], MAX_NAMES).await?;
    if looked.outcome.code() != 0 {
        return Ok(Standing::Unknown);
    }
    let Some(end) = looked.stdout.iter().position(|byte| *byte == b'\n') else { return Ok(Standing::Unknown) };
    let names = looked.stdout[end + 1..].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(Standing::Workspace { changed: &looked.stdout[..end] != b"same", files: names.map(<[u8]>::to_vec).collect() })
}

/// A failure unless it ended well.
pub(crate) fn succeeded(done: &Captured, what: &str) -> std::result::Result<(), Failure> {
    if done.outcome.code() == 0 {
        return Ok(());
    }
    let failure = Failure::new(Code::Guest, format!("cannot {what}"));
    let said = if done.stderr.is_empty() { format!("status {}", done.outcome.code()) } else { done.stderr.clone() };
    Err(failure.cause(said))
}
