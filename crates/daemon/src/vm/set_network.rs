//! What of a VM's network can change while it runs: its policy, at once and as a whole, and its published ports.

use super::owner::{Owner, places};
use crate::{
    capability::ports,
    failpoint,
    network::{Egress, Settings},
    shim::client::Shim,
    store::{NetworkSpec, ResourceKind, Store, VmRow},
};
use banger_proto::{
    api::vm::SetVm,
    failure::{Code, Failure},
    network::Publish,
};

/// Most ports one VM publishes.
const MAX_PORTS: usize = 256;

/// Whether a VM may be like this on the network.
pub(super) fn check(network: &NetworkSpec, settings: &Settings) -> Result<(), Failure> {
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

/// Whether a request is about the network at all.
pub(super) fn is_meant(wanted: &SetVm) -> bool {
    let SetVm { nat, allow, deny, publish, unpublish, .. } = wanted;
    nat.is_some() || allow.is_some() || deny.is_some() || !publish.is_empty() || !unpublish.is_empty()
}

/// Carries out the network's part of a request. Of one that is refused nothing is kept.
pub(super) async fn set(owner: &mut Owner, wanted: &SetVm) -> Result<(), Failure> {
    let before = owner.row.spec.network.clone();
    let mut after = before.clone();
    after.nat = wanted.nat.unwrap_or(after.nat);
    after.allow = wanted.allow.clone().unwrap_or(after.allow);
    after.deny = wanted.deny.clone().unwrap_or(after.deny);
    let mut closing = Vec::new();
    for publish in &wanted.unpublish {
        closing.push(take_back(owner, &mut after.publish, *publish)?);
    }
    let opening: Vec<Publish> = wanted.publish.iter().filter(|new| !after.publish.contains(new)).copied().collect();
    after.publish.extend(&opening);
    check(&after, &owner.parts.config.network())?;

    owner.row.spec.network = after;
    let done = apply(owner, &before, &opening, &closing).await;
    if done.is_err() {
        owner.row.spec.network = before;
        owner.save_or_log().await;
        // The policy that failed to change is the one that was there, or becomes it again.
        let _ = owner.parts.network.repolicy(&owner.row).await;
    }
    done
}

/// Finds a published port by what was asked for or by where it is now, and takes it out of the list.
fn take_back(owner: &Owner, publish: &mut Vec<Publish>, wanted: Publish) -> Result<Publish, Failure> {
    let open = owner.shim.as_ref().map(|shim| shim.status().published).unwrap_or_default();
    let asked = open.iter().find(|open| open.at == wanted).map_or(wanted, |open| open.asked);
    let place = publish.iter().position(|publish| *publish == asked);
    let place = place.ok_or_else(|| Failure::new(Code::NotFound, format!("{wanted} is not published")))?;
    Ok(publish.remove(place))
}

async fn apply(
    owner: &mut Owner,
    before: &NetworkSpec,
    opening: &[Publish],
    closing: &[Publish],
) -> Result<(), Failure> {
    let shim = owner.shim.clone().filter(|_| owner.row.state.is_live());
    // Written down first.
    owner.save().await?;
    failpoint::hit("set.recorded").await;
    let now = &owner.row.spec.network;
    if (now.nat, &now.allow, &now.deny) != (before.nat, &before.allow, &before.deny) {
        owner.parts.network.repolicy(&owner.row).await?;
    }
    let Some(shim) = shim else { return Ok(()) };
    let result = change_ports(owner, &shim, opening, closing).await;
    failpoint::hit("set.changed").await;
    owner.row.run.published = places(&shim.status().published);
    owner.save_or_log().await;
    result
}

/// Makes a machine that was adopted publish what is written down: a daemon may have died between the two.
pub(super) async fn agree(store: &Store, row: &VmRow, shim: &Shim) -> Result<(), Failure> {
    let (id, wanted) = (&row.id, &row.spec.network.publish);
    let open: Vec<Publish> = shim.status().published.iter().map(|open| open.asked).collect();
    for publish in open.iter().filter(|open| !wanted.contains(open)) {
        shim.unpublish(*publish).await?;
    }
    for claim in store.resources(id).await? {
        let is_wanted = wanted.iter().any(|publish| publish.host.to_string() == claim.value);
        if claim.kind == ResourceKind::Port && !is_wanted {
            store.unclaim(id, ResourceKind::Port, &claim.value).await?;
        }
    }
    for publish in wanted.iter().filter(|wanted| !open.contains(wanted)) {
        ports::claim(store, id, publish).await?;
        shim.publish(*publish).await?;
    }
    Ok(())
}

async fn change_ports(owner: &Owner, shim: &Shim, opening: &[Publish], closing: &[Publish]) -> Result<(), Failure> {
    let (id, store) = (&owner.row.id, &owner.parts.store);
    let mut opened = Vec::new();
    for publish in opening {
        let result = match ports::claim(store, id, publish).await {
            Ok(()) => shim.publish(*publish).await.map_err(Failure::from),
            refused => refused,
        };
        opened.push(*publish);
        if let Err(failure) = result {
            for publish in opened {
                let _ = shim.unpublish(publish).await;
                store.unclaim(id, ResourceKind::Port, &publish.host.to_string()).await?;
            }
            return Err(failure);
        }
    }
    for publish in closing {
        shim.unpublish(*publish).await?;
        store.unclaim(id, ResourceKind::Port, &publish.host.to_string()).await?;
    }
    Ok(())
}
