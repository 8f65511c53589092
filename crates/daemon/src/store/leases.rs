//! The `leases` table: VMs that are deleted when the process that asked for them ends (`--rm`).

use super::{Store, StoreError};
use banger_machine::process::ProcessIdentity;
use banger_proto::name::VmId;
use rusqlite::params;

/// Lease of a VM by a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The VM.
    pub vm: VmId,
    /// Boot id of the host in which the process runs; after a reboot it has ended.
    pub host_boot_id: String,
    /// The process.
    pub holder: ProcessIdentity,
}

impl Store {
    /// Ties a VM to a process.
    pub async fn insert_lease(&self, lease: Lease) -> Result<(), StoreError> {
        self.call(move |connection| {
            connection.execute(
                "INSERT INTO leases (vm_id, host_boot_id, pid, start_time) VALUES (?1, ?2, ?3, ?4)",
                params![
                    lease.vm.as_str(),
                    lease.host_boot_id,
                    lease.holder.pid,
                    i64::try_from(lease.holder.start_time).unwrap_or(i64::MAX)
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// Ends the lease of a VM: the VM stays.
    pub async fn delete_lease(&self, vm: &VmId) -> Result<(), StoreError> {
        let vm = vm.clone();
        self.call(move |connection| {
            connection.execute("DELETE FROM leases WHERE vm_id = ?1", [vm.as_str()])?;
            Ok(())
        })
        .await
    }

    /// Lists all leases.
    pub async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.call(|connection| {
            let mut query =
                connection.prepare_cached("SELECT vm_id, host_boot_id, pid, start_time FROM leases ORDER BY vm_id")?;
            let rows = query.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, u32>(2)?, row.get::<_, i64>(3)?))
            })?;
            rows.map(|row| {
                let (vm, host_boot_id, pid, start_time) = row?;
                let start_time = u64::try_from(start_time).unwrap_or(0);
                let vm = vm
                    .parse()
                    .map_err(|source| StoreError::Garbled { what: "a lease".to_owned(), source: Box::new(source) })?;
                Ok(Lease { vm, host_boot_id, holder: ProcessIdentity { pid, start_time } })
            })
            .collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{tests::store, vms::tests::vm};

    #[tokio::test]
    async fn a_lease_goes_with_its_vm_and_not_the_other_way() {
        let (_temp, store) = store();
        let (a, b) = (vm("a"), vm("b"));
        for row in [&a, &b] {
            store.insert_vm(row.clone()).await.unwrap();
            let holder = ProcessIdentity { pid: 7, start_time: 1 << 40 };
            store.insert_lease(Lease { vm: row.id.clone(), host_boot_id: "h".into(), holder }).await.unwrap();
        }
        store.delete_lease(&a.id).await.unwrap();
        assert!(store.vm(&a.id).await.unwrap().is_some());
        assert_eq!(store.leases().await.unwrap()[0].vm, b.id);
        store.delete_vm(&b.id).await.unwrap();
        assert_eq!(store.leases().await.unwrap(), vec![]);
    }
}
