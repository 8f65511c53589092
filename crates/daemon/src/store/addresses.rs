//! The `addresses` and `networks` tables: the address of each VM. UNIQUE (network, host) does the allocation.

use super::{Store, StoreError};
use banger_proto::{
    helper::{NETWORK_SIZE, NETWORKS},
    name::{NetworkName, VmId},
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

/// An allocated address: the index of the network, and of the host in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressSlot {
    /// Index of the network; 0 is the one whose VMs cannot see each other.
    pub network: u8,
    /// Index of the address, counted from the network's first address.
    pub host: u16,
}

impl Store {
    /// Allocates an address for `vm` on a network. A VM that already has an address there keeps it.
    /// [`StoreError::Taken`] if no address or no network is free.
    pub async fn assign_address(&self, vm: &VmId, network: Option<&NetworkName>) -> Result<AddressSlot, StoreError> {
        let (vm, network) = (vm.to_string(), network.map(ToString::to_string));
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let number = match network {
                Some(name) => number_of(&transaction, &name)?,
                None => 0,
            };
            let slot = match slot_of(&transaction, &vm)? {
                Some(slot) if slot.network == number => slot,
                _ => new_slot(&transaction, &vm, number)?,
            };
            forget_empty(&transaction)?;
            transaction.commit()?;
            Ok(slot)
        })
        .await
    }

    /// Frees the address of `vm`, if it has one.
    pub async fn release_address(&self, vm: &VmId) -> Result<(), StoreError> {
        let vm = vm.to_string();
        self.call(move |connection| {
            connection.execute("DELETE FROM addresses WHERE vm_id = ?1", params![vm])?;
            Ok(forget_empty(connection)?)
        })
        .await
    }

    /// Lists all VMs that have an address.
    pub async fn assigned_addresses(&self) -> Result<Vec<(VmId, AddressSlot)>, StoreError> {
        self.call(|connection| {
            let mut query = connection.prepare("SELECT vm_id, network, host FROM addresses ORDER BY network, host")?;
            let rows = query.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, AddressSlot { network: row.get(1)?, host: row.get(2)? }))
            })?;
            rows.map(|row| {
                let (vm, slot) = row?;
                let garbled = |error| StoreError::Garbled { what: format!("address of {vm}"), source: Box::new(error) };
                Ok((vm.parse().map_err(garbled)?, slot))
            })
            .collect()
        })
        .await
    }
}

fn slot_of(connection: &Connection, vm: &str) -> rusqlite::Result<Option<AddressSlot>> {
    let query = "SELECT network, host FROM addresses WHERE vm_id = ?1";
    connection
        .query_row(query, params![vm], |row| Ok(AddressSlot { network: row.get(0)?, host: row.get(1)? }))
        .optional()
}

/// Returns the index of a named network. A new name gets the lowest free index.
fn number_of(transaction: &Transaction<'_>, name: &str) -> Result<u8, StoreError> {
    let known = transaction
        .query_row("SELECT number FROM networks WHERE name = ?1", params![name], |row| row.get(0))
        .optional()?;
    if let Some(number) = known {
        return Ok(number);
    }
    let free = lowest_free(
        transaction,
        "SELECT number FROM networks WHERE number >= ?1 ORDER BY number",
        1,
        u32::from(NETWORKS),
        0,
    )?;
    let number = free.and_then(|number| u8::try_from(number).ok()).ok_or(StoreError::Taken("every network"))?;
    transaction.execute("INSERT INTO networks (name, number) VALUES (?1, ?2)", params![name, number])?;
    Ok(number)
}

fn new_slot(transaction: &Transaction<'_>, vm: &str, network: u8) -> Result<AddressSlot, StoreError> {
    let query = "SELECT host FROM addresses WHERE host >= ?1 AND network = ?2 ORDER BY host";
    let free = lowest_free(transaction, query, 2, NETWORK_SIZE - 1, network)?;
    let host = free.and_then(|host| u16::try_from(host).ok()).ok_or(StoreError::Taken("every address"))?;
    transaction.execute(
        "INSERT INTO addresses (vm_id, network, host) VALUES (?1, ?2, ?3)
         ON CONFLICT (vm_id) DO UPDATE SET network = excluded.network, host = excluded.host",
        params![vm, network, host],
    )?;
    Ok(AddressSlot { network, host })
}

/// Returns the lowest number from `first` and below `end` that the query does not return.
fn lowest_free(
    transaction: &Transaction<'_>,
    query: &str,
    first: u32,
    end: u32,
    network: u8,
) -> rusqlite::Result<Option<u32>> {
    let mut query = transaction.prepare(query)?;
    let mut free = first;
    let mut rows = if query.parameter_count() == 1 {
        query.query(params![first])?
    } else {
        query.query(params![first, network])?
    };
    while let Some(row) = rows.next()? {
        if row.get::<_, u32>(0)? != free {
            break;
        }
        free += 1;
    }
    Ok((free < end).then_some(free))
}

/// Deletes networks without VMs.
fn forget_empty(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM networks WHERE number NOT IN (SELECT network FROM addresses)", []).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{sample, store};

    #[tokio::test]
    async fn addresses_are_unique_and_kept_and_come_back() {
        let (_temp, store) = store();
        let network: NetworkName = "lab".parse().unwrap();
        let vms = ["a", "b", "c"].map(sample);
        for vm in &vms {
            store.insert_vm(vm.clone()).await.unwrap();
        }
        let [a, b, c] = vms.map(|vm| vm.id);
        assert_eq!(store.assign_address(&a, None).await.unwrap(), AddressSlot { network: 0, host: 2 });
        assert_eq!(store.assign_address(&b, None).await.unwrap(), AddressSlot { network: 0, host: 3 });
        assert_eq!(store.assign_address(&a, None).await.unwrap(), AddressSlot { network: 0, host: 2 });
        assert_eq!(store.assign_address(&c, Some(&network)).await.unwrap(), AddressSlot { network: 1, host: 2 });
        assert_eq!(store.assign_address(&a, Some(&network)).await.unwrap(), AddressSlot { network: 1, host: 3 });
        store.release_address(&c).await.unwrap();
        store.release_address(&c).await.unwrap();
        assert_eq!(
            store.assigned_addresses().await.unwrap(),
            [(b, AddressSlot { network: 0, host: 3 }), (a.clone(), AddressSlot { network: 1, host: 3 })]
        );
        store.release_address(&a).await.unwrap();
        let other: NetworkName = "other".parse().unwrap();
        assert_eq!(store.assign_address(&a, Some(&other)).await.unwrap().network, 1, "its number is free again");
        assert!(store.delete_vm(&a).await.is_err(), "a VM with an address cannot go");
    }
}
