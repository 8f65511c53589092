//! A VM's ports and what it may reach.

use crate::{agent::http::Port, network::Rule};
use serde::{Deserialize, Serialize};

/// One port of a VM; an element of the answer of `GET /v1/vms/{ref}/ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmPort {
    /// What listens in the guest; for a published port nobody listens on, the port with no address.
    #[serde(flatten)]
    pub guest: Port,
    /// Where it is published on the host (`127.0.0.1:8080`).
    #[serde(default)]
    pub published: Vec<String>,
    /// Whether somebody listens in the guest.
    #[serde(default)]
    pub listening: bool,
}

/// Answer of `GET /v1/vms/{ref}/egress`: what a VM may reach, and what it tried in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Egress {
    /// Whether the public internet is open.
    pub nat: bool,
    /// Destinations opened, the configuration's first.
    pub allow: Vec<Rule>,
    /// Destinations closed, the configuration's first.
    pub deny: Vec<Rule>,
    /// Packets denied since it was started.
    pub denied_packets: u64,
    /// The latest denials.
    pub denials: Vec<Denied>,
}

/// Packets of a VM that went nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Denied {
    /// The address.
    pub to: String,
    /// The name it was resolved from, when the VM asked for one.
    #[serde(default)]
    pub name: Option<String>,
    /// `tcp`, `udp`, `icmp`, or the protocol's number.
    pub protocol: String,
    /// The port, where the protocol has such.
    #[serde(default)]
    pub port: Option<u16>,
    /// How many.
    pub packets: u64,
    /// Seconds since the last one.
    pub seconds_ago: u32,
}
