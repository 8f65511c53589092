//! Everything `bangerd-root` can be asked: the whole of what runs with a capability, in one file.
//!
//! Frames of [`crate::framing`], at most [`MAX_REQUEST`] bytes, over a socket pair the daemon made, or in system mode over
//! a socket whose peer the kernel names. One request at a time. No name of an interface, table or chain and no text of a
//! rule crosses: the helper derives them from ids and numbers, and checks all of it again.

use crate::{name::VmId, network::Cidr};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Largest request or answer, in bytes.
pub const MAX_REQUEST: usize = 64 << 10;
/// Most rules of one VM.
pub const MAX_RULES: usize = 64;
/// Most public addresses of the host.
pub const MAX_HOST_ADDRESSES: usize = 1024;
/// Most addresses of one answer that are learnt.
pub const MAX_LEARNED: usize = 32;
/// Longest time an answer is believed, in seconds.
pub const MAX_TTL: u32 = 86_400;
/// How many networks there are; number 0 is the one whose VMs do not see each other.
pub const NETWORKS: u8 = 64;
/// Addresses of one network. The first is the gateway's number 1, the last is not used.
pub const NETWORK_SIZE: u32 = 1024;
/// The prefix of a network: [`NETWORK_SIZE`] addresses.
pub const NETWORK_PREFIX: u8 = 22;
/// The prefix of all networks together.
pub const ALL_PREFIX: u8 = 16;

/// A request. Each may be made at any time, and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Makes the tables and this network's bridge, and says which public addresses are the host's own. Answered with
    /// [`Answer::Resolver`], two descriptors beside it: UDP and TCP sockets bound to port 53 of the first gateway.
    EnsureNetwork {
        /// The block all networks are cut from; a prefix of [`ALL_PREFIX`]. In system mode one of the administrator's, and
        /// with nobody else's address or route in it.
        block: Cidr,
        /// Below [`NETWORKS`].
        network: u8,
        /// At most [`MAX_HOST_ADDRESSES`].
        host: Vec<Ipv4Addr>,
    },
    /// Makes the VM's tap, or changes the policy of one that is there, in one transaction.
    AttachVm(Attachment),
    /// Removes everything of the VM.
    DetachVm {
        /// The VM.
        vm: VmId,
    },
    /// Opens addresses that a name resolved to, for the VM that asked and as long as the answer is valid. Private
    /// addresses, link-local ones and the host's are left out.
    LearnAddresses {
        /// The VM that asked.
        vm: VmId,
        /// Which of its policy's `allow` rules; one that is [`To::Learned`].
        rule: u8,
        /// At most [`MAX_LEARNED`].
        addresses: Vec<Ipv4Addr>,
        /// Seconds, at most [`MAX_TTL`].
        ttl: u32,
    },
    /// Removes what belongs to no VM of this list.
    Reconcile {
        /// The VMs that may have something.
        vms: Vec<VmId>,
    },
    /// What is there, and what was denied.
    Status {
        /// The one VM whose denials are told; `None`: the latest of all.
        of: Option<VmId>,
    },
}

/// A VM on its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The VM.
    pub vm: VmId,
    /// Its network.
    pub network: u8,
    /// Its address, counted from the network's first: 2 to [`NETWORK_SIZE`] - 2.
    pub host: u16,
    /// Where it may send.
    pub policy: Policy,
}

/// Where a VM may send. `deny` wins over `allow`, and both over `base`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What no rule speaks of.
    pub base: Base,
    /// Closed. At most [`MAX_RULES`]; none of them [`To::Learned`].
    pub deny: Vec<Filter>,
    /// Open. At most [`MAX_RULES`].
    pub allow: Vec<Filter>,
}

/// What no rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// The public internet: no private or link-local address, and none of the host's.
    Internet,
    /// Nothing.
    Nothing,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Where.
    pub to: To,
    /// TCP and UDP port; `None` is every port and every protocol.
    pub port: Option<u16>,
}

/// Where a rule applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// These addresses, the host's own among them if they are in it.
    Block(Cidr),
    /// What [`Request::LearnAddresses`] says.
    Learned,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// The network is there; two descriptors come along.
    Resolver,
    /// What is there.
    Status(Status),
    /// It is not done. Of [`Request::DetachVm`] and [`Request::Reconcile`] a part may be, of the others nothing is.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// VMs that have a tap.
    pub vms: Vec<VmId>,
    /// What confines the helper.
    pub confinement: Vec<String>,
    /// Packets denied to each source since it was attached.
    pub denied: Vec<(Ipv4Addr, u64)>,
    /// What was denied lately, by source and destination; the latest first.
    pub denials: Vec<Denial>,
}

/// Packets that went nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Who sent them.
    pub from: Ipv4Addr,
    /// Where they should have gone.
    pub to: Ipv4Addr,
    /// The protocol's number (6 is TCP, 17 UDP).
    pub protocol: u8,
    /// The port, where the protocol has such.
    pub port: u16,
    /// How many.
    pub packets: u64,
    /// Seconds since the last one.
    pub age: u32,
}
