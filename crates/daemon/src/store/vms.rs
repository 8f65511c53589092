//! The `vms` table.

use super::schema::durably;
use super::{Run, Store, StoreError, VmRow, VmSpec};
use banger_proto::{
    api::workspace::Workspace,
    name::{ImageId, KernelName, VmId, VmName},
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

const COLUMNS: &str = "id, name, machine_id, state, reason, created_at, spec, run, last_used, workspace, birth";

impl Store {
    /// Inserts a VM, safe against power cuts: the directory of a VM without a row would be swept, and its disk with it.
    /// [`StoreError::Taken`] if the name is taken.
    pub async fn insert_vm(&self, vm: VmRow) -> Result<(), StoreError> {
        self.call(move |connection| {
            let inserted = durably(connection, |connection| {
                connection.execute(
                    "INSERT INTO vms (id, name, machine_id, state, reason, image_id, kernel, created_at, spec, run, birth)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                    params![
                        vm.id.as_str(),
                        vm.name.as_str(),
                        vm.machine_id,
                        vm.state.as_str(),
                        vm.reason,
                        vm.spec.image_id.as_str(),
                        vm.spec.kernel.as_str(),
                        i64::try_from(vm.created_at).unwrap_or(i64::MAX),
                        json(&vm.spec),
                        json(&vm.run),
                        vm.birth.as_ref().map(json),
                    ],
                )
            });
            match inserted {
                Ok(_) => Ok(()),
                Err(error) if StoreError::is_unique(&error) => Err(StoreError::Taken("the VM's name")),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Writes state, reason, specification and run of a VM. Returns whether it exists. The time of the last use is not
    /// written: [`Self::used_vm`] writes it independently.
    pub async fn update_vm(&self, vm: &VmRow) -> Result<bool, StoreError> {
        let (id, state, reason) = (vm.id.clone(), vm.state, vm.reason.clone());
        let (spec, run) = (json(&vm.spec), json(&vm.run));
        self.call(move |connection| {
            let changed = connection.execute(
                "UPDATE vms SET state = ?2, reason = ?3, spec = ?4, run = ?5 WHERE id = ?1",
                params![id.as_str(), state.as_str(), reason, spec, run],
            )?;
            Ok(changed == 1)
        })
        .await
    }

    /// Writes a corrected creation time, after the wall clock was set.
    pub async fn set_created(&self, id: &VmId, created_at: u64) -> Result<(), StoreError> {
        let id = id.clone();
        self.call(move |connection| {
            connection.execute(
                "UPDATE vms SET created_at = ?2 WHERE id = ?1",
                params![id.as_str(), i64::try_from(created_at).unwrap_or(i64::MAX)],
            )?;
            Ok(())
        })
        .await
    }

    /// Records that a VM was used at `at` (seconds since 1970).
    pub async fn used_vm(&self, id: &VmId, at: u64) -> Result<(), StoreError> {
        let id = id.clone();
        self.call(move |connection| {
            connection.execute(
                "UPDATE vms SET last_used = max(coalesce(last_used, 0), ?2) WHERE id = ?1",
                params![id.as_str(), i64::try_from(at).unwrap_or(i64::MAX)],
            )?;
            Ok(())
        })
        .await
    }

    /// Records the repository that was imported into a VM. Returns whether the VM exists.
    pub async fn set_workspace(&self, id: &VmId, workspace: &Workspace) -> Result<bool, StoreError> {
        let (id, workspace) = (id.clone(), json(workspace));
        self.call(move |connection| {
            let changed =
                connection.execute("UPDATE vms SET workspace = ?2 WHERE id = ?1", params![id.as_str(), workspace])?;
            Ok(changed == 1)
        })
        .await
    }

    /// Deletes a VM's row. The database refuses this while the VM holds a resource.
    pub async fn delete_vm(&self, id: &VmId) -> Result<(), StoreError> {
        let id = id.clone();
        self.call(move |connection| {
            connection.execute("DELETE FROM vms WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
        .await
    }

    /// Finds a VM by its id.
    pub async fn vm(&self, id: &VmId) -> Result<Option<VmRow>, StoreError> {
        let id = id.clone();
        self.call(move |connection| one(connection, "id = ?1", id.as_str())).await
    }

    /// Finds a VM by its name.
    pub async fn vm_named(&self, name: &VmName) -> Result<Option<VmRow>, StoreError> {
        let name = name.clone();
        self.call(move |connection| one(connection, "name = ?1", name.as_str())).await
    }

    /// Lists all VMs, oldest first.
    pub async fn vms(&self) -> Result<Vec<VmRow>, StoreError> {
        self.call(|connection| {
            let mut query =
                connection.prepare_cached(&format!("SELECT {COLUMNS} FROM vms ORDER BY created_at, rowid"))?;
            let rows = query.query_map([], columns)?;
            rows.map(|row| row.map_err(StoreError::from).and_then(read)).collect()
        })
        .await
    }

    /// Lists the names of the VMs that use an image.
    pub async fn vms_of_image(&self, id: &ImageId) -> Result<Vec<VmName>, StoreError> {
        let id = id.to_string();
        self.call(move |connection| names(connection, "SELECT name FROM vms WHERE image_id = ?1 ORDER BY name", &id))
            .await
    }

    /// Lists the names of the VMs that use a kernel.
    pub async fn vms_of_kernel(&self, kernel: &KernelName) -> Result<Vec<VmName>, StoreError> {
        let kernel = kernel.to_string();
        self.call(move |connection| names(connection, "SELECT name FROM vms WHERE kernel = ?1 ORDER BY name", &kernel))
            .await
    }
}

fn one(connection: &Connection, condition: &str, value: &str) -> Result<Option<VmRow>, StoreError> {
    let mut query = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM vms WHERE {condition}"))?;
    query.query_row([value], columns).optional()?.map(read).transpose()
}

fn names(connection: &Connection, query: &str, value: &str) -> Result<Vec<VmName>, StoreError> {
    let mut query = connection.prepare_cached(query)?;
    let names = query.query_map([value], |row| row.get::<_, String>(0))?;
    names.map(|name| name.map_err(StoreError::from).and_then(|name| name.parse().map_err(garbled("a VM")))).collect()
}

struct Columns {
    id: String,
    name: String,
    machine_id: String,
    state: String,
    reason: Option<String>,
    created_at: i64,
    spec: String,
    run: String,
    last_used: Option<i64>,
    workspace: Option<String>,
    birth: Option<String>,
}

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok(Columns {
        id: row.get(0)?,
        name: row.get(1)?,
        machine_id: row.get(2)?,
        state: row.get(3)?,
        reason: row.get(4)?,
        created_at: row.get(5)?,
        spec: row.get(6)?,
        run: row.get(7)?,
        last_used: row.get(8)?,
        workspace: row.get(9)?,
        birth: row.get(10)?,
    })
}

fn read(columns: Columns) -> Result<VmRow, StoreError> {
    let what = format!("VM {}", columns.id);
    Ok(VmRow {
        id: columns.id.parse().map_err(garbled(&what))?,
        name: columns.name.parse().map_err(garbled(&what))?,
        machine_id: columns.machine_id,
        state: columns.state.parse().map_err(garbled::<String>(&what))?,
        reason: columns.reason,
        created_at: u64::try_from(columns.created_at).unwrap_or(0),
        birth: columns.birth.map(|text| serde_json::from_str(&text)).transpose().map_err(garbled(&what))?,
        spec: serde_json::from_str::<VmSpec>(&columns.spec).map_err(garbled(&what))?,
        run: serde_json::from_str::<Run>(&columns.run).map_err(garbled(&what))?,
        last_used: columns.last_used.and_then(|at| u64::try_from(at).ok()),
        workspace: columns.workspace.map(|text| serde_json::from_str(&text)).transpose().map_err(garbled(&what))?,
    })
}

fn garbled<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &str) -> impl FnOnce(E) -> StoreError {
    let what = what.to_owned();
    move |source| StoreError::Garbled { what, source: source.into() }
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("rows serialize")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::tests::store;
    use banger_proto::{agent::boot::Init, api::vm::VmState, size::ByteSize};

    /// A VM that was just created.
    pub(crate) fn vm(name: &str) -> VmRow {
        VmRow {
            id: crate::random::vm_id(),
            name: name.parse().unwrap(),
            machine_id: crate::random::hex(16),
            state: VmState::Created,
            reason: None,
            created_at: 1,
            birth: Some(crate::store::Birth { host_boot_id: "another boot".into(), at_ms: 7 }),
            spec: VmSpec {
                image: "debian-bookworm".parse().unwrap(),
                image_id: "0123456789abcdef".parse().unwrap(),
                kernel: "debian-6.1".parse().unwrap(),
                vmm: None,
                vcpu: 1,
                memory: ByteSize::mib(256),
                disk_size: ByteSize::gib(1),
                init: Init::Auto,
                env: [("A".to_owned(), "b".to_owned())].into(),
                workdir: None,
                user: None,
                overcommit: false,
                ttl: None,
                network: crate::store::NetworkSpec::default(),
                sources: [("vcpu".to_owned(), "flag".to_owned())].into(),
            },
            run: Run::default(),
            last_used: None,
            workspace: None,
        }
    }

    #[tokio::test]
    async fn a_vm_reads_as_it_was_written() {
        let (_temp, store) = store();
        let mut row = vm("demo");
        store.insert_vm(row.clone()).await.unwrap();
        row.state = VmState::Failed;
        row.reason = Some("the guest panicked".into());
        row.run.boot_id = Some("x".into());
        row.spec.vcpu = 2;
        assert!(store.update_vm(&row).await.unwrap());
        for at in [7, 9, 8] {
            store.used_vm(&row.id, at).await.unwrap();
        }
        store.set_created(&row.id, 1_700_000_000).await.unwrap();
        (row.last_used, row.created_at) = (Some(9), 1_700_000_000);
        assert!(store.update_vm(&VmRow { last_used: None, created_at: 1, ..row.clone() }).await.unwrap());
        assert_eq!(store.vm(&row.id).await.unwrap(), Some(row.clone()));
        assert_eq!(store.vm_named(&row.name).await.unwrap(), Some(row.clone()));
        assert_eq!(store.vms_of_kernel(&row.spec.kernel).await.unwrap(), vec![row.name.clone()]);
        store.delete_vm(&row.id).await.unwrap();
        assert_eq!(store.vms().await.unwrap(), vec![]);
        assert!(!store.update_vm(&row).await.unwrap());
    }

    #[tokio::test]
    async fn a_workspace_is_written_by_itself() {
        let (_temp, store) = store();
        let row = vm("demo");
        store.insert_vm(row.clone()).await.unwrap();
        let workspace = Workspace {
            guest_path: "/root/repo".into(),
            source_path: "/src".into(),
            head_commit: None,
            base_commit: Some("0".repeat(40)),
            mode: banger_proto::api::workspace::Mode::Overlay,
            branch: None,
            from: None,
            include_untracked: false,
            prepared_at: "2026-01-01T00:00:00Z".into(),
        };
        assert!(store.set_workspace(&row.id, &workspace).await.unwrap());
        // A task that holds an older row does not overwrite it.
        store.update_vm(&row).await.unwrap();
        assert_eq!(store.vm(&row.id).await.unwrap().unwrap().workspace, Some(workspace.clone()));
        assert!(!store.set_workspace(&vm("other").id, &workspace).await.unwrap());
    }

    #[tokio::test]
    async fn a_name_belongs_to_one_vm() {
        let (_temp, store) = store();
        store.insert_vm(vm("demo")).await.unwrap();
        assert!(matches!(store.insert_vm(vm("demo")).await, Err(StoreError::Taken(_))));
        assert_eq!(store.vms().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_state_nobody_knows_is_refused_by_the_database() {
        let (_temp, store) = store();
        let row = vm("demo");
        store.insert_vm(row.clone()).await.unwrap();
        let result = store
            .call(move |connection| {
                Ok(connection.execute("UPDATE vms SET state = 'asleep' WHERE id = ?1", [row.id.as_str()])?)
            })
            .await;
        assert!(result.is_err());
    }
}
