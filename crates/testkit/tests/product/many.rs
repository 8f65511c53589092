//! Many at once.

use crate::{SOON, delete, start, vms};
use banger_testkit::{TestEnv, wait_until};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;

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

#[test]
fn two_hundred_commands_run_in_one_vm_at_once() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "busy");
    let began = env.home().join("home/began");
    std::fs::create_dir(&began).expect("a directory");
    let gate = File::create(env.home().join("home/gate")).expect("a file");
    flock(&gate, FlockOperation::LockExclusive).expect("the gate is closed");
    // The fake VMM's guests are processes of this host: each command says that it runs, and waits for the gate.
    let home = env.home().join("home").display().to_string();
    let line = format!("touch {home}/began/$0; flock -s {home}/gate true; echo $0; exit $(($0 % 100))");
    let command = |i: i32| env.banger(["exec", "busy", "--", "sh", "-c", &line, &i.to_string()]).spawn();
    let sessions: Vec<_> = (0..200).map(|i| (i, command(i))).collect();
    // Two hundred programs of banger's and as many shells, on whatever the machine has.
    wait_until(SOON * 3, "all of them at once", || match std::fs::read_dir(&began).expect("it is there").count() {
        200 => Ok(()),
        count => Err(format!("{count}")),
    });
    flock(&gate, FlockOperation::Unlock).expect("the gate is open");
    for (i, session) in sessions {
        assert_eq!(session.finish(SOON * 3).expect(i % 100).out(), format!("{i}\n"));
    }
    delete(&env, "busy");
}
