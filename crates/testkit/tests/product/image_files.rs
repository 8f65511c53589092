//! Images from files and directories: where their paths begin, and what is said about those that cannot be used.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{
    SOON,
    images::{layout, names, pull},
};
use banger_testkit::TestEnv;
use std::{fs, process::Command};

/// Packs the layout of this environment as an archive, in the directory where its commands run.
fn packed(env: &TestEnv, file: &str) {
    let to = env.home().join("home").join(file);
    let made = Command::new("tar").arg("-C").arg(env.home().join("layout")).arg("-cf").arg(to).arg(".").status();
    assert!(made.unwrap().success());
}

#[test]
fn a_relative_path_begins_where_the_command_runs() {
    let Some(env) = TestEnv::fake() else { return };
    layout(&env, "app", "1");
    packed(&env, "app.tar");
    // Not the working directory of the daemon, which the first command starts.
    env.banger(["ps"]).current_dir("/").run().expect(0);
    let id = pull(&env, &["oci:../layout:app", "--name", "one"])["id"].clone();
    assert_eq!(pull(&env, &["oci-archive:app.tar", "--name", "two"])["id"], id);
    assert_eq!(pull(&env, &["oci-archive:./app.tar:app", "--name", "three"])["id"], id);
    for (number, image) in ["oci-archive:app.tar", "oci:../layout"].into_iter().enumerate() {
        let name = format!("v{number}");
        let create = ["vm", "create", "--no-start", "--name", &name, "--image", image];
        env.banger(create).patience(SOON).run().expect(0);
        assert_eq!(env.vm(&name)["image_id"], id, "{image}");
        env.banger(["vm", "delete", "-f", &name]).run().expect(0);
    }
    // What leads nowhere may be the name of an image.
    pull(&env, &["oci:../layout:app", "--name", "oci:app"]);
    env.banger(["vm", "create", "--no-start", "--name", "v", "--image", "oci:app"]).run().expect(0);
    assert_eq!(env.vm("v")["image_id"], id);
    assert!(names(&env).contains(&"oci:app".to_owned()));
    for args in [&["image", "pull", "oci-archive:none.tar"][..], &["vm", "create", "--image", "oci-archive:none.tar"]] {
        let refused = env.banger(args).run().expect(1);
        assert!(refused.err().starts_with("error: there is no image or file oci-archive:none.tar\n"), "{refused}");
    }
    crate::delete(&env, "v");
}

#[test]
fn a_path_that_is_no_name_is_pulled_under_one() {
    let env = TestEnv::empty();
    layout(&env, "app", "1");
    packed(&env, "my app.tar");
    let refused = env.banger(["vm", "create", "--image", "oci-archive:my app.tar"]).run().expect(1);
    let path = fs::canonicalize(env.home().join("home/my app.tar")).unwrap();
    let hint = format!("`banger image pull --name NAME 'oci-archive:{}'` takes any path", path.display());
    assert!(refused.err().contains(&hint), "{refused}");
    pull(&env, &["oci-archive:my app.tar", "--name", "app"]);
    assert_eq!(names(&env), ["app"]);
    env.assert_nothing_left();
}
