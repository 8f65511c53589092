//! `vm prune`: everything that does not run, and nothing that does.

use crate::{delete, start, vms};
use banger_testkit::TestEnv;

#[test]
fn prune_deletes_what_does_not_run_after_showing_it() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "up");
    start(&env, "down");
    env.banger(["vm", "stop", "down"]).run().expect(0);
    env.banger(["vm", "create", "--no-start", "--name", "fresh"]).run().expect(0);
    // Nobody to ask: shown, refused, and nothing is gone.
    let refused = env.banger(["vm", "prune"]).run().expect(1);
    assert!(refused.err().contains("down") && refused.err().contains("fresh"), "{refused}");
    assert_eq!(vms(&env).len(), 3);
    let out = env.banger(["vm", "prune", "-f"]).run().expect(0);
    assert_eq!(out.out(), "down\nfresh\n");
    assert_eq!(vms(&env), [("up".to_owned(), "running".to_owned())]);
    let nothing = env.banger(["vm", "prune", "-f", "--json"]).run().expect(0);
    assert_eq!(nothing.json(), serde_json::json!([]));
    delete(&env, "up");
}
