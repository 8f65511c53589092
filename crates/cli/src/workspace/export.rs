//! Exports what a guest changed in its workspace as one patch: made in the guest, checked here, then written, or
//! applied as a whole or not at all.

use super::{
    attribute_macros::AttributeMacros,
    changes::RepoPath,
    git::Git,
    guest_git::{self, succeeded, with_git},
    nested,
    patch::{self, Summary},
    quote::quoted,
    repository::Repository,
    settings::Settings,
    shadow_repository::ShadowRepository,
    swap::{self, ApplyLock, Stage, SwapError},
    trusted::Trusted,
};
use crate::{context::Context, exec::capture::capture_with_progress, exit::Result, guest, output::progress::Progress};
use banger_proto::failure::{Code, Failure};
use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Largest patch, in bytes.
pub(crate) const MAX_PATCH: usize = 256 << 20;

/// Compares the working tree with the commit `$2`, with a temporary index and object directory. `$3`: `-M` or
/// `--no-renames`; the remaining arguments are pathspecs of what is left out. The copy of the index gets the original's
/// time, because git reads files that are no older than the index (see `ShadowRepository`).
const EXPORT: &str = r#"
base=$2
renames=$3
shift 3
g=$(git rev-parse --git-dir)
git rev-parse -q --verify "$base^{tree}" >/dev/null || { echo "the guest's repository has no commit $base" >&2; exit 3; }
t=$g/banger-export.$$
trap 'rm -rf "$t"' EXIT
trap 'exit 1' HUP INT TERM PIPE
mkdir "$t" "$t/objects"
[ ! -e "$g/index" ] || cp -p "$g/index" "$t/index"
GIT_ALTERNATE_OBJECT_DIRECTORIES=$(git rev-parse --git-path objects)
export GIT_INDEX_FILE="$t/index" GIT_OBJECT_DIRECTORY="$t/objects" GIT_ALTERNATE_OBJECT_DIRECTORIES
git add -A -- . "$@" >&2
git diff-index --cached -p --binary --full-index "$renames" --no-color --no-ext-diff --no-textconv \
    --src-prefix=a/ --dst-prefix=b/ --submodule=short "$base" -- . "$@"
"#;

/// A user's request to export a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExportRequest {
    /// Commit to compare with; by default the imported tree.
    pub(crate) base: Option<String>,
    /// Path in the guest; by default the workspace's.
    pub(crate) guest_path: Option<String>,
    /// Paths to leave out.
    pub(crate) exclude: Vec<String>,
}

/// A patch that passed all checks.
#[derive(Debug)]
pub(crate) struct Patch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) summary: Summary,
    pub(crate) base: String,
    /// Repository the workspace was imported from, as the VM's record says.
    pub(crate) source: Option<PathBuf>,
}

/// Has the guest make the patch, receives it, and checks it.
pub(crate) async fn export(context: &Context, vm: &str, request: &ExportRequest) -> Result<Patch> {
    let endpoint = guest::endpoint(context, vm).await?;
    let name = &endpoint.name;
    let workspace = endpoint.workspace.as_ref();
    let missing =
        |what: &str| Failure::new(Code::NotFound, format!("VM {name} has no workspace")).hint(what.to_owned());
    let path = request.guest_path.as_deref().or(workspace.map(|workspace| workspace.guest_path.as_str()));
    let path = path.ok_or_else(|| missing("banger vm workspace prepare brings one; --guest-path names another"))?;
    let recorded = workspace.and_then(|workspace| workspace.base_commit.as_deref());
    let base = request.base.as_deref().or(recorded);
    let base = base.ok_or_else(|| missing("--base-commit says what to compare with"))?.to_owned();
    if base.starts_with('-') {
        return Err(Failure::new(Code::Invalid, format!("{base:?} is no commit")).into());
    }
    let excluded: Vec<String> = request.exclude.iter().map(|path| format!(":(exclude,top){path}")).collect();
    let mut progress = Progress::new(&context.printer);
    progress.phase(&format!("taking what changed in {name}:{path}"));
    let mut ask = async |renames: &str| -> Result<(Vec<u8>, Summary)> {
        let args = [path, base.as_str(), renames].into_iter().chain(excluded.iter().map(String::as_str));
        let spec = guest_git::exec_spec(&with_git(EXPORT), &args.collect::<Vec<_>>());
        let made = capture_with_progress(&endpoint, &spec, MAX_PATCH, Some(&mut progress)).await?;
        if made.is_missing() {
            let failure = Failure::new(Code::Unsupported, format!("VM {name} has no git, which makes the patch"));
            let failure = failure.hint(format!("install git in the guest, or: banger vm cp {name}:{path} DIR"));
            return Err(failure.into());
        }
        succeeded(&made, &format!("make a patch of {name}:{path}"))?;
        let summary = patch::check(&made.stdout)?;
        Ok((made.stdout, summary))
    };
    let source = workspace.filter(|it| it.guest_path == path).map(|it| PathBuf::from(&it.source_path));
    let (mut bytes, mut summary) = ask("-M").await?;
    if hidden(&summary, source.as_deref()).is_some() {
        // Without renames the patch holds new files in full.
        (bytes, summary) = ask("--no-renames").await?;
    }
    no_hidden(&summary, source.as_deref())?;
    AttributeMacros::check(&summary, source.as_deref())?;
    Trusted::check(&summary, source.as_deref())?;
    if let Some(source) = &source {
        no_link_above(source, &summary)?;
    }
    nested::check(&summary, source.as_deref())?;
    Ok(Patch { bytes, summary, base, source })
}

