//! The `resources` table: what each VM holds on this host.
//!
//! A row is written before the resource is taken and deleted after it was given back. So a later daemon knows what may
//! be in use, whatever happens in between. The primary key does the allocation.

use super::{Store, StoreError};
use banger_proto::name::VmId;
use rusqlite::params;

/// Kind of resource. Addresses have a table of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// State directory with the VM's disk; the value is the VM's id.
    StateDirectory,
    /// Directory of sockets; the value is the VM's id.
    RunDirectory,
    /// A shim that runs or is about to; the value is the VM's id.
    Shim,
    /// Port of the host; the value is its address (`127.0.0.1:8080`).
    Port,
}

impl ResourceKind {
    const ALL: [Self; 4] = [Self::StateDirectory, Self::RunDirectory, Self::Shim, Self::Port];

    /// Returns the kind as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StateDirectory => "state_dir",
            Self::RunDirectory => "run_dir",
            Self::Shim => "shim",
            Self::Port => "port",
        }
    }
}

/// One resource of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Name of the resource among those of its kind.
    pub value: String,
}

impl Store {
    /// Records that `vm` is about to take a resource. Does nothing if it already holds it; [`StoreError::Taken`] if
    /// another VM does.
    pub async fn claim(&self, vm: &VmId, kind: ResourceKind, value: &str) -> Result<(), StoreError> {
        let (vm, value) = (vm.to_string(), value.to_owned());
        self.call(move |connection| {
            let changed = connection.execute(
                "INSERT INTO resources (kind, value, vm_id) VALUES (?1, ?2, ?3)
                 ON CONFLICT (kind, value) DO UPDATE SET vm_id = vm_id WHERE vm_id = excluded.vm_id",
                params![kind.as_str(), value, vm],
            )?;
            if changed == 1 { Ok(()) } else { Err(StoreError::Taken(kind.as_str())) }
        })
        .await
    }

    /// Records that a resource was given back.
    pub async fn unclaim(&self, vm: &VmId, kind: ResourceKind, value: &str) -> Result<(), StoreError> {
        let (vm, value) = (vm.to_string(), value.to_owned());
        self.call(move |connection| {
            connection.execute(
                "DELETE FROM resources WHERE kind = ?1 AND value = ?2 AND vm_id = ?3",
                params![kind.as_str(), value, vm],
            )?;
            Ok(())
        })
        .await
    }

    /// Lists the resources of `vm`.
    pub async fn resources(&self, vm: &VmId) -> Result<Vec<Resource>, StoreError> {
        let vm = vm.to_string();
        self.call(move |connection| {
            let mut query =
                connection.prepare_cached("SELECT kind, value FROM resources WHERE vm_id = ?1 ORDER BY kind, value")?;
            let rows = query.query_map([&vm], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            rows.map(|row| {
                let (kind, value) = row?;
                let known = ResourceKind::ALL.into_iter().find(|known| known.as_str() == kind);
                let kind = known.ok_or_else(|| StoreError::Garbled {
                    what: format!("VM {vm}"),
                    source: format!("it holds a {kind:?}").into(),
                })?;
                Ok(Resource { kind, value })
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
    async fn a_vm_with_resources_cannot_go_and_nobody_takes_them() {
        let (_temp, store) = store();
        let (a, b) = (vm("a"), vm("b"));
        store.insert_vm(a.clone()).await.unwrap();
        store.insert_vm(b.clone()).await.unwrap();
        store.claim(&a.id, ResourceKind::RunDirectory, "x").await.unwrap();
        store.claim(&a.id, ResourceKind::RunDirectory, "x").await.unwrap();
        assert!(matches!(store.claim(&b.id, ResourceKind::RunDirectory, "x").await, Err(StoreError::Taken("run_dir"))));
        assert!(store.delete_vm(&a.id).await.is_err());
        // A VM cannot give back the resource of another VM.
        store.unclaim(&b.id, ResourceKind::RunDirectory, "x").await.unwrap();
        assert_eq!(store.resources(&a.id).await.unwrap().len(), 1);
        store.unclaim(&a.id, ResourceKind::RunDirectory, "x").await.unwrap();
        store.delete_vm(&a.id).await.unwrap();
        store.claim(&b.id, ResourceKind::RunDirectory, "x").await.unwrap();
    }
}
