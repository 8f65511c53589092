//! `banger vm set`.

use super::{
    each::{self, Request, VmsArg},
    network::EgressArgs,
};
use crate::{arguments, context::Context, exit::Result};
use banger_proto::{api::vm::SetVm, size::ByteSize};
use clap::{ArgGroup, Args};
use hyper::Method;

/// `banger vm set`.
#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("what")
        .required(true)
        .multiple(true)
        .args(["vcpu", "memory", "disk_size", "overcommit", "no_overcommit", "nat", "no_nat", "allow", "deny"])
))]
#[command(after_help = "\
Examples:
  banger vm set demo --memory 4G --vcpu 4
  banger vm set demo --disk-size 40G
  banger vm set demo --no-nat --allow '*.example.com:443'
  banger vm set demo --nat --allow none

New sizes take effect at the next start (banger vm restart). The network policy changes at once; --allow and --deny \
replace the previous lists, and 'none' empties one.")]
pub(crate) struct SetArgs {
    #[command(flatten)]
    refs: VmsArg,
    #[command(flatten)]
    sizes: SizeArgs,
}

/// Arguments for the sizes; at least one argument of the command is required.
#[derive(Debug, Args)]
struct SizeArgs {
    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = arguments::vcpu)]
    vcpu: Option<u32>,
    /// Memory, such as 512M or 4G (a bare number is MiB)
    #[arg(long, value_name = "SIZE", value_parser = arguments::memory)]
    memory: Option<ByteSize>,
    /// Work disk, such as 20G; it only grows
    #[arg(long, value_name = "SIZE", value_parser = arguments::disk_size)]
    disk_size: Option<ByteSize>,
    /// Let it start even if the host has too little free memory
    #[arg(long, overrides_with = "no_overcommit")]
    overcommit: bool,
    /// Start it only if its memory is free, which is the default
    #[arg(long)]
    no_overcommit: bool,
    #[command(flatten)]
    egress: EgressArgs,
}

/// Sets the sizes and the policies of the VMs.
pub(crate) async fn run(context: &Context, args: SetArgs) -> Result {
    let SizeArgs { vcpu, memory, disk_size, overcommit, no_overcommit, egress } = args.sizes;
    let overcommit = (overcommit || no_overcommit).then_some(overcommit);
    let nat = egress.nat.setting();
    let [allow, deny] = egress.lists()?;
    let request = Request {
        method: Method::PATCH,
        suffix: |_| "",
        body: Some(SetVm { vcpu, memory, disk_size, overcommit, nat, allow, deny, ..SetVm::default() }),
        on_interrupt: "interrupted: it may be set already ('banger vm show' tells)",
    };
    each::act(context, each::resolve(context, &args.refs.vms).await?, request).await
}
