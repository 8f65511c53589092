//! Ports of a VM, and destinations it may reach.

use crate::{agent::http::Port, network::Rule};
use serde::{Deserialize, Serialize};

/// One port of a VM; an element of the answer of `GET /v1/vms/{ref}/ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmPort {
    /// The listening socket in the guest; for a published port nobody listens on, the port with an empty address.
    #[serde(flatten)]
    pub guest: Port,
    /// Addresses on the host it is published at (`127.0.0.1:8080`).
    #[serde(default)]
    pub published: Vec<String>,
    /// Whether a process in the guest listens.
    #[serde(default)]
    pub listening: bool,
}

/// Answer of `GET /v1/vms/{ref}/egress`: what a VM may reach, and which packets were denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Egress {
    /// Whether the public internet is open.
    pub nat: bool,
    /// Open destinations, the configuration's first.
    pub allow: Vec<Rule>,
    /// Closed destinations, the configuration's first.
    pub deny: Vec<Rule>,
    /// Packets denied since it was started.
    pub denied_packets: u64,
    /// Latest denials.
    pub denials: Vec<Denied>,
}

/// Denied packets of a VM to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Denied {
    /// Destination address.
    pub to: String,
    /// Name it was resolved from, if the VM asked for one.
    #[serde(default)]
    pub name: Option<String>,
    /// `tcp`, `udp`, `icmp`, or the protocol's number.
    pub protocol: String,
    /// Destination port, for protocols that have ports.
    #[serde(default)]
    pub port: Option<u16>,
    /// Number of packets.
    pub packets: u64,
    /// Seconds since the last of them.
    pub seconds_ago: u32,
}
