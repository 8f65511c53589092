//! The guest's side of the work: short shell scripts around the guest's own git, each one exec.
//!
//! Where there is no git there may be no shell either; both say 127, as a shell would.

use super::{
    changes::{RepoPath, join},
    is_id,
};
use crate::{
    exec::capture::{Captured, capture, capture_given},
    exit::Result,
};
use banger_proto::{
    agent::exec::ExecSpec,
    api::vm::GuestEndpoint,
    failure::{Code, Failure},
};
use std::collections::BTreeMap;

/// Most bytes a script that names files answers with.
pub(crate) const MAX_NAMES: usize = 256 << 20;

/// Common beginning: git is there, the workspace is where we are, and nothing of the caller's git counts.
const BEGIN: &str = r#"
set -eu
command -v git >/dev/null 2>&1 || exit 127
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY
export GIT_AUTHOR_NAME=banger GIT_AUTHOR_EMAIL=banger@localhost GIT_COMMITTER_NAME=banger GIT_COMMITTER_EMAIL=banger@localhost
cd "$1"
export GIT_DIR=.git GIT_WORK_TREE=.
# What git does not look into, whatever it holds. In a sparse checkout the others are just not there.
assumed() {
    case $(git config --bool core.sparseCheckout) in true) tags='a-rt-z' ;; *) tags='a-zS' ;; esac
    git -c core.quotePath=false ls-files -v | sed -n "s/^[$tags] //p" | while IFS= read -r name; do
        # Quoted, it is git's to read.
        case $name in \"*) ;; *) [ -f "$name" ] || continue ;; esac
        printf '%s\n' "$name"
    done | git hash-object --no-filters --stdin-paths
}
"#;

/// Writes the files, where the agent does not.
const CHECKOUT: &str = r"
umask 022
s=.git/banger
[ ! -e .git/index ] || if [ -e $s/written ]; then
    git -c checkout.workers=0 checkout-index -q -f -u -z --stdin < $s/written
else
    git -c checkout.workers=0 checkout-index -q -f -u -a
fi
rm -rf $s
";

/// Makes a commit of the tree as it is, on no branch. `$2`: its parent, if any. What git cannot add, a repository without a
/// commit or a file its user may not read, is left out; of the files that the index names none may be missing or differ.
/// The copy of the index is as old as it, because git looks into files that are no older than the index (see `Facade`).
/// On stdin: untracked files that were brought. Others are the guest's, which an export has to show. One that is not there,
/// because it went here before it travelled or there since, costs no other its place.
const KEEP: &str = r#"
i=.git/banger-index.$$
trap 'rm -f "$i" "$i".*' EXIT
trap 'exit 1' HUP INT TERM PIPE
[ ! -e .git/index ] || cp -p .git/index "$i"
export GIT_INDEX_FILE="$i"
some() {
    git update-index --add --remove --replace -- "$@" || for name; do
        git update-index --add --remove --replace -- "$name" || :
    done
} < /dev/null
all=yes
git add --ignore-errors -u . || all=''
cat > "$i.names"
# A file may have come where the index has a directory that git does not look into.
if ! git update-index --add --remove --replace -z --stdin < "$i.names"; then
    all=''
    # One of them git cannot add, and nobody knows which: by the dozens, and one by one where it is. A shell reads lines, so
    # what ends one within a name is another character meanwhile. xargs is not everywhere where git is.
    tr '\000\n' '\n\001' < "$i.names" | {
        odd=$(printf '\001')
        set --
        while IFS= read -r name; do
            case $name in *"$odd"*)
                name=$(printf '%sx' "$name" | tr '\001' '\n')
                name=${name%x}
            esac
            set -- "$@" "$name"
            [ $# -lt 64 ] || { some "$@"; set --; }
        done
        [ $# -eq 0 ] || some "$@"
    }
fi
[ -n "$all" ] || git diff-files --quiet --ignore-submodules=all || exit 1
tree=$(git write-tree)
unset GIT_INDEX_FILE
commit=$(git commit-tree ${2:+-p "$2"} -m 'The tree as banger brought it' "$tree")
git update-ref refs/banger/base "$commit"
echo "$commit"
"#;

/// Writes down what files are that git does not look into.
const ASSUMED: &str = "assumed > .git/banger-assumed\n";

/// Runs a script of banger's in a guest, as the user everything in the workspace belongs to.
pub(super) async fn script(endpoint: &GuestEndpoint, text: &str, args: &[&str], limit: usize) -> Result<Captured> {
    capture(endpoint, &spec(text, args), limit).await
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
pub(crate) async fn keep(
    endpoint: &GuestEndpoint,
    path: &str,
    parent: Option<&str>,
    untracked: &[RepoPath],
) -> Result<Option<String>> {
    let spec = spec(&with_git(KEEP), &[path, parent.unwrap_or("")]);
    let done = capture_given(endpoint, &spec, &join(untracked), 4096).await?;
    if done.is_missing() {
        return Ok(None);
    }
    succeeded(&done, "write down the tree as it was brought")?;
    Ok(Some(commit_id(String::from_utf8_lossy(&done.stdout).trim())?))
}

/// Has the guest write down what git does not look into there.
pub(crate) async fn remember_assumed(endpoint: &GuestEndpoint, path: &str) -> Result<()> {
    let done = script(endpoint, &with_git(ASSUMED), &[path], 4096).await?;
    if !done.is_missing() {
        succeeded(&done, "write down what git does not look into")?;
    }
    Ok(())
}

/// What a guest says is a commit.
fn commit_id(text: &str) -> std::result::Result<String, Failure> {
    if is_id(text) {
        Ok(text.to_owned())
    } else {
        Err(Failure::new(Code::Guest, "the guest's git did not say which commit it made"))
    }
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
