//! `banger vm run`: a VM, and usually a command or a shell in it.

use super::{
    create::{INTERRUPTED, NewVmArgs},
    workspace::prepare::{ImportArgs, make_plan, print_files},
};
use crate::{
    attach::{self, Command},
    context::Context,
    daemon::operation::{Operation, is_not_found},
    exit::{Error, Result, Status},
    guest,
    http::segment,
    output::printer::Printer,
    signals::Signals,
    workspace::{
        bootstrap::{self, Bootstrap},
        import,
        import_lock::ImportLock,
        leftovers::Leftovers,
        plan::{self, ImportRequest},
        upload::Upload,
    },
};
use banger_proto::{
    agent::{boot::Init, exec::ExecSpec},
    api::{
        host::Setting,
        vm::{CreateVm, Start, Vm},
    },
    failure::{Code, Failure},
};
use clap::Args;
use hyper::Method;
use serde::de::IgnoredAny;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// Time limit for the daemon to confirm a deletion.
const DELETE_DEADLINE: Duration = Duration::from_secs(30);

const UNTOUCHED: &str = "interrupted: nothing was created";
const UNINSTALLED: &str = "interrupted while tools were installed: the VM is up, with the repository in it";
const UNIMPORTED: &str = "interrupted while the repository was brought into the VM";

/// Arguments of `banger vm run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger vm run --rm -- uname -a             a throw-away VM; the command's exit status is banger's
  banger vm run . --rm -- make test          the same with this git repository in it
  banger vm run . --name fix                 a shell in the repository; the VM stays up
  tar c src | banger vm run --rm -- tar t    stdin, stdout and stderr are the command's
  banger vm run                              a shell; the VM stays up
  banger vm run --name demo -d               no shell; the VM stays up

Exit status: the command's own (128+n when signal n ended it), 125 when banger failed, 126 not executable, 127 not \
found.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag somebody types")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    vm: NewVmArgs,
    /// Delete the VM when the command or shell ends, however it ends
    #[arg(long)]
    rm: bool,
    /// Start the VM, print its name, and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    #[command(flatten)]
    import: ImportArgs,
    /// Do not have the guest's mise install the tools that mise.toml or .tool-versions ask for
    #[arg(long)]
    no_bootstrap: bool,
    /// Git repository to import into the VM, such as . [default: none]
    #[arg(value_hint = clap::ValueHint::DirPath)]
    path: Option<PathBuf>,
    // Not supported; parsed for a helpful error message.
    #[arg(short = 'v', long = "volume", hide = true)]
    volumes: Vec<String>,
    /// The command and its arguments [default: a login shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// The arguments of `run`, interpreted.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    create: CreateVm,
    /// Command to run in the VM; none if detached.
    command: Option<Command>,
    /// Whether the VM is deleted with the end of the command.
    lease: bool,
    /// Repository to import.
    import: Option<ImportRequest>,
    /// Treatment of the tools that the repository asks for.
    bootstrap: Bootstrap,
    /// Whether only the files of the import are printed.
    dry_run: bool,
}

impl TryFrom<RunArgs> for Plan {
    type Error = Failure;

    fn try_from(args: RunArgs) -> std::result::Result<Self, Failure> {
        match &args.path {
            None => {
                let no_bootstrap = args.no_bootstrap.then_some("--no-bootstrap");
                if let Some(flag) = args.import.needs_a_path().or(no_bootstrap) {
                    return Err(Failure::new(Code::Invalid, format!("{flag} needs a repository"))
                        .hint("write its path, such as: banger vm run ."));
                }
            }
            Some(path) if plan::looks_like_a_command(path) => {
                let path = path.display();
                return Err(Failure::new(Code::NotFound, format!("there is no directory {path} to bring into the VM"))
                    .hint(format!("to run a command, write it after --, such as: banger vm run -- {path}")));
            }
            Some(_) => {}
        }
        if let Some(volume) = args.volumes.first() {
            return Err(Failure::new(Code::Unsupported, format!("cannot mount {volume}: mounts come later"))
                .hint("banger vm cp SRC NAME:/path copies files into a VM that runs"));
        }
        if args.detach && args.rm {
            return Err(Failure::new(
                Code::Invalid,
                "-d and --rm exclude each other: a detached VM has no session to end with",
            )
            .hint("leave out -d, or delete the VM later with: banger vm rm -f NAME"));
        }
        if args.detach && !args.command.is_empty() {
            return Err(Failure::new(
                Code::Invalid,
                "-d and a command exclude each other: nobody would see how it ends",
            )
            .hint("start the VM with -d, then: banger vm exec NAME -- CMD"));
        }
        // A command with `--rm` needs no services of the image, unless it waits for them; everything else gets the
        // machine that the image describes.
        let quick = args.rm && !args.command.is_empty() && !args.vm.waits_for_boot();
        let default_init = quick.then_some(Init::Agent);
        let start = if args.rm { Start::Leased } else { Start::Yes };
        let tty = Command::wants_tty(args.tty, &args.command);
        // Environment, directory and user are in the VM's configuration, and apply to every command in it.
        let spec = ExecSpec { argv: args.command, env: BTreeMap::new(), cwd: None, user: None, tty: None };
        let dry_run = args.import.dry_run();
        // The user waits for a command, which installs itself what it needs.
        let bootstrap = match (args.no_bootstrap || !spec.argv.is_empty(), args.detach) {
            (true, _) => Bootstrap::No,
            (false, true) => Bootstrap::Foreground,
            (false, false) => Bootstrap::Background,
        };
        let import = args.path.map(|path| args.import.request(path));
        Ok(Self {
            create: args.vm.request(start, default_init)?,
            command: (!args.detach).then_some(Command { spec, tty }),
            lease: args.rm,
            import,
            bootstrap,
            dry_run,
        })
    }
}

