//! Whether a request may be carried out, before anything is. What types cannot say is said here, again.

use banger_proto::{
    helper::{
        ALL_PREFIX, Attachment, MAX_HOST_ADDRESSES, MAX_LEARNED, MAX_RULES, MAX_TTL, NETWORK_SIZE, NETWORKS, Request,
        To,
    },
    network::Cidr,
};
use std::net::Ipv4Addr;

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A number or a list is larger than the contract says.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// Networks are cut from private addresses only.
    #[error("networks are cut from a /{ALL_PREFIX} of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10")]
    Block,
    /// A name cannot be denied by its addresses.
    #[error("a rule that denies has addresses")]
    LearnedDeny,
}

/// Blocks that a guest reaches only where a rule opens them: private, link-local, shared, test, multicast, reserved.
pub const CLOSED: [Cidr; 14] = [
    block(0, 0, 8),
    block(10, 0, 8),
    block(100, 64, 10),
    block(127, 0, 8),
    block(169, 254, 16),
    block(172, 16, 12),
    exact(192, 0, 0, 24),
    exact(192, 0, 2, 24),
    exact(192, 88, 99, 24),
    block(192, 168, 16),
    block(198, 18, 15),
    exact(198, 51, 100, 24),
    exact(203, 0, 113, 24),
    block(224, 0, 3),
];

const fn block(a: u8, b: u8, prefix: u8) -> Cidr {
    exact(a, b, 0, prefix)
}

const fn exact(a: u8, b: u8, c: u8, prefix: u8) -> Cidr {
    match Cidr::new(Ipv4Addr::new(a, b, c, 0), prefix) {
        Some(block) => block,
        None => panic!("a block begins where it begins"),
    }
}

/// Whether an address is one of the public internet's.
pub fn is_public(address: Ipv4Addr) -> bool {
    !CLOSED.iter().any(|block| block.contains(address))
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
    const PRIVATE: [Cidr; 4] = [CLOSED[1], CLOSED[2], CLOSED[5], CLOSED[9]];
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
