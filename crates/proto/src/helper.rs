//! Requests to `bangerd-root`: everything that can be asked of the code with a capability, in one file.
//!
//! Requests are frames of [`crate::framing`], at most [`MAX_REQUEST`] bytes, over a socket pair the daemon made or, in
//! system mode, over a socket whose peer the kernel identifies. One request at a time. No interface, table or chain
//! name and no rule text is sent: the helper derives them from ids and numbers, and checks those again.

use crate::{name::VmId, network::Cidr};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Largest request or answer, in bytes.
pub const MAX_REQUEST: usize = 64 << 10;
/// Most rules of one VM.
pub const MAX_RULES: usize = 64;
/// Most public addresses of the host.
pub const MAX_HOST_ADDRESSES: usize = 1024;
/// Most addresses learned from one DNS answer.
pub const MAX_LEARNED: usize = 32;
/// Longest time a DNS answer opens addresses, in seconds.
pub const MAX_TTL: u32 = 86_400;
/// Number of networks. On number 0 the VMs are isolated from each other.
pub const NETWORKS: u8 = 64;
/// Number of addresses of one network. Address 1 is the gateway's, the last is not used.
pub const NETWORK_SIZE: u32 = 1024;
/// Prefix length of a network of [`NETWORK_SIZE`] addresses.
pub const NETWORK_PREFIX: u8 = 22;
/// Prefix length of the block of all networks.
pub const ALL_PREFIX: u8 = 16;

/// Request to the helper. Each may be made at any time and repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Makes the tables and this network's bridge, and sets the host's own public addresses. Answered with
    /// [`Answer::Resolver`] and two descriptors: UDP and TCP sockets bound to port 53 of the first gateway.
    EnsureNetwork {
        /// Block all networks are cut from, with a prefix of [`ALL_PREFIX`]. In system mode it must be from the
        /// administrator's pool and overlap no address or route of others.
        block: Cidr,
        /// Number of the network, below [`NETWORKS`].
        network: u8,
        /// Public addresses of the host, at most [`MAX_HOST_ADDRESSES`].
        host: Vec<Ipv4Addr>,
    },
    /// Makes the VM's tap, or changes the policy of an existing one, in one transaction.
    AttachVm(Attachment),
    /// Removes everything that belongs to a VM.
    DetachVm {
        /// Id of the VM.
        vm: VmId,
    },
    /// Opens addresses a name resolved to, for the VM that asked and as long as the answer is valid. Private,
    /// link-local and the host's own addresses are left out.
    LearnAddresses {
        /// VM that asked.
        vm: VmId,
        /// Index of the `allow` rule in its policy; the rule must be [`To::Learned`].
        rule: u8,
        /// Addresses in the answer, at most [`MAX_LEARNED`].
        addresses: Vec<Ipv4Addr>,
        /// Time to live in seconds, at most [`MAX_TTL`].
        ttl: u32,
    },
    /// Removes everything that belongs to no VM in the list.
    Reconcile {
        /// VMs whose taps and rules stay.
        vms: Vec<VmId>,
    },
    /// Reports what exists and what was denied.
    Status {
        /// VM whose denials are reported; `None` reports the latest of all VMs.
        of: Option<VmId>,
    },
}

/// A VM's attachment to its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Id of the VM.
    pub vm: VmId,
    /// Number of its network.
    pub network: u8,
    /// Host number of its address within the network: 2 to [`NETWORK_SIZE`] - 2.
    pub host: u16,
    /// Its egress policy.
    pub policy: Policy,
}

/// Egress policy. `deny` wins over `allow`, and both over `base`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Destinations open without a rule.
    pub base: Base,
    /// Closed destinations: at most [`MAX_RULES`], none of them [`To::Learned`].
    pub deny: Vec<Filter>,
    /// Open destinations: at most [`MAX_RULES`].
    pub allow: Vec<Filter>,
}

/// Destinations open without a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// The public internet: no private or link-local address, and none of the host's.
    Internet,
    /// None.
    Nothing,
}

/// Egress rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Destination.
    pub to: To,
    /// TCP and UDP port; `None` is every port and every protocol.
    pub port: Option<u16>,
}

/// Destination of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// These addresses, including the host's own if they are among them.
    Block(Cidr),
    /// The addresses of [`Request::LearnAddresses`].
    Learned,
}

/// Answer of the helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The request was carried out.
    Done,
    /// The network exists; two descriptors are attached.
    Resolver,
    /// Answer of [`Request::Status`].
    Status(Status),
    /// The request failed. [`Request::DetachVm`] and [`Request::Reconcile`] may have done a part, others nothing.
    Failed {
        /// Reason of the failure.
        reason: String,
    },
}

/// Answer of [`Request::Status`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// VMs that have a tap.
    pub vms: Vec<VmId>,
    /// Layers that confine the helper.
    pub confinement: Vec<String>,
    /// Packets denied to each source since it was attached.
    pub denied: Vec<(Ipv4Addr, u64)>,
    /// Recent denials by source and destination, the latest first.
    pub denials: Vec<Denial>,
}

/// Denied packets of one source to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Source address.
    pub from: Ipv4Addr,
    /// Destination address.
    pub to: Ipv4Addr,
    /// Number of the protocol (6 is TCP, 17 UDP).
    pub protocol: u8,
    /// Destination port; 0 for protocols without ports.
    pub port: u16,
    /// Number of packets.
    pub packets: u64,
    /// Seconds since the last packet.
    pub age: u32,
}
