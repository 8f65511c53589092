//! Many at once.

use crate::{BOOT, sh};
use banger_testkit::{TestEnv, alone};

const MANY: usize = 10;

#[test]
fn ten_vms_at_once() {
    let _machine = alone();
    let Some(env) = TestEnv::real() else { return };
    let names: Vec<String> = (0..MANY).map(|i| format!("vm{i}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let env = &env;
            scope.spawn(move || {
                let args =
                    ["vm", "run", "-d", "--memory", "256M", "--vcpu", "1", "--init", "agent", "--quiet", "--name"];
                env.banger(args.into_iter().chain([name.as_str()])).patience(4 * BOOT).run().expect(0);
            });
        }
    });
    for name in &names {
        assert_eq!(sh(&env, name, "hostname").trim(), name);
    }
    let running = env.banger(["ps", "-q"]).run().expect(0).out();
    assert_eq!(running.lines().count(), MANY, "{running}");
    let refs = ["vm", "delete", "-f"].into_iter().chain(names.iter().map(String::as_str));
    env.banger(refs).patience(BOOT).run().expect(0);
    env.assert_nothing_left();
}