/// Returns a file whose new content or kind is neither in the patch nor known from the tree it is to be applied to.
fn hidden<'a>(summary: &'a Summary, source: Option<&Path>) -> Option<&'a RepoPath> {
    let is_file = |path: &RepoPath| {
        let at = |root: &Path| root.join(OsStr::from_bytes(path)).symlink_metadata();
        source.is_some_and(|root| at(root).is_ok_and(|meta| meta.is_file()))
    };
    summary.unread.as_ref().or_else(|| summary.renamed.iter().find(|path| !is_file(path)))
}

fn no_hidden(summary: &Summary, source: Option<&Path>) -> std::result::Result<(), Failure> {
    let Some(path) = hidden(summary, source) else { return Ok(()) };
    let what = format!("the guest's patch touches {}: it renames what is no ordinary file", quoted(path));
    Err(Failure::new(Code::Denied, what))
}

/// Takes back what an earlier `--apply` left unfinished in `source` when it was killed, and says so.
pub(crate) fn recover(source: &Path) -> std::result::Result<Option<String>, Failure> {
    swap::roll_back(&Repository::at(&Git::find()?, source)?)
}

/// Applies a patch to the working tree of `source`. Nothing changes when it does not apply cleanly.
pub(crate) fn apply(patch: &Patch, source: &Path) -> std::result::Result<(), Failure> {
    if patch.bytes.is_empty() {
        return Ok(());
    }
    let git = Git::find()?;
    let repository = Repository::at(&git, source)?;
    let _lock = ApplyLock::take(&repository)?;
    let settings = Settings::read(&git, &repository)?;
    no_hidden(&patch.summary, Some(&repository.root))?;
    AttributeMacros::check(&patch.summary, Some(&repository.root))?;
    Trusted::check(&patch.summary, Some(&repository.root))?;
    no_link_above(&repository.root, &patch.summary)?;
    nested::check(&patch.summary, Some(&repository.root))?;
    let shadow = ShadowRepository::over(&git, &repository, &settings, None)?;
    let run = |tree: &Path, mode: &[&str]| {
        let args = ["apply", "--whitespace=nowarn", "--binary"];
        shadow.call_on(tree).args(args).args(mode).args(["-"]).answer(&patch.bytes)
    };
    let checked = run(&repository.root, &["--check"])?;
    if !checked.success {
        let failure = Failure::new(
            Code::Conflict,
            format!("the patch does not apply to {}; nothing was changed", repository.root.display()),
        );
        let failure = failure.cause(checked.complaint);
        return Err(failure.hint("-o FILE saves it; 'git apply --3way FILE' merges what overlaps"));
    }
    let untouched = format!("cannot apply the patch to {}; nothing was changed", repository.root.display());
    let failed = |error: io::Error| Failure::caused_by(Code::Unavailable, untouched.clone(), &error);
    let files = &patch.summary.files;
    let stage = Stage::beside(&repository, files).map_err(failed)?;
    let applied = run(&stage.tree(), &[])?;
    if !applied.success {
        return Err(Failure::new(Code::Unavailable, untouched).cause(applied.complaint));
    }
    stage.swap(files).map_err(|error| match error {
        SwapError::RolledBack(error) => failed(error),
        SwapError::RollbackFailed { error, rollback_error, kept } => {
            let what = format!("the patch is applied to {} in part", repository.root.display());
            let failure =
                Failure::caused_by(Code::Unavailable, what, &error).cause(format!("taking it back: {rollback_error}"));
            let failure = failure.hint(format!("what is missing there is in {}", kept.display()));
            failure.hint("banger vm workspace export --apply tries again to take it back before it applies anything")
        }
    })
}

/// Refuses a path that goes through a symbolic link of the host's tree, which would lead it elsewhere.
fn no_link_above(root: &Path, summary: &Summary) -> std::result::Result<(), Failure> {
    for (path, dir) in patch::directories(&summary.files) {
        let at = root.join(OsStr::from_bytes(dir));
        if at.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
            let what = format!("the guest's patch touches {}: it goes through the link {}", quoted(path), quoted(dir));
            return Err(Failure::new(Code::Denied, what));
        }
    }
    Ok(())
}
