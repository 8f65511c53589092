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
fn what_is_wrong_with_a_file_is_said_once_with_its_code() {
    let env = TestEnv::empty();
    layout(&env, "app", "1");
    packed(&env, "app.tar");
    let home = env.home().join("home").canonicalize().unwrap();
    fs::write(home.join("cut.tar.gz"), b"\x1f\x8b\x08\0").unwrap();
    fs::create_dir(home.join("empty")).unwrap();
    let place = home.to_str().unwrap();
    let pull = |source: String| vec!["image".to_owned(), "pull".into(), source];
    let import = |from: &str| ["kernel", "import", "mine-6.1", "--from", from].map(str::to_owned).to_vec();
    for (args, code, says) in [
        (pull(format!("oci:{place}/none")), "not_found", "No such file"),
        (pull(format!("oci-archive:{place}/none.tar")), "not_found", "No such file"),
        (pull(format!("docker-archive:{place}/app.tar/none")), "not_found", "Not a directory"),
        (pull("oci:empty".into()), "invalid", "there is no \"index.json\" in it"),
        (pull("oci:app.tar".into()), "invalid", "oci-archive: reads a layout in a tar"),
        (pull("oci-archive:empty".into()), "invalid", "oci: reads a layout in one"),
        (pull("oci-archive:cut.tar.gz".into()), "invalid", "cannot unpack it"),
        (pull("docker-archive:app.tar".into()), "invalid", "oci-archive: reads OCI's layout"),
        (pull("oci-archive:app.tar:none".into()), "invalid", "it has no image \"none\""),
        (import("none"), "not_found", "No such file"),
        (import("app.tar"), "invalid", "the kernel image cannot be used"),
    ] {
        let out = env.banger(args.iter().map(String::as_str).chain(["--json"])).run().expect(1);
        let failure = out.json();
        assert_eq!(failure["code"], code, "{args:?}: {failure:#}");
        let text = format!("{} {}", failure["message"], failure["causes"]).replace("\\\"", "\"");
        assert!(text.contains(says) && text.matches(place).count() == 1, "{args:?}: {failure:#}");
    }
    env.assert_nothing_left();
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
