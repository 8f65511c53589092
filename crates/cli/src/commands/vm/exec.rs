//! `banger vm exec`.

use super::workspace::prepare::make_plan;
use crate::{
    arguments::{self, Variable},
    attach::{self, Command},
    complete,
    context::Context,
    exit::Result,
    guest,
    signals::Signals,
    workspace::{
        import::{self, Existing},
        import_lock::ImportLock,
        stale::{self, Head},
    },
};
use banger_proto::{agent::exec::ExecSpec, api::vm::GuestEndpoint, name::VmName};
use clap::Args;

/// `banger vm exec`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger vm exec demo -- ls -l /            its exit status is banger's
  banger vm exec -t demo -- top             with a terminal
  banger vm exec demo                       a shell
  banger vm exec demo -- cat < local.txt    stdin, stdout and stderr are the command's")]
pub(crate) struct ExecArgs {
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Environment variable, besides the VM's own; K alone passes on your own value
    #[arg(short, long, value_name = "K[=V]")]
    env: Vec<Variable>,
    /// Working directory [default: the VM's own, else the workspace, else the user's home]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User: NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long)]
    user: Option<String>,
    /// Update the workspace first if HEAD moved on the host
    #[arg(long)]
    auto_prepare: bool,
    /// The VM: name, id, or the beginning of its id
    #[arg(value_name = "VM", add = complete::vms())]
    vm: VmName,
    /// The command and its arguments [default: a login shell]
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the command; its exit status becomes banger's.
pub(crate) async fn run(context: &Context, args: ExecArgs) -> Result {
    let tty = Command::wants_tty(args.tty, &args.command);
    let spec = ExecSpec {
        argv: args.command,
        env: arguments::environment(args.env, |key| std::env::var(key).ok()),
        cwd: args.workdir,
        user: args.user,
        tty: None,
    };
    let mut signals = Signals::install()?;
    let work = up_to_date(context, args.vm.as_str(), args.auto_prepare);
    let endpoint = signals.guard(attach::UNSTARTED, work).await?;
    attach::attach_to(context, &endpoint, Command { spec, tty }, &mut signals).await
}

/// Returns the VM's agent, after a check whether the workspace still matches the repository.
async fn up_to_date(context: &Context, vm: &str, auto_prepare: bool) -> Result<GuestEndpoint> {
    let endpoint = guest::endpoint(context, vm).await?;
    let Some(workspace) = &endpoint.workspace else { return Ok(endpoint) };
    let Head::Moved(now) = stale::compare(workspace) else { return Ok(endpoint) };
    if auto_prepare {
        let lock = ImportLock::take(context, vm).await?;
        // The previous holder of the lock may have imported it.
        if let Some(workspace) = &lock.endpoint.workspace
            && matches!(stale::compare(workspace), Head::Moved(_))
        {
            let plan = make_plan(context, import::repeat_request(workspace)).await?;
            import::import(context, &lock, plan, Existing::Update).await?;
        }
        return guest::endpoint(context, vm).await;
    }
    context.printer.warn(&format!(
        "{} is at {} since the workspace was brought at {}; --auto-prepare brings it up to date",
        workspace.source_path,
        stale::short(now.as_deref()),
        stale::short(workspace.head_commit.as_deref())
    ));
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn typed(words: &[&str]) -> (bool, Vec<String>) {
        match Cli::try_parse_from([&["banger", "exec"], words].concat()).unwrap().command {
            Command::Exec(args) => (args.tty, args.command),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_dashes_may_be_left_out() {
        assert_eq!(typed(&["demo", "--", "ls", "-t"]), (false, vec!["ls".into(), "-t".into()]));
        assert_eq!(typed(&["demo", "ls", "-t"]), (false, vec!["ls".into(), "-t".into()]));
        assert_eq!(typed(&["-t", "demo", "ls", "--json"]), (true, vec!["ls".into(), "--json".into()]));
        assert_eq!(typed(&["demo", "--", "sh", "-c", "a -- b", "--", "c"]).1, ["sh", "-c", "a -- b", "--", "c"]);
        assert_eq!(typed(&["demo"]), (false, vec![]));
    }
}
