//! Changes of a VM's network while it runs: its policy, which changes at once and as a whole, and its published ports.

use crate::vm::owner::{Owner, published_at};
use crate::{
    capability::ports,
    failures::Explain,
    network::{Egress, Settings},
    store::{NetworkSpec, ResourceKind, Store, VmRow},
};
use banger_machine::{failpoint, shim::client::Shim};
use banger_proto::{
    api::vm::SetVm,
    failure::{Code, Failure},
    network::Publish,
};

/// Largest number of ports that one VM publishes.
const MAX_PORTS: usize = 256;

/// Refuses a network that no VM may have.
pub(crate) fn check(network: &NetworkSpec, settings: &Settings) -> Result<(), Failure> {
    let invalid = |text: String| Failure::new(Code::Invalid, text);
    Egress::of(network, settings).check().map_err(invalid)?;
    if network.publish.len() > MAX_PORTS {
        return Err(invalid(format!("a VM publishes at most {MAX_PORTS} ports")));
    }
    for (index, publish) in network.publish.iter().enumerate() {
        if publish.host.port() != 0 && network.publish[..index].iter().any(|other| other.host == publish.host) {
            return Err(invalid(format!("port {} is to be published twice", publish.host)));
        }
    }
    Ok(())
}

/// Change of a VM's network by one request.
pub(super) struct Change {
    before: NetworkSpec,
    pub(super) after: NetworkSpec,
    opening: Vec<Publish>,
    closing: Vec<Publish>,
    /// Whether the request is about the network at all.
    is_requested: bool,
}

impl Change {
    /// Computes and checks the change; applies nothing.
    pub(super) fn of(owner: &Owner, wanted: &SetVm) -> Result<Self, Failure> {
        let before = owner.row.spec.network.clone();
        let SetVm { nat, allow, deny, publish, unpublish, vcpu: _, memory: _, disk_size: _, overcommit: _ } = wanted;
        let is_requested =
            nat.is_some() || allow.is_some() || deny.is_some() || !publish.is_empty() || !unpublish.is_empty();
        let mut after = before.clone();
        after.nat = nat.unwrap_or(after.nat);
        after.allow = allow.clone().unwrap_or(after.allow);
        after.deny = deny.clone().unwrap_or(after.deny);
        let mut closing = Vec::new();
        for publish in unpublish {
            closing.push(take_back(owner, &mut after.publish, *publish)?);
        }
        let opening: Vec<Publish> = publish.iter().filter(|new| !after.publish.contains(new)).copied().collect();
        after.publish.extend(&opening);
        if is_requested {
            check(&after, &owner.parts.config.network())?;
        }
        Ok(Self { before, after, opening, closing, is_requested })
    }

    /// Applies the recorded change to a running machine.
    pub(super) async fn take_effect(&self, owner: &mut Owner) -> Result<(), Failure> {
        if !self.is_requested {
            return Ok(());
        }
        let shim = owner.shim.clone().filter(|_| owner.row.state.is_live());
        failpoint::hit("set.recorded").await;
        let (now, before) = (&self.after, &self.before);
        if (now.nat, &now.allow, &now.deny) != (before.nat, &before.allow, &before.deny) {
            owner.parts.network.update_policy(&owner.row).await?;
            failpoint::hit("set.told").await;
        }
        let Some(shim) = shim else { return Ok(()) };
        let result = change_ports(owner, &shim, &self.opening, &self.closing).await;
        failpoint::hit("set.changed").await;
        owner.row.run.published = published_at(&shim.status().published);
        owner.save_or_log().await;
        result
    }

    /// Changes the machine back to what the row says again. Returns `false` where the new policy stays in force; then
    /// the row says that.
    pub(super) async fn undo(&self, owner: &mut Owner) -> bool {
        if !self.is_requested {
            return true;
        }
        let mut is_back = true;
        // The policy that failed to change is still the old one, or becomes it again.
        if let Err(failure) = owner.parts.network.update_policy(&owner.row).await {
            tracing::error!(vm = %owner.row.name, %failure, "its policy cannot be as it was");
            let mut changed = owner.row.clone();
            let publish = changed.spec.network.publish.clone();
            changed.spec.network = NetworkSpec { publish, ..self.after.clone() };
            if owner.parts.network.is_under_policy(&changed) {
                // The new policy is in force.
                owner.row = changed;
                owner.save_or_log().await;
                is_back = false;
            }
        }
        if let Some(shim) = owner.shim.clone().filter(|_| owner.row.state.is_live()) {
            if let Err(failure) = sync_ports(&owner.parts.store, &owner.row, &shim).await {
                tracing::error!(vm = %owner.row.name, %failure, "a port cannot be as it was");
            }
            owner.row.run.published = published_at(&shim.status().published);
            owner.save_or_log().await;
        }
        is_back
    }
}

