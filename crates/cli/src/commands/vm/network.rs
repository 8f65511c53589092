//! Flags about a VM's network, and the verbs that publish its ports.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    signals::Signals,
};
use banger_proto::{
    api::vm::{SetVm, Vm},
    name::{NetworkName, VmName},
    network::{Publish, Rule},
};
use clap::Args;
use hyper::Method;

/// Where a VM may send.
#[derive(Debug, Default, Args)]
pub(super) struct EgressArgs {
    /// The public internet is open (never private addresses, this host or its network)
    #[arg(long, overrides_with = "no_nat")]
    nat: bool,
    /// Nothing outside is open but what --allow says
    #[arg(long)]
    no_nat: bool,
    /// Open a destination: HOST:PORT, ADDRESS/PREFIX or a domain (*.example.com: everything below it)
    #[arg(long, value_name = "DESTINATION")]
    pub(super) allow: Vec<Rule>,
    /// Close a destination; wins over --allow
    #[arg(long, value_name = "DESTINATION")]
    pub(super) deny: Vec<Rule>,
}

impl EgressArgs {
    /// What was said of the internet.
    pub(super) fn nat(&self) -> Option<bool> {
        match (self.nat, self.no_nat) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// A new VM's network.
#[derive(Debug, Default, Args)]
pub(super) struct NewNetworkArgs {
    #[command(flatten)]
    pub(super) egress: EgressArgs,
    /// Network whose VMs reach each other, by address and as NAME.vm [default: none, the VM is alone]
    #[arg(long, value_name = "NAME")]
    pub(super) network: Option<NetworkName>,
    /// Publish a port of the VM on this host: [ADDRESS:]HOST:GUEST, on 127.0.0.1 unless said; HOST 0 takes a free one
    #[arg(short = 'p', long, value_name = "HOST:GUEST")]
    pub(super) publish: Vec<Publish>,
}

/// `banger vm publish`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger vm publish demo -p 8080:80
  banger vm publish demo -p 0:80        a free port of 127.0.0.1, printed
  banger vm publish demo -p 0.0.0.0:8080:80")]
pub(crate) struct PublishArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(add = complete::vms())]
    vm: VmName,
    /// [ADDRESS:]HOST:GUEST, on 127.0.0.1 unless said; HOST 0 takes a free one
    #[arg(short, long, required = true, value_name = "HOST:GUEST")]
    publish: Vec<Publish>,
}

/// `banger vm unpublish`.
#[derive(Debug, Args)]
pub(crate) struct UnpublishArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(add = complete::vms())]
    vm: VmName,
    /// As it was published, or as `banger vm ports` shows it
    #[arg(short, long, required = true, value_name = "HOST:GUEST")]
    publish: Vec<Publish>,
}

/// Publishes ports, and prints where all of the VM's are.
pub(crate) async fn publish(context: &Context, args: PublishArgs) -> Result {
    change(context, &args.vm, SetVm { publish: args.publish, ..SetVm::default() }).await
}

/// Takes ports back.
pub(crate) async fn unpublish(context: &Context, args: UnpublishArgs) -> Result {
    change(context, &args.vm, SetVm { unpublish: args.publish, ..SetVm::default() }).await
}

async fn change(context: &Context, vm: &VmName, body: SetVm) -> Result {
    const UNDONE: &str = "interrupted: it may be done already ('banger vm ports' tells)";
    let mut signals = Signals::install()?;
    let vm = signals
        .guard(UNDONE, async {
            let path = format!("/v1/vms/{}", segment(vm.as_str()));
            context.daemon().await?.operate::<Vm>(Method::PATCH, &path, Some(&body)).await
        })
        .await?
        .settle(&context.printer, &mut signals, UNDONE)
        .await?;
    context
        .printer
        .data(&vm.published, |published| published.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(Status::Done)
}
