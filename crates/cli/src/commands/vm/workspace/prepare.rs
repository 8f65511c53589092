//! `banger vm workspace prepare`, and the arguments it shares with `run`.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status, internal},
    guest,
    http::segment,
    signals::Signals,
    workspace::{
        GUEST_PATH,
        bootstrap::{self, Bootstrap},
        import::{self, Existing},
        import_lock::ImportLock,
        plan::{self, ImportRequest, Plan},
        quote::quoted,
        stale::short,
    },
};
use banger_proto::{
    api::{host::Setting, vm::Vm, workspace::Mode},
    name::VmName,
};
use clap::Args;
use std::{path::PathBuf, sync::Arc};

const INTERRUPTED: &str =
    "interrupted: the repository is in the VM in part, or not at all; prepare it again with --force";

/// Options of an import.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImportArgs {
    /// Create this branch in the guest and check it out
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Start point of that branch; the tree is then the committed one
    #[arg(long, value_name = "REF", requires = "branch")]
    from: Option<String>,
    /// Import untracked files too (never ignored ones)
    #[arg(long)]
    include_untracked: bool,
    /// What to import: overlay (recent commits and the working tree) or full (all history, submodules)
    #[arg(long, value_name = "overlay|full", default_value_t = Mode::Overlay)]
    mode: Mode,
    /// Where the repository goes in the guest
    #[arg(long, value_name = "DIR", default_value = GUEST_PATH, value_parser = plan::guest_path)]
    guest_path: String,
    /// Print the files that would be imported, and do nothing else
    #[arg(long)]
    dry_run: bool,
}

impl ImportArgs {
    /// Returns an option that was given and makes sense only with a repository.
    pub(crate) fn needs_a_path(&self) -> Option<&'static str> {
        [
            (self.branch.is_some(), "--branch"),
            (self.include_untracked, "--include-untracked"),
            (self.mode != Mode::Overlay, "--mode"),
            (self.guest_path != GUEST_PATH, "--guest-path"),
            (self.dry_run, "--dry-run"),
        ]
        .into_iter()
        .find_map(|(asked, flag)| asked.then_some(flag))
    }

    pub(crate) fn dry_run(&self) -> bool {
        self.dry_run
    }

    pub(crate) fn request(self, path: PathBuf) -> ImportRequest {
        let Self { branch, from, include_untracked, mode, guest_path, dry_run: _ } = self;
        ImportRequest { path, mode, branch, from, include_untracked, guest_path }
    }
}

/// Plans the import, and tells its notices.
pub(crate) async fn make_plan(context: &Context, request: ImportRequest) -> Result<Arc<Plan>> {
    let planning = tokio::task::spawn_blocking(move || Plan::make(request));
    let plan = planning.await.map_err(|error| internal("cannot look at the repository", &error))??;
    plan.notices.iter().for_each(|notice| context.printer.note(notice));
    Ok(Arc::new(plan))
}

/// Prints the files that would arrive, one a line as `git ls-files` does.
pub(crate) fn print_files(context: &Context, plan: &Plan) -> Result {
    let files: Vec<String> = plan.files().iter().map(|path| quoted(path)).collect();
    context.printer.data(&files, |files| files.join("\n"))?;
    Ok(Status::Done)
}

/// `banger vm workspace prepare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger vm workspace prepare demo .                 this repository at /root/repo in VM demo
  banger vm workspace prepare demo . --mode full     with all history and submodules
  banger vm workspace prepare demo . --dry-run       what would be imported

Tracked files travel, with the changes they have here; untracked ones only with --include-untracked, ignored ones never. \
A workspace the guest worked in is not overwritten.")]
pub(crate) struct PrepareArgs {
    #[command(flatten)]
    import: ImportArgs,
    /// Overwrite changes made in the guest
    #[arg(long)]
    force: bool,
    /// Do not have the guest's mise install the tools that mise.toml or .tool-versions ask for
    #[arg(long)]
    no_bootstrap: bool,
    /// The VM: name, id, or the beginning of its id
    #[arg(value_name = "VM", add = complete::vms())]
    vm: VmName,
    /// A path in the repository
    #[arg(default_value = ".", value_hint = clap::ValueHint::DirPath)]
    path: PathBuf,
}

/// Imports the repository and prints the recorded workspace.
pub(crate) async fn run(context: &Context, args: PrepareArgs) -> Result {
    let dry_run = args.import.dry_run();
    let mut signals = Signals::install()?;
    let vm = args.vm.as_str();
    let workspace = signals
        .guard(INTERRUPTED, async {
            let request = args.import.request(args.path);
            if dry_run {
                return print_files(context, &*make_plan(context, request).await?).map(|_| None);
            }
            let lock = ImportLock::take(context, vm).await?;
            let plan = make_plan(context, request).await?;
            let tools = bootstrap::tools_file(&plan).filter(|_| !args.no_bootstrap);
            if let Some(file) = tools {
                has_network(context, vm, file).await?;
            }
            let existing = if args.force { Existing::Overwrite } else { Existing::Update };
            let workspace = import::import(context, &lock, plan, existing).await?;
            drop(lock);
            if let Some(file) = tools {
                let endpoint = guest::endpoint(context, vm).await?;
                bootstrap::install(&context.printer, &endpoint, &workspace, file, Bootstrap::Foreground).await?;
            }
            Ok(Some(workspace))
        })
        .await?;
    if let Some(workspace) = workspace {
        context.printer.data(&workspace, |workspace| {
            format!("{} at {} ({})", workspace.guest_path, short(workspace.head_commit.as_deref()), workspace.mode)
        })?;
    }
    Ok(Status::Done)
}

/// Refuses to install tools from the internet in a VM without internet access.
async fn has_network(context: &Context, vm: &str, file: &str) -> Result<()> {
    let mut daemon = context.daemon().await?;
    let settings: Vec<Setting> = daemon.get("/v1/config").await?;
    let vm: Vm = daemon.get(&format!("/v1/vms/{}", segment(vm))).await?;
    if bootstrap::has_network(Some(vm.nat), &settings) { Ok(()) } else { Err(bootstrap::no_network(file).into()) }
}
