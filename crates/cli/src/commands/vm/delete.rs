//! `banger vm delete`.

use super::each::{self, Request, VmsArg};
use crate::{
    context::Context,
    exit::{Result, Status, internal},
    output::escape::escape,
};
use banger_proto::api::vm::Vm;
use clap::Args;
use hyper::Method;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

/// Query that deletes a running VM, too.
const FORCE: &str = "?force=true";

/// `banger vm delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    refs: VmsArg,
    /// Do not ask; delete running VMs too
    #[arg(short, long)]
    force: bool,
}

/// Deletes the VMs, after asking if stdin and stderr are terminals. Otherwise the daemon refuses to delete a running VM
/// without `-f`.
pub(crate) async fn run(context: &Context, args: DeleteArgs) -> Result {
    let vms = each::resolve(context, &args.refs.vms).await?;
    let suffix: fn(&Vm) -> &'static str = if args.force {
        |_| FORCE
    } else if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        |_| ""
    } else if ask(&vms)? {
        // Confirmation for a stopped VM does not cover one that was started since.
        |vm| if vm.state.is_live() { FORCE } else { "" }
    } else {
        context.printer.note("nothing was deleted");
        return Ok(Status::SomeFailed);
    };
    let request = Request {
        method: Method::DELETE,
        suffix,
        body: None::<()>,
        on_interrupt: "interrupted: the VM may be deleted already ('banger ps -a' shows what is left)",
    };
    each::act(context, vms, request).await
}

/// Asks the user to confirm.
pub(super) fn ask(vms: &[Vm]) -> Result<bool> {
    let names: Vec<String> = vms.iter().map(|vm| format!("{} ({})", escape(vm.name.as_str()), vm.state)).collect();
    let failed = |error: io::Error| internal("cannot ask whether to delete", &error);
    write!(io::stderr(), "Delete {} and all data on it for good? [y/N] ", names.join(", ")).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
