//! Verbs that take several VMs: all are resolved first, then all are acted on at once, and each is reported.

use crate::{
    complete,
    context::Context,
    exit::{Error, Result, Status, interruption},
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

/// The VMs a verb is for.
#[derive(Debug, Args)]
pub(crate) struct VmsArg {
    /// The VMs: name, id, or the beginning of an id
    #[arg(required = true, value_name = "VM", add = complete::vms())]
    pub(super) vms: Vec<VmName>,
}

/// What is asked of each.
pub(super) struct Request<B> {
    pub(super) method: Method,
    /// What follows the VM in the path, of one that was found like this.
    pub(super) suffix: fn(&Vm) -> &'static str,
    pub(super) body: Option<B>,
    /// What an interrupt undoes.
    pub(super) undone: &'static str,
}

/// How it went for one; what `--json` prints, in a list. Field names are stable.
#[derive(Debug, Serialize)]
struct Report {
    id: VmId,
    name: VmName,
    /// The VM as it is now; none once it is deleted, or when it failed.
    vm: Option<Vm>,
    /// Why it failed.
    failure: Option<Failure>,
}

/// The VMs that are meant, each once; nothing when one of them is not there.
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

/// Asks the same of every VM, at once, and reports each; those that are done also when a signal ends the wait for others.
pub(super) async fn act<B: Serialize>(context: &Context, vms: Vec<Vm>, request: Request<B>) -> Result {
    let of_several = vms.len() > 1;
    let results = join_all(vms.iter().map(|vm| one(context, of_several, vm, &request))).await;
    let (reports, status) = reports(vms, results)?;
    if context.printer.json() {
        context.printer.value(&reports)?;
    } else {
        for report in &reports {
            match &report.failure {
                None => context.printer.text(report.name.as_str())?,
                Some(failure) => context.printer.failure(failure, false),
            }
        }
    }
    Ok(status)
}

/// How it went for each, and for all of them.
fn reports(vms: Vec<Vm>, results: Vec<Result<Option<Vm>>>) -> Result<(Vec<Report>, Status)> {
    let mut status = Status::Done;
    let mut reports = Vec::with_capacity(vms.len());
    for (vm, result) in vms.into_iter().zip(results) {
        let (now, failure) = match result {
            Ok(now) => (now, None),
            Err(Error::Failed(failure)) => {
                if status == Status::Done {
                    status = Status::SomeFailed;
                }
                (None, Some(failure))
            }
            Err(Error::Interrupted { signal, undone }) => {
                status = Status::CutShort(signal);
                (None, Some(interruption(undone)))
            }
            Err(error @ Error::Pipe) => return Err(error),
        };
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
        .guard(request.undone, async {
            let daemon = context.daemon().await?;
            daemon.operate::<Option<Vm>>(request.method.clone(), &path, request.body.as_ref()).await
        })
        .await?
        .settle(&printer, &mut signals, request.undone)
        .await
}
