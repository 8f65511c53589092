//! Inspects an existing workspace in a guest: one script around the guest's own git, run in the repository and in each
//! of its submodules.

use super::{
    changes::RepoPath,
    guest_git::{MAX_NAMES, script, with_git},
    guest_state::{GuestState, RepositoryReport},
};
use crate::{exec::capture::Captured, exit::Result};
use banger_proto::api::vm::GuestEndpoint;

/// Prints which kinds of work there are, HEAD, the refs now and as imported, missing objects of refs, shallow commits,
/// commits with parents, the index and the imported tree, and configuration and rules, now and as imported. `$2`: the
/// commit that holds the imported tree. In a submodule (`$3`, its path) no record names that commit; the repository
/// knows it, and there may be none.
///
/// The copy of the index gets the original's time, because git reads files that are no older than the index (see
/// `ShadowRepository`).
///
/// The comparison of files needs room on the disk, and files that can be read. All the rest needs neither, for it has
/// to be kept whatever becomes of the files.
const INSPECT: &str = r#"
if [ -n "$3" ]; then
    [ -d "./$3" ] || { echo absent; exit 0; }
    cd "./$3"
    [ -e .git ] || { echo absent; exit 0; }
fi
g=$(git rev-parse --git-dir)
base=$2
[ -n "$base" ] || base=$(git rev-parse -q --verify refs/banger/base || cat "$g/banger-head" 2>/dev/null || git rev-parse -q --verify HEAD || :)
# Left by scripts that were killed, since imports are one at a time. Another user's are in nobody's way.
rm -rf "$g"/banger-look.* "$g"/banger-index.* 2>/dev/null || :
t=$g/banger-look.$$
trap 'rm -rf "$t"' EXIT
trap 'exit 1' HUP INT TERM PIPE
head=$(git rev-parse -q --verify 'HEAD^{commit}' || :)
was=$base
[ "$(git rev-parse -q --verify refs/banger/base)" != "$base" ] || was=$(git rev-parse -q --verify "$base^" || :)
objects=$(git rev-parse --git-path objects)
aside() { GIT_INDEX_FILE=$t/index GIT_OBJECT_DIRECTORY=$t/objects GIT_ALTERNATE_OBJECT_DIRECTORIES=$objects sh -c "$1"; }
look() {
    mkdir "$t" "$t/objects" || return
    [ ! -e "$g/index" ] || cp -p "$g/index" "$t/index" || return
    staged=$(aside 'git write-tree 2>/dev/null') || :
    tree=$(aside 'git add -A . && git write-tree')
}
is=same staged='' tree=''
[ "$head" = "$was" ] || is="$is moved tree"
if look; then
    [ "$tree" = "$(git rev-parse -q --verify "$base^{tree}")" ] || is="$is tree"
else
    is="$is unread"
fi
[ "$(assumed 2>/dev/null)" = "$(cat "$g/banger-assumed" 2>/dev/null)" ] || is="$is unwatched"
# Work that is staged and nowhere else. In a tree that was imported with changes it shows only while the rest is as
# imported.
staged_alone() {
    [ -n "$tree" ] && [ "$staged" != "$tree" ] && [ -e "$g/banger-staged" ] || return 1
    case $is in *tree*) [ "$was" = "$base" ] || return 1 ;; esac
    [ "$(git ls-files -s -z | git hash-object --stdin)" != "$(cat "$g/banger-staged")" ]
}
! staged_alone || is="$is staged"
for name in MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD BISECT_LOG rebase-merge rebase-apply sequencer; do
    [ ! -e "$g/$name" ] || { is="$is busy"; break; }
done
echo "$is"
echo "$head"
git for-each-ref --format='%(objectname) %(refname)'
echo
cat "$g/banger-refs" 2>/dev/null || :
echo
git for-each-ref --format='%(objectname)' | GIT_NO_LAZY_FETCH=1 git cat-file --batch-check | sed -n 's/ missing$//p'
echo
cat "$(git rev-parse --git-path shallow)" 2>/dev/null || :
echo
# Empty where objects are missing.
whole=$(git --no-replace-objects rev-list --max-count=100000 --parents --reflog --all ${head:+"$head"} 2>/dev/null) || whole=
printf '%s\n' "$whole" | sed -n 's/^\([^ ]*\) .*/\1/p'
echo
git ls-files -z --stage
# An imported untracked file is in no index. Files in HEAD of a repository that was never imported may be nobody's.
[ ! -e "$g/banger-head" ] || git ls-tree -r -z --full-tree "$base^{tree}" 2>/dev/null || :
printf '\0'
for file in config banger-config; do
    git config --file "$g/$file" --list -z 2>/dev/null || :
    printf '\0'
done
for file in info/exclude banger-exclude info/attributes banger-attributes; do
    { cat "$g/$file" 2>/dev/null || :; echo; } | sed '/^$/d' | tr '\n' '\0'
    printf '\0'
done
"#;

/// Output of the script for a submodule that is not checked out.
const ABSENT: &[u8] = b"absent\n";
/// Most repositories in a workspace that are inspected.
const MAX_REPOSITORIES: usize = 1000;
/// Most characters of git's complaint that are passed on.
const MAX_REASON: usize = 300;

/// Inspects the workspace at `path`, which the VM's record says was imported as `base`; the inner error says why it
/// cannot be.
pub(super) async fn inspect(
    endpoint: &GuestEndpoint,
    path: &str,
    base: &str,
) -> Result<std::result::Result<GuestState, String>> {
    let mut state = GuestState::default();
    let (mut next, mut seen) = (vec![Vec::new()], 0);
    while let Some(below) = next.pop() {
        let outer = below.is_empty();
        let within = String::from_utf8_lossy(&below);
        let args = if outer { [path, base, ""] } else { [path, "", &within] };
        let done = script(endpoint, &with_git(INSPECT), &args, MAX_NAMES).await?;
        seen += 1;
        if done.stdout == ABSENT {
            continue;
        }
        let Some(one) =
            RepositoryReport::read(&done.stdout).filter(|_| done.outcome.code() == 0 && seen <= MAX_REPOSITORIES)
        else {
            let why = if done.is_missing() { "the guest has no git".to_owned() } else { reason(&done) };
            if outer {
                return Ok(Err(why));
            }
            // A repository that cannot be inspected may hold anything.
            state.changes.submodules.push(below);
            continue;
        };
        let RepositoryReport { mut changes, unread, files, submodules, repository } = one;
        if unread {
            changes.unread = Some(reason(&done));
        }
        if outer {
            state.changes = changes;
        } else if !changes.is_empty() {
            state.changes.submodules.push(below.clone());
        }
        let prefixed = |name: RepoPath| if outer { name } else { [&below, b"/".as_slice(), &name].concat() };
        state.files.extend(files.into_iter().map(prefixed));
        next.extend(submodules.into_iter().map(prefixed));
        state.repositories.insert(below.clone(), repository);
    }
    Ok(Ok(state))
}

/// Returns one line of git's complaints.
fn reason(done: &Captured) -> String {
    let complains = |line: &&str| line.starts_with("error:") || line.starts_with("fatal:");
    let line = done.stderr.lines().find(complains).or_else(|| done.stderr.lines().next_back());
    line.unwrap_or("it says nothing").chars().take(MAX_REASON).collect()
}
