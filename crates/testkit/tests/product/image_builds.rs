//! Debian images built by an ordinary user, and builds that are given up.

use crate::{
    SOON,
    images::{names, stored},
};
use banger_testkit::{TestEnv, require, wait_until};
use rustix::process::Signal;

/// A user without an entry in the user database.
const USER: u32 = 12_011;

#[test]
fn a_build_that_an_ordinary_user_gives_up_leaves_nothing_of_its_bootstrap() {
    if ["apt", "userns", "uidmap"].iter().any(|it| !require(it)) {
        return;
    }
    let Some(mut env) = TestEnv::fake_as(USER) else { return };
    env.with_subordinate_ids(USER);
    let (named, kept) = (names(&env), stored(&env));
    let build = env.banger(["image", "build", "small", "--debian", "bookworm"]).spawn();
    // By now it has files and processes that are not the user's own.
    build.wait_stderr("unpacking the base system", SOON * 3);
    assert!(env.left_by(USER).iter().any(|left| left.contains("mmdebstrap")), "{:#?}", env.left_by(USER));
    build.signal(Signal::INT);
    let given_up = build.finish(SOON).expect(130);
    assert!(given_up.err().contains("nothing of it is kept"), "{given_up}");
    wait_until(SOON, "the end of all that it left", || match env.left_by(USER) {
        none if none.is_empty() => Ok(()),
        left => Err(format!("{left:#?}")),
    });
    wait_until(SOON, "the images that there were", || {
        let now = stored(&env);
        if now.len() == kept.len() && now.iter().all(|name| kept.contains(name)) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    assert_eq!(names(&env), named);
    env.assert_nothing_left();
}

#[test]
fn a_daemon_in_another_group_than_its_users_own_says_that_it_is() {
    if ["apt", "userns", "uidmap"].iter().any(|it| !require(it)) {
        return;
    }
    let Some(mut env) = TestEnv::fake_as(USER + 1) else { return };
    env.with_subordinate_ids(USER + 1);
    // It is the user that is of another group here than the one all is started in, which comes to the same.
    let passwd = env.home().join("passwd");
    let users = std::fs::read_to_string(&passwd).expect("users");
    let (own, other) = (format!(":{0}:{0}:", USER + 1), format!(":{}:100:", USER + 1));
    assert!(users.contains(&own));
    std::fs::write(&passwd, users.replace(&own, &other)).expect("room");
    let out = env.banger(["image", "build", "small", "--debian", "bookworm"]).patience(SOON * 3).run().expect(1);
    assert!(out.err().contains("it wants the user's own group (100)"), "{out}");
    assert!(out.err().contains("hint: `banger daemon stop`") && out.err().contains("newgrp"), "{out}");
    let doctor = env.banger(["doctor", "--json"]).run();
    let findings = doctor.json()["findings"].as_array().expect("findings").clone();
    let found = findings.iter().find(|finding| finding["check"] == "subordinate ids").expect("it is looked at");
    assert!(found["verdict"] == "WARN" && found["message"].to_string().contains("serves"), "{found:#}");
    env.assert_nothing_left();
}
