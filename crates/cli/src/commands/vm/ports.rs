//! `banger vm ports`.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    output::table::table,
};
use banger_proto::{agent::http::Port, name::VmName};
use clap::Args;

/// `banger vm ports`.
#[derive(Debug, Args)]
pub(crate) struct PortsArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(add = complete::vms())]
    vm: VmName,
}

/// Lists the sockets that listen in a VM.
pub(crate) async fn run(context: &Context, args: &PortsArgs) -> Result {
    let ports: Vec<Port> = context.daemon().await?.get(&format!("/v1/vms/{}/ports", segment(args.vm.as_str()))).await?;
    context.printer.data(&ports, |ports| {
        table(
            &["PROTOCOL", "ADDRESS", "PORT", "PID", "PROCESS"],
            ports.iter().map(|port| {
                [
                    port.protocol.clone(),
                    port.address.clone(),
                    port.port.to_string(),
                    port.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
                    port.process.clone().unwrap_or_else(|| "-".into()),
                ]
            }),
        )
    })?;
    Ok(Status::Done)
}
