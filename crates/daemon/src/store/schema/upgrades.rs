//! Databases of every earlier schema, with rows in them, opened by today's code.
//!
//! `fixtures/1.sql` is the whole database of a first daemon, tables included. Each further file is what a daemon of
//! that schema wrote after its migration. So a user's database of any age corresponds to one of these steps.

use super::*;
use crate::store::{AddressSlot, Lease, Pinned, Store, VmRow};
use banger_proto::api::vm::VmState;
use rusqlite_migration::SchemaVersion;

/// Rows written by daemons of each schema. A new migration comes with the next file.
const WRITTEN: [&str; 8] = [
    include_str!("fixtures/1.sql"),
    include_str!("fixtures/2.sql"),
    include_str!("fixtures/3.sql"),
    include_str!("fixtures/4.sql"),
    include_str!("fixtures/5.sql"),
    include_str!("fixtures/6.sql"),
    include_str!("fixtures/7.sql"),
    include_str!("fixtures/8.sql"),
];
/// The VMs in them, oldest first, by the schema that brought each.
const VMS: [&[&str]; 8] = [
    &["fresh", "up", "broken", "on-its-way", "going"],
    &["short-lived"],
    &["alpine"],
    &["web"],
    &["work"],
    &[],
    &[],
    &["aged"],
];

/// Makes a database that went through the schemas up to `version`, each with rows of its own.
fn aged(path: &Path, version: usize) {
    let mut connection = Connection::open(path).unwrap();
    configure(&connection).unwrap();
    for (number, written) in (1..=version).zip(WRITTEN) {
        if number > 1 {
            MIGRATIONS.to_version(&mut connection, number).unwrap();
        }
        connection.execute_batch(written).unwrap();
        assert!(
            matches!(MIGRATIONS.current_version(&connection), Ok(SchemaVersion::Inside(now)) if now.get() == number)
        );
    }
}

#[tokio::test]
async fn every_vm_of_every_earlier_schema_can_be_read_and_written() {
    assert_eq!(WRITTEN.len(), STEPS.len(), "a migration without rows from before it: add fixtures/{}.sql", STEPS.len());
    for version in 1..=WRITTEN.len() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.db");
        aged(&path, version);
        let store = Store::open(&path).unwrap();
        let vms = store.vms().await.unwrap();
        let names: Vec<&str> = vms.iter().map(|vm| vm.name.as_str()).collect();
        assert_eq!(names, VMS[..version].concat(), "schema {version}");
        for vm in vms {
            let changed = VmRow { reason: Some("seen".into()), ..vm };
            assert!(store.update_vm(&changed).await.unwrap(), "schema {version}: {}", changed.name);
            assert_eq!(store.vm_named(&changed.name).await.unwrap(), Some(changed), "schema {version}");
        }
        // Resources still refer to their VMs: no VM can be deleted while it holds anything.
        let up = "b2b2b2b2b2b2".parse().unwrap();
        assert!(store.delete_vm(&up).await.is_err());
        let holds = store.resources(&up).await.unwrap();
        assert_eq!(holds.len(), 3, "{holds:?}");
        for resource in holds {
            store.unclaim(&up, resource.kind, &resource.value).await.unwrap();
        }
        let leased: Vec<Lease> = store.leases().await.unwrap();
        assert_eq!(leased.iter().map(|lease| &lease.vm).collect::<Vec<_>>(), [&up]);
        store.delete_vm(&up).await.unwrap();
        assert_eq!(store.leases().await.unwrap(), []);
    }
}

#[tokio::test]
async fn what_earlier_daemons_wrote_means_what_it_meant() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.db");
    aged(&path, WRITTEN.len());
    let store = Store::open(&path).unwrap();
    let get = async |name: &str| store.vm_named(&name.parse().unwrap()).await.unwrap().unwrap();

    let up = get("up").await;
    assert_eq!((up.state, up.last_used, up.workspace), (VmState::Running, None, None));
    assert_eq!((up.spec.env["TOKEN"].as_str(), up.spec.user.as_deref()), ("it's a secret", Some("1000:1000")));
    assert!(up.spec.network.nat && up.spec.network.publish.is_empty(), "a VM from before there were networks");
    assert_eq!((up.run.shim.unwrap().pid, up.run.phases.len(), up.run.deleting), (4_000_001, 2, false));

    let short_lived = get("short-lived").await;
    assert_eq!(short_lived.spec.ttl.unwrap().to_string(), "2h");
    assert_eq!((short_lived.last_used, short_lived.run.sizes.unwrap().vcpu), (Some(1_764_083_100), 1));

    for (name, source, chosen, pinned) in [
        ("debian-bookworm", None, false, None),
        ("alpine:3.20", Some("docker.io/library/alpine:3.20"), false, None),
        ("mine", Some("oci:/home/u/layout"), true, None),
        ("app:v1", Some("registry.local/app:v1"), false, Some("registry.local/app:v1@sha256:00")),
    ] {
        let origin = store.name_origin(&name.parse().unwrap()).await.unwrap().unwrap().1;
        let pinned = pinned.map(|reference: &str| Pinned { reference: reference.to_owned(), platform: None });
        assert_eq!((origin.source.as_deref(), origin.chosen, origin.pinned), (source, chosen, pinned), "{name}");
    }

    let web = get("web").await;
    assert_eq!(web.spec.network.name.unwrap().to_string(), "backend");
    assert_eq!((web.spec.network.allow.len(), web.spec.network.deny.len(), web.run.published.len()), (2, 1, 1));
    assert!(store.assigned_addresses().await.unwrap().contains(&(web.id, AddressSlot { network: 1, host: 2 })));

    let work = get("work").await;
    assert!(work.run.deleting, "its deletion goes on");
    assert_eq!((work.workspace.unwrap().branch.as_deref(), work.birth), (Some("try"), None));

    let aged = get("aged").await.birth.unwrap();
    assert_eq!((aged.host_boot_id.len(), aged.at_ms), (36, 61_500));
}
