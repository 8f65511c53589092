//! References to VMs that could mean several of them.

use super::*;

#[tokio::test]
async fn the_beginning_of_several_ids_means_none_of_them() {
    let world = World::new();
    let ids = ["abc000000001", "abc000000002", "abd000000003"];
    // The last name is a prefix of the other VMs' ids.
    for (id, name) in ids.into_iter().zip(["one", "two", "abc0"]) {
        let row = VmRow { id: id.parse().unwrap(), state: VmState::Stopped, ..sample(name) };
        world.store.insert_vm(row).await.unwrap();
    }
    for reference in ["a", "ab", "abc", "abc00000000"] {
        let refused = world.vms().find(reference).await.unwrap_err();
        assert_eq!(refused.code, Code::Invalid, "{reference}: {refused}");
        assert!(refused.message.contains("begins the ids of several VMs"), "{reference}: {refused}");
        assert_eq!(refused.hints, ["`banger vm list` shows their names"], "{reference}");
    }
    for (reference, id) in [(ids[0], ids[0]), (ids[1], ids[1]), ("abd", ids[2]), ("abc0", ids[2]), ("two", ids[1])] {
        assert_eq!(world.vms().find(reference).await.unwrap().id.as_str(), id, "{reference}");
    }
    // A command is not carried out on one of them either.
    let refused = world
        .vms()
        .change("abc", Op::Start { wait: Wait::Agent, overcommit: false }, &Operation::unwatched())
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Invalid, "{refused}");
}
