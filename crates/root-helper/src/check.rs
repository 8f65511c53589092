//! Checks requests before they are carried out, for everything their types do not rule out.

use banger_proto::{
    helper::{
        ALL_PREFIX, Attachment, MAX_HOST_ADDRESSES, MAX_LEARNED, MAX_RULES, MAX_TTL, NETWORK_SIZE, NETWORKS, Request,
        To,
    },
    network::{Cidr, PRIVATE},
};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A number or a list exceeds the contract.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// Networks may be cut from private addresses only.
    #[error("networks are cut from a /{ALL_PREFIX} of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10")]
    Block,
    /// A name cannot be denied by its addresses.
    #[error("a rule that denies has addresses")]
    LearnedDeny,
}

/// Checks a request.
pub fn check(request: &Request) -> Result<(), Refusal> {
    match request {
        Request::EnsureNetwork { block, network, host } => {
            below("the network", u32::from(*network), u32::from(NETWORKS))?;
            at_most("the host's addresses", host.len(), MAX_HOST_ADDRESSES)?;
            check_block(*block)
        }
        Request::AttachVm(attachment) => check_attachment(attachment),
        Request::LearnAddresses { rule, addresses, ttl, .. } => {
            at_most("the rule", usize::from(*rule), MAX_RULES - 1)?;
            at_most("the addresses", addresses.len(), MAX_LEARNED)?;
            below("the time", *ttl, MAX_TTL + 1)
        }
        Request::DetachVm { .. } | Request::Reconcile { .. } | Request::Status { .. } => Ok(()),
    }
}

fn check_block(block: Cidr) -> Result<(), Refusal> {
    let private = PRIVATE.iter().any(|private| private.contains(block.first()));
    if private && block.prefix() == ALL_PREFIX { Ok(()) } else { Err(Refusal::Block) }
}

fn check_attachment(attachment: &Attachment) -> Result<(), Refusal> {
    below("the network", attachment.network.into(), NETWORKS.into())?;
    if attachment.host < 2 {
        return Err(Refusal::Range("the address"));
    }
    below("the address", attachment.host.into(), NETWORK_SIZE - 1)?;
    let policy = &attachment.policy;
    at_most("the rules", policy.deny.len(), MAX_RULES)?;
    at_most("the rules", policy.allow.len(), MAX_RULES)?;
    if policy.deny.iter().any(|filter| filter.to == To::Learned) {
        return Err(Refusal::LearnedDeny);
    }
    if policy.deny.iter().chain(&policy.allow).any(|filter| filter.port == Some(0)) {
        return Err(Refusal::Range("the port"));
    }
    Ok(())
}

fn below(what: &'static str, number: u32, limit: u32) -> Result<(), Refusal> {
    if number < limit { Ok(()) } else { Err(Refusal::Range(what)) }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), Refusal> {
    if count <= limit { Ok(()) } else { Err(Refusal::Range(what)) }
}

#[cfg(test)]
mod tests;
