//! `banger vm workspace export`.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status, internal},
    signals::Signals,
    workspace::{
        export::{self, ExportRequest, Patch},
        plan,
        quote::quoted,
    },
};
use banger_proto::{
    failure::{Code, Failure},
    name::VmName,
};
use clap::Args;
use serde::Serialize;
use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

const INTERRUPTED: &str = "interrupted: nothing was written or applied";

/// `banger vm workspace export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger vm workspace export fix > fix.patch     everything since the import
  banger vm workspace export fix --apply         applied to the repository it came from, or nothing if it does not apply
  banger vm workspace export fix --base-commit main

Commits, edits, new, removed and renamed files are all in the patch; ignored ones are not. The guest's own index, branches \
and files stay as they are. A patch that touches .git or another repository in the tree, leaves the tree, or changes what git \
here runs or trusts (hooks, configuration, filters) is refused; look at what else it changes before you run it.")]
pub(crate) struct ExportArgs {
    /// Compare with this commit of the guest's [default: the tree as imported]
    #[arg(long, value_name = "COMMIT")]
    base_commit: Option<String>,
    /// Where the repository is in the guest [default: where it was imported]
    #[arg(long, value_name = "DIR", value_parser = plan::guest_path)]
    guest_path: Option<String>,
    /// Leave a path out; can be repeated
    #[arg(long, value_name = "PATH")]
    exclude: Vec<String>,
    /// Write the patch to a file [default: to stdout]
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Apply it to the repository the workspace came from
    #[arg(long)]
    apply: bool,
    /// The VM: name, id, or the beginning of its id
    #[arg(value_name = "VM", add = complete::vms())]
    vm: VmName,
}

/// Outcome of an export, as JSON.
#[derive(Debug, Serialize)]
struct Exported {
    base_commit: String,
    bytes: usize,
    files: Vec<String>,
    output: Option<PathBuf>,
    applied_to: Option<PathBuf>,
}

/// Gets the patch, and writes, prints or applies it.
pub(crate) async fn run(context: &Context, args: ExportArgs) -> Result {
    let request = ExportRequest { base: args.base_commit, guest_path: args.guest_path, exclude: args.exclude };
    let to_stdout = args.output.is_none() && !args.apply;
    if to_stdout && context.printer.json() {
        return Err(Failure::new(Code::Invalid, "cannot print a patch and JSON on the same stdout")
            .hint("-o FILE writes the patch to a file, and --json says what is in it")
            .into());
    }
    let mut signals = Signals::install()?;
    let patch = Arc::new(signals.guard(INTERRUPTED, export::export(context, args.vm.as_str(), &request)).await?);
    if let Some(output) = &args.output {
        write(output, &patch.bytes).map_err(|error| {
            Failure::caused_by(Code::Unavailable, format!("cannot write {}", output.display()), &error)
        })?;
    }
    let source = if args.apply { Some(apply(context, &args.vm, &patch).await?) } else { None };
    if to_stdout {
        context.printer.bytes(&patch.bytes)?;
        return Ok(Status::Done);
    }
    let files: Vec<String> = patch.summary.files.iter().map(|path| quoted(path)).collect();
    let exported = Exported {
        base_commit: patch.base.clone(),
        bytes: patch.bytes.len(),
        files,
        output: args.output,
        applied_to: source,
    };
    if context.printer.json() {
        context.printer.value(&exported)?;
    } else {
        context.printer.note(&describe(&exported));
    }
    Ok(Status::Done)
}

async fn apply(context: &Context, vm: &VmName, patch: &Arc<Patch>) -> Result<PathBuf> {
    let source = patch.source.clone().ok_or_else(|| {
        Failure::new(Code::Invalid, format!("VM {vm} does not say which repository that patch belongs to"))
            .hint("-o FILE saves it; 'git apply FILE' applies it where you are")
    })?;
    let at = source.clone();
    let recovering = tokio::task::spawn_blocking(move || export::recover(&at));
    if let Some(notice) = recovering.await.map_err(|error| internal("cannot look at the repository", &error))?? {
        context.printer.note(&notice);
    }
    let (patch, at) = (Arc::clone(patch), source.clone());
    let applying = tokio::task::spawn_blocking(move || export::apply(&patch, &at));
    applying.await.map_err(|error| internal("cannot apply the patch", &error))??;
    Ok(source)
}

fn describe(exported: &Exported) -> String {
    let count = exported.files.len();
    let files = if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
    match (&exported.applied_to, &exported.output) {
        _ if exported.bytes == 0 => "nothing changed in the workspace".into(),
        (Some(source), _) => format!("{files} changed in {}", source.display()),
        (None, Some(output)) => format!("{files} in {}", output.display()),
        (None, None) => files,
    }
}

/// Writes the whole file or none.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.symlink_metadata().is_ok_and(|meta| !meta.is_file()) {
        // A pipe, a terminal, or a link to follow.
        return std::fs::OpenOptions::new().write(true).truncate(true).create(true).open(path)?.write_all(bytes);
    }
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".banger-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    rustix::fs::fchmod(file.as_file(), rustix::fs::Mode::from_raw_mode(0o666 & !umask.as_raw_mode()))?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