/// Removes a port from the list and returns it as it was requested. `wanted` is either the request or the actual
/// address.
fn take_back(owner: &Owner, publish: &mut Vec<Publish>, wanted: Publish) -> Result<Publish, Failure> {
    let open = owner.shim.as_ref().map(|shim| shim.status().published).unwrap_or_default();
    let asked = open.iter().find(|open| open.at == wanted).map_or(wanted, |open| open.asked);
    let place = publish.iter().position(|publish| *publish == asked);
    let place = place.ok_or_else(|| Failure::new(Code::NotFound, format!("{wanted} is not published")))?;
    Ok(publish.remove(place))
}

/// Makes an adopted machine publish the recorded ports: an earlier daemon may have died between recording and changing
/// them.
pub(crate) async fn sync_ports(store: &Store, row: &VmRow, shim: &Shim) -> Result<(), Failure> {
    let (id, wanted) = (&row.id, &row.spec.network.publish);
    let open: Vec<Publish> = shim.status().published.iter().map(|open| open.asked).collect();
    for publish in open.iter().filter(|open| !wanted.contains(open)) {
        shim.unpublish(*publish).await.map_err(Explain::explain)?;
        failpoint::hit("agree.closed").await;
    }
    for claim in store.resources(id).await? {
        let is_wanted = wanted.iter().any(|publish| publish.host.to_string() == claim.value);
        if claim.kind == ResourceKind::Port && !is_wanted {
            store.unclaim(id, ResourceKind::Port, &claim.value).await?;
            failpoint::hit("agree.unclaimed").await;
        }
    }
    for publish in wanted.iter().filter(|wanted| !open.contains(wanted)) {
        ports::claim(store, id, publish).await?;
        failpoint::hit("agree.claimed").await;
        shim.publish(*publish).await.map_err(Explain::explain)?;
        failpoint::hit("agree.opened").await;
    }
    Ok(())
}

/// Opens and closes ports. Ports that do not conflict with a port to be closed are opened first, so that a refusal
/// leaves everything as it was. If a later one is refused, [`Change::undo`] reopens what was closed.
async fn change_ports(owner: &Owner, shim: &Shim, opening: &[Publish], closing: &[Publish]) -> Result<(), Failure> {
    let open = shim.status().published;
    let port = |old: &Publish| open.iter().find(|open| open.asked == *old).map_or(old.host, |open| open.at.host).port();
    // A request that closes and opens "any free port" wants another port, but the shim keeps an open port as it is.
    let is_in_the_way = |old: &Publish, new: &Publish| old == new || port(old) == new.host.port();
    let (then, first): (Vec<Publish>, Vec<Publish>) =
        opening.iter().copied().partition(|new| closing.iter().any(|old| is_in_the_way(old, new)));
    let (before, after): (Vec<Publish>, Vec<Publish>) =
        closing.iter().copied().partition(|old| opening.iter().any(|new| is_in_the_way(old, new)));
    let mut opened = Vec::new();
    let exchanged = async {
        open_ports(owner, shim, &first, &mut opened).await?;
        close_ports(owner, shim, &before).await?;
        open_ports(owner, shim, &then, &mut opened).await
    };
    if let Err(failure) = exchanged.await {
        for publish in &opened {
            let _ = shim.unpublish(*publish).await;
            owner.parts.store.unclaim(&owner.row.id, ResourceKind::Port, &publish.host.to_string()).await?;
        }
        return Err(failure);
    }
    close_ports(owner, shim, &after).await
}

/// Opens the ports in order. Adds each to `opened` before it is tried.
async fn open_ports(owner: &Owner, shim: &Shim, ports: &[Publish], opened: &mut Vec<Publish>) -> Result<(), Failure> {
    for publish in ports {
        opened.push(*publish);
        ports::claim(&owner.parts.store, &owner.row.id, publish).await?;
        failpoint::hit("set.claimed").await;
        shim.publish(*publish).await.map_err(Explain::explain)?;
        failpoint::hit("set.opened").await;
    }
    Ok(())
}

async fn close_ports(owner: &Owner, shim: &Shim, ports: &[Publish]) -> Result<(), Failure> {
    for publish in ports {
        shim.unpublish(*publish).await.map_err(Explain::explain)?;
        failpoint::hit("set.closed").await;
        owner.parts.store.unclaim(&owner.row.id, ResourceKind::Port, &publish.host.to_string()).await?;
        failpoint::hit("set.unclaimed").await;
    }
    Ok(())
}
