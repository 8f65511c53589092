//! Many at once.

use crate::{SOON, vms};
use banger_testkit::TestEnv;

#[test]
fn ten_at_once_with_one_name_each() {
    let Some(env) = TestEnv::fake() else { return };
    std::thread::scope(|scope| {
        for i in 0..10_i32 {
            let env = &env;
            scope.spawn(move || {
                let line = format!("exit {i}");
                env.banger(["vm", "run", "--rm", "--memory", "128M", "--", "sh", "-c", &line])
                    .patience(SOON)
                    .run()
                    .expect(i);
            });
        }
    });
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

#[test]
fn one_name_is_given_to_one() {
    let Some(env) = TestEnv::fake() else { return };
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let create = || env.banger(["vm", "create", "--no-start", "--name", "only"]).run().code();
        let runs: Vec<_> = (0..6).map(|_| scope.spawn(create)).collect();
        runs.into_iter().map(|run| run.join().expect("no panic")).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    env.banger(["vm", "delete", "only"]).run().expect(0);
    env.assert_nothing_left();
}
