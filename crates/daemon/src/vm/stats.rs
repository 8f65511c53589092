//! Statistics of a VM: its VMM's process, its disk, and what the guest reports itself.

use super::{Agent, VmService, view};
use crate::store::VmRow;
use banger_machine::{clock, process::ProcessIdentity};
use banger_proto::{
    agent::http::Port,
    api::vm::{Denied, Egress, GuestEndpoint, VmPort, VmState, VmStats},
    failure::{Code, Failure},
    helper::Denial,
    network::{Publish, Rule},
};

impl VmService {
    /// Returns the VM's resource usage. The guest's part may be missing.
    pub(crate) async fn stats(&self, reference: &str) -> Result<VmStats, Failure> {
        let row = self.find(reference).await?;
        let usage = row.run.vmm_process.as_ref().and_then(ProcessIdentity::usage);
        let (vmm_cpu_ms, vmm_rss) = usage.map_or((0, 0), |usage| (usage.cpu_ms, usage.resident));
        let disk_used = view::disk_used(&self.parts, &row.id).unwrap_or_default();
        let guest = match self.agent_of(&row) {
            Ok(agent) => agent.stats().await,
            Err(failure) => Err(failure),
        };
        let (guest, guest_failure) = match guest {
            Ok(stats) => (Some(stats), None),
            Err(failure) => (None, Some(failure)),
        };
        Ok(VmStats { vmm_cpu_ms, vmm_rss, disk_used, guest, guest_failure })
    }

    /// Returns the listening sockets in the guest with their published addresses, and published ports nobody listens
    /// on.
    pub(crate) async fn ports(&self, reference: &str) -> Result<Vec<VmPort>, Failure> {
        let row = self.find(reference).await?;
        let listening = self.agent_of(&row)?.ports().await?;
        Ok(endpoints(listening, &row.run.published))
    }

    /// Returns what a VM may reach, and the packets that were denied.
    pub(crate) async fn egress(&self, reference: &str) -> Result<Egress, Failure> {
        let row = self.find(reference).await?;
        let network = &self.parts.network;
        let denials = network.denials(&row.id).await?;
        let (ours, theirs) = (network.settings(), row.spec.network);
        let both = |ours: &[Rule], theirs: Vec<Rule>| ours.iter().cloned().chain(theirs).collect();
        let denied = |(denial, name): (Denial, Option<String>)| Denied {
            to: denial.to.to_string(),
            name,
            protocol: protocol(denial.protocol),
            port: Some(denial.port).filter(|port| *port != 0),
            packets: denial.packets,
            seconds_ago: denial.age,
        };
        Ok(Egress {
            nat: theirs.nat,
            allow: both(&ours.allow, theirs.allow),
            deny: both(&ours.deny, theirs.deny),
            denied_packets: denials.packets,
            denials: denials.latest.into_iter().map(denied).collect(),
        })
    }

    /// Returns where the VM's agent can be dialled, once it answers. Counts as a use of the VM unless `look` is set.
    pub(crate) async fn guest(&self, reference: &str, look: bool) -> Result<GuestEndpoint, Failure> {
        let row = self.find(reference).await?;
        let socket = self.agent_of(&row)?.socket();
        if !look {
            // A client that connects does not wait until its use is recorded.
            let (store, id, at) = (self.parts.store.clone(), row.id.clone(), clock::now());
            tokio::spawn(async move {
                if let Err(error) = store.used_vm(&id, at).await {
                    tracing::warn!(vm = %id, %error, "cannot record that a VM was used");
                }
            });
        }
        let agent_api_version = row.run.agent_api.unwrap_or_default();
        Ok(GuestEndpoint {
            id: row.id,
            name: row.name,
            socket,
            agent_api_version,
            workspace: row.workspace,
            workdir: row.spec.workdir,
            user: row.spec.user,
        })
    }

    /// Returns the CPU time of the VMM in milliseconds, if it has a process.
    pub(super) fn cpu_ms(row: &VmRow) -> Option<u64> {
        row.run.vmm_process.as_ref().and_then(ProcessIdentity::usage).map(|usage| usage.cpu_ms)
    }

    /// Returns the resident bytes of the VMM, if it has a process.
    pub(super) fn resident(row: &VmRow) -> Option<u64> {
        row.run.vmm_process.as_ref().and_then(ProcessIdentity::usage).map(|usage| usage.resident)
    }

    pub(super) fn agent_of(&self, row: &VmRow) -> Result<Agent, Failure> {
        let name = &row.name;
        let conflict = |text: &str| Failure::new(Code::Conflict, format!("VM {name} {text}"));
        match row.state {
            VmState::Running if row.run.agent_api.is_some() => Ok(Agent::of(&self.parts.layout, &row.id)),
            VmState::Running | VmState::Starting => {
                Err(conflict("is booting: its agent does not answer yet").hint(format!("banger vm logs -f {name}")))
            }
            VmState::Stopping => Err(conflict("is being stopped")),
            VmState::Failed => Err(conflict("has failed")
                .cause(row.reason.clone().unwrap_or_else(|| "no reason is known".to_owned()))
                .hint(format!("banger vm start {name}"))
                .hint(format!("banger vm logs {name}"))),
            VmState::Created | VmState::Stopped => {
                Err(conflict("is not running").hint(format!("banger vm start {name}")))
            }
        }
    }
}

fn endpoints(listening: Vec<Port>, published: &[Publish]) -> Vec<VmPort> {
    let places = |port: u16| {
        published.iter().filter(move |publish| publish.guest == port).map(|publish| publish.host.to_string())
    };
    let is_tcp = |port: &Port| port.protocol == "tcp";
    let silent =
        published.iter().filter(|publish| !listening.iter().any(|port| is_tcp(port) && port.port == publish.guest));
    let silent: std::collections::BTreeSet<u16> = silent.map(|publish| publish.guest).collect();
    let silent = silent.into_iter().map(|port| VmPort {
        guest: Port { protocol: "tcp".to_owned(), address: String::new(), port, pid: None, process: None },
        published: places(port).collect(),
        listening: false,
    });
    let silent: Vec<VmPort> = silent.collect();
    let listening = listening.into_iter().map(|guest| {
        let published = if is_tcp(&guest) { places(guest.port).collect() } else { Vec::new() };
        VmPort { guest, published, listening: true }
    });
    listening.chain(silent).collect()
}

/// Returns the common name of an IP protocol number.
fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}
