//! `banger vm ports`.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    output::table::table,
};
use banger_proto::{api::vm::VmPort, name::VmName};
use clap::Args;

/// `banger vm ports`.
#[derive(Debug, Args)]
pub(crate) struct PortsArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(add = complete::vms())]
    vm: VmName,
}

/// Lists the ports of a VM.
pub(crate) async fn run(context: &Context, args: &PortsArgs) -> Result {
    let ports: Vec<VmPort> =
        context.daemon().await?.get(&format!("/v1/vms/{}/ports", segment(args.vm.as_str()))).await?;
    context.printer.data(&ports, |ports| {
        table(
            &["PROTOCOL", "ADDRESS", "PORT", "PID", "PROCESS", "PUBLISHED"],
            ports.iter().map(|port| {
                let VmPort { guest, published, listening } = port;
                let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
                [
                    guest.protocol.clone(),
                    if *listening { guest.address.clone() } else { "(nobody)".to_owned() },
                    guest.port.to_string(),
                    or_dash(guest.pid.map(|pid| pid.to_string()).unwrap_or_default()),
                    or_dash(guest.process.clone().unwrap_or_default()),
                    or_dash(published.join(" ")),
                ]
            }),
        )
    })?;
    Ok(Status::Done)
}
