//! State read from the kernel: attached VMs and denials.

use crate::{
    names::{self, Owner},
    rules::DENIALS_KEPT,
};
use banger_netlink::{Socket, nft::Element};
use banger_proto::{helper::Denial, name::VmId};
use std::{io, net::Ipv4Addr, time::Duration};

/// Most denials reported at once, the latest ones.
const MAX_DENIALS: usize = 256;
/// VM attached to the network, as its element in the rules says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedVm {
    /// Id of the VM.
    pub vm: VmId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Chain that decides about its packets.
    pub chain: String,
    /// Fingerprint of its own rules, if it has some.
    pub fingerprint: Option<u64>,
}

/// Lists all attached VMs.
pub(crate) fn attached(rules: &mut Socket, owner: Owner) -> io::Result<Vec<AttachedVm>> {
    Ok(owner.set(names::VMS).list(rules)?.into_iter().filter_map(|element| attached_vm(owner, element)).collect())
}

/// Returns the VM attached at an address.
pub(crate) fn attached_at(rules: &mut Socket, owner: Owner, address: Ipv4Addr) -> io::Result<Option<AttachedVm>> {
    let element = owner.set(names::VMS).get(rules, address.octets().to_vec())?;
    Ok(element.and_then(|element| attached_vm(owner, element)))
}

fn attached_vm(owner: Owner, element: Element) -> Option<AttachedVm> {
    let comment = element.comment?;
    let (alias, fingerprint) = comment.split_once(" rules ").map_or((&*comment, None), |(alias, it)| (alias, Some(it)));
    Some(AttachedVm {
        vm: owner.vm_of(alias)?,
        address: address(&element.key, 0)?,
        chain: element.goto?,
        fingerprint: fingerprint.and_then(|text| u64::from_str_radix(text, 16).ok()),
    })
}

/// Number of packets denied to each source.
pub(crate) fn denied(rules: &mut Socket, owner: Owner) -> io::Result<Vec<(Ipv4Addr, u64)>> {
    let elements = owner.set(names::DENIED_BY).list(rules)?;
    Ok(elements.iter().filter_map(|element| Some((address(&element.key, 0)?, element.packets))).collect())
}

/// Denials of one source or of all, the latest first.
pub(crate) fn denials(rules: &mut Socket, owner: Owner, to: Option<Ipv4Addr>) -> io::Result<Vec<Denial>> {
    let mut elements = Vec::new();
    for set in names::DENIALS {
        elements.extend(owner.set(set).list(rules)?);
    }
    let denials = elements.iter().filter_map(denial).filter(|denial| to.is_none_or(|to| to == denial.from));
    let mut denials: Vec<Denial> = denials.collect();
    denials.sort_by_key(|denial| denial.age);
    denials.truncate(MAX_DENIALS);
    Ok(denials)
}

fn denial(element: &Element) -> Option<Denial> {
    let key = &element.key;
    // An element with the set's default timeout does not carry one.
    let timeout = element.timeout.unwrap_or(Duration::from_secs(DENIALS_KEPT.into()));
    let age = timeout.saturating_sub(element.left.unwrap_or(timeout)).as_secs();
    Some(Denial {
        from: address(key, 0)?,
        to: address(key, 4)?,
        protocol: *key.get(8)?,
        port: key.get(12..14).map_or(0, |port| u16::from_be_bytes([port[0], port[1]])),
        packets: element.packets,
        age: u32::try_from(age).unwrap_or(u32::MAX),
    })
}

fn address(key: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(key.get(at..at + 4)?).ok()?.into())
}

/// Forgets the denials of an address that is free again, so that the next VM there begins with none.
pub(crate) fn forget(rules: &mut Socket, owner: Owner, of: Ipv4Addr) -> io::Result<()> {
    if owner.set(names::DENIED_BY).get(rules, of.octets().to_vec())?.is_none() {
        return Ok(());
    }
    let [denials, other] = names::DENIALS;
    // The last set is the one that says there is something to forget.
    for set in [denials, other, names::DENIAL_RATE, names::DENIED_BY] {
        owner.set(set).remove_where(rules, |key| address(key, 0) == Some(of))?;
    }
    Ok(())
}