/// Creates the VM, runs the command, and with `--rm` deletes the VM.
pub(crate) async fn run(context: &Context, args: RunArgs) -> Result {
    let plan = Plan::try_from(args)?;
    let mut signals = Signals::install()?;
    // Planned before the VM is created: a repository that cannot be imported must not leave a VM behind.
    let (mut upload, mut tools) = (None, None);
    if let Some(request) = plan.import {
        let repository = signals.guard(UNTOUCHED, make_plan(context, request)).await?;
        if plan.dry_run {
            return print_files(context, &repository);
        }
        tools = bootstrap::tools_file(&repository).filter(|_| plan.bootstrap != Bootstrap::No);
        if let Some(file) = tools {
            let settings = async { context.daemon().await?.get("/v1/config").await };
            let settings: Vec<Setting> = signals.guard(UNTOUCHED, settings).await?;
            if !bootstrap::has_network(plan.create.nat, &settings) {
                return Err(bootstrap::no_network(file).into());
            }
        }
        // Packed while the VM boots.
        upload = Some(Upload::begin(repository, Leftovers::default()));
    }
    let mut operation: Operation<Vm> = signals
        .guard(INTERRUPTED, async {
            context.daemon().await?.operate(Method::POST, "/v1/vms", Some(&plan.create)).await
        })
        .await?;
    let printer = match &plan.command {
        Some(_) => context.printer.for_session(),
        None => context.printer.clone(),
    };
    let vm = operation.settle(&printer, &mut signals, INTERRUPTED).await?;
    let imported = match upload {
        None => Ok(()),
        Some(upload) => {
            let tools = tools.map(|file| (file, plan.bootstrap));
            let imported = import_repository(context, &vm, upload, tools, &mut signals).await;
            imported.map_err(|error| if plan.lease { error } else { import::unfinished(error, vm.name.as_str()) })
        }
    };
    let ended = match (imported, plan.command) {
        (Err(error), _) if plan.lease => Err(error),
        (Err(error), _) => return Err(error),
        (Ok(()), Some(command)) => attach::attach(context, vm.id.as_str(), command, &mut signals).await,
        (Ok(()), None) => {
            context.printer.data(&vm, |vm| vm.name.to_string())?;
            return Ok(Status::Done);
        }
    };
    if plan.lease {
        return delete_leased(context, &printer, &vm, ended, operation, &mut signals).await;
    }
    context
        .printer
        .note(&format!("VM {0} is still up: 'banger vm stop {0}' stops it, 'banger vm rm -f {0}' deletes it", vm.name));
    ended
}

/// Imports the repository, and installs the tools that it asks for.
async fn import_repository(
    context: &Context,
    vm: &Vm,
    upload: Upload,
    tools: Option<(&str, Bootstrap)>,
    signals: &mut Signals,
) -> Result<()> {
    let id = vm.id.as_str();
    let importing = async {
        let lock = ImportLock::take(context, id).await?;
        import::import_into_new(context, &lock, upload).await
    };
    let workspace = signals.guard(UNIMPORTED, importing).await?;
    let Some((file, how)) = tools else { return Ok(()) };
    let installing = async {
        let endpoint = guest::endpoint(context, id).await?;
        bootstrap::install(&context.printer, &endpoint, &workspace, file, how).await
    };
    signals.guard(UNINSTALLED, installing).await
}

