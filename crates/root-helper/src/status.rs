//! What the kernel remembers: who stands where, and what was denied.

use crate::{apply::Nft, names::Owner, rules::DENIALS_KEPT};
use banger_proto::{helper::Denial, name::VmId};
use serde_json::Value;
use std::{collections::HashMap, io, net::Ipv4Addr};

/// Denials that are told at once: the latest.
const MAX_TOLD: usize = 256;

/// Every VM that has a place in the rules.
pub(crate) fn placed(nft: &Nft, owner: Owner) -> io::Result<HashMap<VmId, Ipv4Addr>> {
    let elements = nft.elements("map", &owner.table(), "vms")?;
    Ok(elements.iter().filter_map(|element| place(owner, element)).collect())
}

/// The address of a VM, by the comment of its element.
pub(crate) fn address_of(nft: &Nft, owner: Owner, vm: &VmId) -> io::Result<Option<Ipv4Addr>> {
    Ok(placed(nft, owner)?.remove(vm))
}

fn place(owner: Owner, element: &Value) -> Option<(VmId, Ipv4Addr)> {
    // [{"elem": {"val": ADDRESS, "comment": …}}, VERDICT]
    let key = &element[0]["elem"];
    Some((owner.vm_of(key["comment"].as_str()?)?, key["val"].as_str()?.parse().ok()?))
}

/// Packets denied to each source.
pub(crate) fn denied(nft: &Nft, owner: Owner) -> io::Result<Vec<(Ipv4Addr, u64)>> {
    let elements = nft.elements("set", &owner.table(), "denied_by")?;
    let of = |element: &Value| {
        let element = &element["elem"];
        Some((element["val"].as_str()?.parse().ok()?, element["counter"]["packets"].as_u64()?))
    };
    Ok(elements.iter().filter_map(of).collect())
}

/// What was denied, the latest first.
pub(crate) fn denials(nft: &Nft, owner: Owner) -> io::Result<Vec<Denial>> {
    let table = owner.table();
    let mut elements = nft.elements("set", &table, "denials")?;
    elements.extend(nft.elements("set", &table, "denials_other")?);
    let mut denials: Vec<Denial> = elements.iter().filter_map(denial).collect();
    denials.sort_by_key(|denial| denial.age);
    denials.truncate(MAX_TOLD);
    Ok(denials)
}

fn denial(element: &Value) -> Option<Denial> {
    let element = &element["elem"];
    let parts = element["val"]["concat"].as_array()?;
    let number = |at: usize| match parts.get(at) {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    // What has the set's own time does not say so.
    let timeout = element["timeout"].as_u64().unwrap_or_else(|| DENIALS_KEPT.into());
    let left = element["expires"].as_u64().unwrap_or(timeout);
    Some(Denial {
        from: parts.first()?.as_str()?.parse().ok()?,
        to: parts.get(1)?.as_str()?.parse().ok()?,
        protocol: number(2).and_then(|number| u8::try_from(number).ok())?,
        port: number(3).and_then(|number| u16::try_from(number).ok()).unwrap_or(0),
        packets: element["counter"]["packets"].as_u64().unwrap_or(0),
        age: u32::try_from(timeout.saturating_sub(left)).unwrap_or(u32::MAX),
    })
}
