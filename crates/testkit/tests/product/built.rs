//! Debians that are built by an ordinary user and given up.

use crate::{
    SOON,
    images::{names, stored},
};
use banger_testkit::{TestEnv, require, wait_until};
use rustix::process::Signal;

/// A user nobody knows.
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
