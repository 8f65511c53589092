//! Commands for several VMs: all are looked up first, then all requests are sent at once, and each result is reported.

use crate::{
    commands::outcome,
    complete,
    context::Context,
    exit::{Error, Result, Status},
    http::segment,
    signals::Signals,
};
use banger_proto::{
    api::vm::Vm,
    failure::Failure,
    name::{VmId, VmName},
};
use clap::Args;
use futures_util::future::join_all;
use hyper::Method;
use serde::Serialize;

/// Argument for several VMs.
#[derive(Debug, Args)]
pub(crate) struct VmsArg {
    /// The VMs: name, id, or the beginning of an id
    #[arg(required = true, value_name = "VM", add = complete::vms())]
    pub(super) vms: Vec<VmName>,
}

/// Request for each of the VMs.
pub(super) struct Request<B> {
    pub(super) method: Method,
    /// Path after the VM, chosen by the VM as it was found.
    pub(super) suffix: fn(&Vm) -> &'static str,
    pub(super) body: Option<B>,
    /// Message for an interrupt.
    pub(super) on_interrupt: &'static str,
}

/// Result for one VM, as `--json` prints it in a list. Field names are stable.
#[derive(Debug, Serialize)]
struct Report {
    id: VmId,
    name: VmName,
    /// The VM after the request; none if it was deleted or the request failed.
    vm: Option<Vm>,
    /// Reason of the failure.
    failure: Option<Failure>,
}

impl outcome::Report for Report {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

/// Looks up the VMs, without duplicates. Fails if one of them does not exist.
pub(super) async fn resolve(context: &Context, vms: &[VmName]) -> Result<Vec<Vm>> {
    Signals::install()?.guard("interrupted: nothing was done", look_up(context, vms)).await
}

async fn look_up(context: &Context, vms: &[VmName]) -> Result<Vec<Vm>> {
    let mut daemon = context.daemon().await?;
    let mut found: Vec<Vm> = Vec::with_capacity(vms.len());
    let mut missing: Vec<Failure> = Vec::new();
    for vm in vms {
        match daemon.get::<Vm>(&format!("/v1/vms/{}", segment(vm.as_str()))).await {
            Ok(vm) if found.iter().any(|other| other.id == vm.id) => {}
            Ok(vm) => found.push(vm),
            Err(Error::Failed(failure)) => missing.push(failure),
            Err(error) => return Err(error),
        }
    }
    match missing.len() {
        0 => Ok(found),
        1 => Err(missing.swap_remove(0).into()),
        count => {
            let all =
                Failure::new(missing[0].code, format!("{count} of {} VMs cannot be used; nothing was done", vms.len()));
            Err(missing.into_iter().fold(all, |all, failure| all.cause(failure.to_string())).into())
        }
    }
}

/// Sends the request for all VMs at once, and reports each result, also of those that are done when a signal ends the
/// wait for the others.
pub(super) async fn act<B: Serialize>(context: &Context, vms: Vec<Vm>, request: Request<B>) -> Result {
    let of_several = vms.len() > 1;
    let results = join_all(vms.iter().map(|vm| one(context, of_several, vm, &request))).await;
    let (reports, status) = reports(vms, results)?;
    outcome::print(context, &reports)?;
    Ok(status)
}

/// Builds the reports, and the status of the whole command.
fn reports(vms: Vec<Vm>, results: Vec<Result<Option<Vm>>>) -> Result<(Vec<Report>, Status)> {
    let mut status = Status::Done;
    let mut reports = Vec::with_capacity(vms.len());
    for (vm, result) in vms.into_iter().zip(results) {
        let (now, failure) = outcome::settle(result, &mut status)?;
        let now = now.flatten();
        reports.push(Report { id: vm.id, name: vm.name, vm: now, failure });
    }
    Ok((reports, status))
}

async fn one<B: Serialize>(context: &Context, of_several: bool, vm: &Vm, request: &Request<B>) -> Result<Option<Vm>> {
    let printer = &context.printer;
    let printer = if of_several { printer.about(vm.name.as_str()) } else { printer.clone() };
    let path = format!("/v1/vms/{}{}", segment(vm.id.as_str()), (request.suffix)(vm));
    let mut signals = Signals::install()?;
    signals
        .guard(request.on_interrupt, async {
            let daemon = context.daemon().await?;
            daemon.operate::<Option<Vm>>(request.method.clone(), &path, request.body.as_ref()).await
        })
        .await?
        .settle(&printer, &mut signals, request.on_interrupt)
        .await
}
