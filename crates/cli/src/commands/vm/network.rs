//! Arguments for a VM's network, and the commands that publish its ports.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    signals::Signals,
};
use banger_proto::{
    api::vm::{SetVm, Vm},
    failure::{Code, Failure},
    name::{NetworkName, VmName},
    network::{InvalidNetwork, Publish, Rule},
};
use clap::Args;
use hyper::Method;
use std::str::FromStr;

/// Arguments for access to the internet.
#[derive(Debug, Default, Args)]
pub(super) struct NatArgs {
    /// Allow the public internet (never private addresses, this host or its network)
    #[arg(long, overrides_with = "no_nat")]
    nat: bool,
    /// Allow nothing outside the VM except what --allow opens
    #[arg(long)]
    no_nat: bool,
}

impl NatArgs {
    /// Returns the requested access; `None` if neither flag was given.
    pub(super) fn setting(&self) -> Option<bool> {
        match (self.nat, self.no_nat) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// Arguments that change where an existing VM may connect.
#[derive(Debug, Default, Args)]
pub(super) struct EgressArgs {
    #[command(flatten)]
    pub(super) nat: NatArgs,
    /// Allow a destination: HOST:PORT, ADDRESS/PREFIX or a domain; 'none' empties the list
    #[arg(long, value_name = "DESTINATION")]
    allow: Vec<Choice>,
    /// Deny a destination (but no VM of the same --network); wins over --allow; a domain is no longer resolved, its
    /// addresses stay reachable; 'none' empties the list
    #[arg(long, value_name = "DESTINATION")]
    deny: Vec<Choice>,
}

impl EgressArgs {
    /// Returns the lists of allowed and denied destinations; `None` for a list that was not given.
    pub(super) fn lists(self) -> std::result::Result<[Option<Vec<Rule>>; 2], Failure> {
        Ok([list("--allow", self.allow)?, list("--deny", self.deny)?])
    }
}

/// A destination, or `none`, which empties the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice(Option<Rule>);

impl FromStr for Choice {
    type Err = InvalidNetwork;
    fn from_str(text: &str) -> std::result::Result<Self, InvalidNetwork> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|rule| Self(Some(rule))) }
    }
}

fn list(flag: &str, choices: Vec<Choice>) -> std::result::Result<Option<Vec<Rule>>, Failure> {
    if choices.is_empty() {
        return Ok(None);
    }
    let (count, rules) = (choices.len(), choices.into_iter().filter_map(|choice| choice.0).collect::<Vec<_>>());
    if rules.len() == count || count == 1 {
        return Ok(Some(rules));
    }
    Err(Failure::new(Code::Invalid, format!("{flag} none stands alone")))
}

/// Arguments for the network of a new VM.
#[derive(Debug, Default, Args)]
pub(super) struct NewNetworkArgs {
    #[command(flatten)]
    pub(super) nat: NatArgs,
    /// Allow a destination: HOST:PORT, ADDRESS/PREFIX or a domain (*.example.com: everything below it)
    #[arg(long, value_name = "DESTINATION")]
    pub(super) allow: Vec<Rule>,
    /// Deny a destination (but no VM of the same --network); wins over --allow; a domain is not resolved, its addresses
    /// stay reachable
    #[arg(long, value_name = "DESTINATION")]
    pub(super) deny: Vec<Rule>,
    /// Network to join: its VMs reach each other, by address and as NAME.vm [default: none]
    #[arg(long, value_name = "NAME")]
    pub(super) network: Option<NetworkName>,
    /// Publish a port of the VM on this host: [ADDRESS:]HOST:GUEST, on 127.0.0.1 by default; HOST 0 picks a free port
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
    /// [ADDRESS:]HOST:GUEST, on 127.0.0.1 by default; HOST 0 picks a free port
    #[arg(short, long, required = true, value_name = "HOST:GUEST")]
    publish: Vec<Publish>,
}

/// `banger vm unpublish`.
#[derive(Debug, Args)]
pub(crate) struct UnpublishArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(add = complete::vms())]
    vm: VmName,
    /// The port as it was published, or as `banger vm ports` shows it
    #[arg(short, long, required = true, value_name = "HOST:GUEST")]
    publish: Vec<Publish>,
}

/// Publishes ports, and prints all published ports of the VM.
pub(crate) async fn publish(context: &Context, args: PublishArgs) -> Result {
    change(context, &args.vm, SetVm { publish: args.publish, ..SetVm::default() }).await
}

/// Unpublishes ports.
pub(crate) async fn unpublish(context: &Context, args: UnpublishArgs) -> Result {
    change(context, &args.vm, SetVm { unpublish: args.publish, ..SetVm::default() }).await
}

async fn change(context: &Context, vm: &VmName, body: SetVm) -> Result {
    const INTERRUPTED: &str = "interrupted: it may be done already ('banger vm ports' tells)";
    let mut signals = Signals::install()?;
    let vm = signals
        .guard(INTERRUPTED, async {
            let path = format!("/v1/vms/{}", segment(vm.as_str()));
            context.daemon().await?.operate::<Vm>(Method::PATCH, &path, Some(&body)).await
        })
        .await?
        .settle(&context.printer, &mut signals, INTERRUPTED)
        .await?;
    context
        .printer
        .data(&vm.published, |published| published.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(Status::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_a_list_with_nothing_in_it_and_stands_alone() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Choice>>();
        assert_eq!(list("--allow", parse(&[])).unwrap(), None);
        assert_eq!(list("--allow", parse(&["none"])).unwrap(), Some(Vec::new()));
        assert_eq!(list("--allow", parse(&["none.example"])).unwrap().unwrap().len(), 1);
        let mixed = list("--deny", parse(&["none", "10.0.0.0/8"])).unwrap_err();
        assert!(mixed.to_string().contains("--deny none"), "{mixed}");
    }
}
