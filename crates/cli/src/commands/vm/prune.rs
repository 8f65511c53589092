//! `banger vm prune`.

use super::{
    delete::ask,
    each::{self, Request},
    list,
};
use crate::{
    context::Context,
    exit::{Result, Status},
};
use banger_proto::{
    api::vm::Vm,
    failure::{Code, Failure},
};
use clap::Args;
use hyper::Method;
use std::io::{self, IsTerminal as _};

/// `banger vm prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Deletes all VMs that do not run, after showing them. The daemon refuses one that was started meanwhile.
pub(crate) async fn run(context: &Context, args: &PruneArgs) -> Result {
    let all: Vec<Vm> = context.daemon().await?.get("/v1/vms").await?;
    let idle: Vec<Vm> = all.into_iter().filter(|vm| !vm.state.is_live()).collect();
    if idle.is_empty() {
        context.printer.note("no VM is down: nothing to delete");
        if context.printer.json() {
            context.printer.value(&idle)?;
        }
        return Ok(Status::Done);
    }
    context.printer.note_block(&list::render(&idle));
    if !args.force {
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            let message = format!("{} VMs would be deleted with their disks, and there is nobody to ask", idle.len());
            return Err(Failure::new(Code::Invalid, message).hint("banger vm prune -f deletes them").into());
        }
        if !ask(&idle)? {
            context.printer.note("nothing was deleted");
            return Ok(Status::SomeFailed);
        }
    }
    let request = Request {
        method: Method::DELETE,
        suffix: |_| "",
        body: None::<()>,
        on_interrupt: "interrupted: some VMs may be deleted already ('banger ps -a' shows what is left)",
    };
    each::act(context, idle, request).await
}