/// Deletes the VM and waits for the confirmation. The lease is held until then, so that the daemon deletes the VM even
/// if this process dies here.
async fn delete_leased(
    context: &Context,
    printer: &Printer,
    vm: &Vm,
    ended: Result,
    lease: Operation<Vm>,
    signals: &mut Signals,
) -> Result {
    let on_interrupt = format!("interrupted: the daemon is still deleting VM {}", vm.name);
    let deleting = async {
        let path = format!("/v1/vms/{}?force=true", segment(vm.id.as_str()));
        let daemon = context.daemon().await?;
        match daemon.operate::<IgnoredAny>(Method::DELETE, &path, None::<&()>).await {
            Ok(mut operation) => operation.settle(printer, &mut Signals::install()?, &on_interrupt).await.map(drop),
            Err(error) => Err(error),
        }
    };
    let deleted = signals
        .guard(&on_interrupt, async {
            tokio::time::timeout(DELETE_DEADLINE, deleting).await.unwrap_or_else(|_| {
                let message = format!("VM {} was not deleted within {} s", vm.name, DELETE_DEADLINE.as_secs());
                Err(Failure::new(Code::Timeout, message).into())
            })
        })
        .await;
    drop(lease);
    match (ended, deleted) {
        (ended, Err(error)) if is_not_found(&error) => ended, // Somebody else was faster.
        (Ok(Status::Done | Status::Guest(0)), Err(Error::Failed(failure))) => Err(left_behind(failure, vm).into()),
        (Ok(Status::Done | Status::Guest(0)), Err(error)) => Err(error),
        (ended, Err(Error::Failed(failure))) => {
            printer.failure(&left_behind(failure, vm), true);
            ended
        }
        (ended, Ok(()) | Err(_)) => ended,
    }
}

fn left_behind(failure: Failure, vm: &Vm) -> Failure {
    failure.hint(format!("banger vm rm -f {} deletes what may be left of the VM", vm.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command as Typed};
    use banger_proto::api::vm::VmmChoice;
    use clap::Parser as _;

    fn plan(line: &str) -> std::result::Result<Plan, Failure> {
        let typed = line.split(' ').filter(|word| !word.is_empty());
        let cli = Cli::try_parse_from(["banger", "run"].into_iter().chain(typed)).unwrap();
        match cli.command {
            Typed::Run(args) => Plan::try_from(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_throw_away_command_starts_fastest() {
        let quick = plan("--rm -- uname -a").unwrap();
        assert_eq!((quick.create.init, quick.create.start, quick.lease), (Some(Init::Agent), Start::Leased, true));
        assert_eq!(quick.command.unwrap().spec.argv, ["uname", "-a"]);
        assert_eq!(plan("--rm --init image -- x").unwrap().create.init, Some(Init::Image));
        for line in ["--rm", "-- x", "-d", "", "--rm --wait boot -- x"] {
            assert_eq!(plan(line).unwrap().create.init, None, "{line:?}");
        }
    }

    #[test]
    fn contradictions_are_refused_before_anything_exists() {
        assert_eq!(plan("-d --rm").unwrap_err().code, Code::Invalid);
        assert_eq!(plan("-d -- x").unwrap_err().code, Code::Invalid);
    }

    #[test]
    fn what_comes_later_says_what_works_today() {
        let failure = plan("-v /a:/b -- x").unwrap_err();
        assert_eq!(failure.code, Code::Unsupported);
        assert!(failure.hints[0].contains("vm cp"), "{failure:?}");
    }

    #[test]
    fn a_path_is_a_repository_and_its_flags_need_one() {
        let imported = plan("--include-untracked . --rm -- make test").unwrap();
        let request = imported.import.unwrap();
        assert_eq!((request.path.as_path(), request.guest_path.as_str()), (".".as_ref(), "~/repo"));
        assert!(request.include_untracked && imported.lease);
        for line in ["--include-untracked -- x", "--branch b", "--mode full -d", "--dry-run", "--no-bootstrap"] {
            assert_eq!(plan(line).unwrap_err().code, Code::Invalid, "{line}");
        }
        let failure = plan("uname-that-is-not-here").unwrap_err();
        assert!(failure.hints[0].contains("after --"), "{failure:?}");
    }

    #[test]
    fn tools_are_waited_for_when_nobody_works_meanwhile() {
        for (line, how) in [
            (". -d", Bootstrap::Foreground),
            (".", Bootstrap::Background),
            (". --rm", Bootstrap::Background),
            (". --rm -- make", Bootstrap::No),
            (". -d --no-bootstrap", Bootstrap::No),
        ] {
            assert_eq!(plan(line).unwrap().bootstrap, how, "{line}");
        }
    }

    #[test]
    fn everything_after_the_dashes_is_the_commands() {
        let plan = plan("--name x -e A=1 -w /src -u dev --vmm auto -- sh -c --json -d").unwrap();
        assert_eq!(plan.command.unwrap().spec.argv, ["sh", "-c", "--json", "-d"]);
        assert_eq!(plan.create.env["A"], "1");
        assert_eq!(plan.create.workdir.as_deref(), Some("/src"));
        assert_eq!(plan.create.vmm, Some(VmmChoice::Auto));
        assert!(!plan.lease);
    }
}
