//! Shell scripts around the guest's own git, each run by one exec.
//!
//! A guest without git may have no shell either; both are reported as status 127, as by a shell.

use super::{
    changes::{RepoPath, join_nul},
    is_id,
};
use crate::{
    exec::capture::{Captured, capture, capture_with_stdin},
    exit::Result,
};
use banger_proto::{
    agent::exec::ExecSpec,
    api::vm::GuestEndpoint,
    failure::{Code, Failure},
};
use std::collections::BTreeMap;

/// Most bytes of the answer of a script that lists files.
pub(crate) const MAX_NAMES: usize = 256 << 20;

/// Prologue of all scripts: ends with 127 without git, enters the workspace, and clears the caller's git environment.
const BEGIN: &str = r#"
set -eu
command -v git >/dev/null 2>&1 || exit 127
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY
export GIT_AUTHOR_NAME=banger GIT_AUTHOR_EMAIL=banger@localhost GIT_COMMITTER_NAME=banger GIT_COMMITTER_EMAIL=banger@localhost
cd "$1"
export GIT_DIR=.git GIT_WORK_TREE=.
# Hashes the files that git takes for unchanged. In a sparse checkout those with skip-worktree are absent.
assumed() {
    case $(git config --bool core.sparseCheckout) in true) tags='a-rt-z' ;; *) tags='a-zS' ;; esac
    git -c core.quotePath=false ls-files -v | sed -n "s/^[$tags] //p" | while IFS= read -r name; do
        # A quoted name is for git to parse.
        case $name in \"*) ;; *) [ -f "$name" ] || continue ;; esac
        printf '%s\n' "$name"
    done | git hash-object --no-filters --stdin-paths
}
"#;

/// Writes the files, in the mode in which the agent does not.
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

/// Makes a commit of the tree as it is, on no branch. `$2`: its parent, if any. What git cannot add, a repository
/// without a commit or a file its user may not read, is left out; of the files that the index names none may be missing
/// or differ. The copy of the index gets the original's time, because git reads files that are no older than the index
/// (see `ShadowRepository`). On stdin: untracked files that were imported. Others are the guest's, which an export has
/// to show. An untracked file that is missing, because it was removed here before it was sent or there since, does not
/// affect the others.
const COMMIT_TREE: &str = r#"
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
# A file may have replaced a directory that the index has and git does not look into.
if ! git update-index --add --remove --replace -z --stdin < "$i.names"; then
    all=''
    # git cannot add one of them and does not say which: add them by 64, and one by one where that fails. A shell reads
    # lines, so a line feed within a name is replaced meanwhile. xargs is not everywhere where git is.
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

/// Records the hashes of the files that git takes for unchanged.
const ASSUMED: &str = "assumed > .git/banger-assumed\n";

/// Runs a script in a guest as the user that owns the workspace.
pub(super) async fn script(endpoint: &GuestEndpoint, text: &str, args: &[&str], limit: usize) -> Result<Captured> {
    capture(endpoint, &exec_spec(text, args), limit).await
}

/// Returns the exec request that runs a script.
pub(crate) fn exec_spec(text: &str, args: &[&str]) -> ExecSpec {
    let argv = ["sh", "-c", text, "banger"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    ExecSpec { argv, env: BTreeMap::new(), cwd: Some("/".into()), user: None, tty: None }
}

/// Adds the prologue to a script.
pub(crate) fn with_git(text: &str) -> String {
    format!("{BEGIN}{text}")
}

/// Has the guest's git write the files; returns `false` without git.
pub(crate) async fn checkout(endpoint: &GuestEndpoint, path: &str) -> Result<bool> {
    let done = script(endpoint, &with_git(CHECKOUT), &[path], 4096).await?;
    if done.is_missing() {
        return Ok(false);
    }
    succeeded(&done, "write the repository's files in the guest")?;
    Ok(true)
}

/// Has the guest's git commit the tree as it arrived, and returns that commit; none without git.
pub(crate) async fn commit_tree(
    endpoint: &GuestEndpoint,
    path: &str,
    parent: Option<&str>,
    untracked: &[RepoPath],
) -> Result<Option<String>> {
    let spec = exec_spec(&with_git(COMMIT_TREE), &[path, parent.unwrap_or("")]);
    let done = capture_with_stdin(endpoint, &spec, &join_nul(untracked), 4096).await?;
    if done.is_missing() {
        return Ok(None);
    }
    succeeded(&done, "write down the tree as it was brought")?;
    Ok(Some(commit_id(String::from_utf8_lossy(&done.stdout).trim())?))
}

/// Has the guest record the files that its git takes for unchanged.
pub(crate) async fn record_assumed(endpoint: &GuestEndpoint, path: &str) -> Result<()> {
    let done = script(endpoint, &with_git(ASSUMED), &[path], 4096).await?;
    if !done.is_missing() {
        succeeded(&done, "write down what git does not look into")?;
    }
    Ok(())
}

/// Checks an object id that a guest sent.
fn commit_id(text: &str) -> std::result::Result<String, Failure> {
    if is_id(text) {
        Ok(text.to_owned())
    } else {
        Err(Failure::new(Code::Guest, "the guest's git did not say which commit it made"))
    }
}

/// Returns a failure unless the script ended with status 0.
pub(crate) fn succeeded(done: &Captured, what: &str) -> std::result::Result<(), Failure> {
    if done.outcome.code() == 0 {
        return Ok(());
    }
    let failure = Failure::new(Code::Guest, format!("cannot {what}"));
    let cause = if done.stderr.is_empty() { format!("status {}", done.outcome.code()) } else { done.stderr.clone() };
    Err(failure.cause(cause))
}
