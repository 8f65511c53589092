//! Images from files, through the whole product: names, conflicts, catalogs, promotion, the cache.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{SOON, delete};
use banger_testkit::{Entry, ImageLayout, TestEnv, wait_until};
use serde_json::{Value, json};
use std::fs;

/// An image of one file, in the layout of this environment; `oci:DIR:TAG` of it.
pub(crate) fn layout(env: &TestEnv, tag: &str, text: &str) -> String {
    let mut image = ImageLayout::new(&env.home().join("layout"));
    image.layer(&[], |layer| layer.add("srv/greeting", &Entry::FILE, text));
    image.finish(tag, &json!({"WorkingDir": "/srv"}))
}

pub(crate) fn pull(env: &TestEnv, args: &[&str]) -> Value {
    let args = ["image", "pull", "--json"].iter().chain(args);
    env.banger(args).patience(SOON).run().expect(0).json()
}

pub(crate) fn names(env: &TestEnv) -> Vec<String> {
    let images = env.banger(["image", "list", "--json"]).run().expect(0).json();
    let all = images.as_array().unwrap().iter().flat_map(|image| image["names"].as_array().unwrap().clone());
    let mut names: Vec<String> = all.map(|name| name.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// What is in the directory of images, hidden files too.
pub(crate) fn stored(env: &TestEnv) -> Vec<String> {
    let entries = fs::read_dir(env.layout().images()).unwrap().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn a_name_belongs_to_its_source_until_it_is_given_up() {
    let env = TestEnv::empty();
    let (one, two) = (layout(&env, "one", "1"), layout(&env, "two", "2"));
    let out = env.banger(["image", "pull", &one, "--name", "app"]).patience(SOON).run().expect(0);
    assert_eq!(out.out(), "app\n");
    let again = env.banger(["image", "pull", &one, "--name", "app"]).run().expect(0);
    assert!(again.err().contains("image app is up to date"), "{again}");
    let refused = env.banger(["image", "pull", &two, "--name", "app"]).run().expect(1);
    assert!(refused.err().contains("app is the name of an image from oci:"), "{refused}");
    assert!(refused.err().contains("--name"), "{refused}");
    // Nor does it go to what is only called so where it comes from.
    let called = layout(&env, "app:latest", "3");
    pull(&env, &[&one, "--name", "app:latest"]);
    let refused = env.banger(["image", "pull", &called]).patience(SOON).run().expect(1);
    assert!(refused.err().contains("app:latest is the name of an image from oci:"), "{refused}");
    env.banger(["image", "rm", "app:latest"]).run().expect(0);
    // What the layout calls it is its name where none is given, in the form of a reference.
    pull(&env, &[&two]);
    assert_eq!(names(&env), ["app", "two:latest"]);
    let shown = env.banger(["image", "show", "docker.io/library/two", "--json"]).run().expect(0).json();
    assert_eq!(shown["managed"], true, "{shown:#}");
    env.banger(["image", "rm", "app"]).run().expect(0);
    pull(&env, &[&two, "--name", "app"]);
    assert_eq!(names(&env), ["app", "two:latest"]);
    env.assert_nothing_left();
}

#[test]
fn a_file_is_pulled_whether_the_servers_of_catalogs_answer_or_not() {
    let env = TestEnv::empty();
    let source = layout(&env, "app", "1");
    env.configure_also("[[image_catalog]]\nurl = \"http://127.0.0.1:1/catalog.json\"\n");
    pull(&env, &[&source, "--name", "app"]);
    let refused = env.banger(["image", "pull", "app2"]).run().expect(1);
    assert!(refused.err().contains("127.0.0.1:1/catalog.json"), "{refused}");
    // Nor is there a machine for it.
    let refused = env.banger(["image", "pull", &source, "--platform", "freebsd/amd64"]).run().expect(1);
    assert!(refused.err().contains("a VM runs Linux, and no image for freebsd/amd64"), "{refused}");
    env.assert_nothing_left();
}

#[test]
fn what_an_image_says_about_its_commands_is_shown() {
    let env = TestEnv::empty();
    let mut image = ImageLayout::new(&env.home().join("layout"));
    image.layer(&[], |layer| layer.add("srv/greeting", &Entry::FILE, "1"));
    let run = json!({"WorkingDir": "/srv", "User": "7", "Env": ["A=b c", "P=/bin"], "Cmd": ["serve", "-x"]});
    pull(&env, &[&image.finish("app", &run), "--name", "app"]);
    let shown = env.banger(["image", "show", "app"]).run().expect(0).out();
    for (key, value) in [
        ("arch", "x86_64"),
        ("env", r#"["A=b c","P=/bin"]"#),
        ("workdir", "/srv"),
        ("user", "7"),
        ("cmd", r#"["serve","-x"]"#),
    ] {
        let line = shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        assert_eq!(line.map(str::trim), Some(value), "{shown}");
    }
    assert!(!shown.contains("entrypoint"), "{shown}");
    let config = env.banger(["image", "show", "app", "--json"]).run().expect(0).json()["config"].clone();
    assert_eq!((&config["user"], &config["cmd"]), (&json!("7"), &json!(["serve", "-x"])));
    let listed = env.banger(["image", "list", "--json"]).run().expect(0).json()[0].clone();
    assert_eq!((&listed["arch"], listed.get("config")), (&json!("x86_64"), None));
}

#[test]
fn a_moved_tag_moves_the_name_and_a_vm_stays_on_its_image() {
    let Some(env) = TestEnv::fake() else { return };
    let source = layout(&env, "moving", "1");
    let first = pull(&env, &[&source])["id"].clone();
    env.banger(["vm", "create", "--no-start", "--name", "v", "--image", "moving"]).run().expect(0);
    assert_eq!(env.vm("v")["image_id"], first);
    layout(&env, "moving", "2");
    assert_ne!(pull(&env, &[&source])["id"], first);
    assert_eq!(env.vm("v")["image_id"], first);
    // It has no name any more, and stays as long as somebody uses it; by its id it can be used by others.
    let id = first.as_str().unwrap();
    env.banger(["vm", "create", "--no-start", "--name", "w", "--image", id]).run().expect(0);
    assert_eq!((&env.vm("w")["image_id"], &env.vm("w")["image"]), (&first, &first));
    let refused = env.banger(["image", "delete", id]).run().expect(1);
    assert!(refused.err().contains("in use by v, w"), "{refused}");
    env.banger(["vm", "delete", "-f", "v", "w"]).run().expect(0);
    env.banger(["image", "delete", id]).run().expect(0);
    assert!(!stored(&env).iter().any(|name| name == id));
    env.assert_nothing_left();
}

#[test]
fn an_image_goes_with_its_last_name() {
    let Some(env) = TestEnv::fake() else { return };
    let source = layout(&env, "app", "1");
    let id = pull(&env, &[&source, "--name", "one"])["id"].as_str().unwrap().to_owned();
    pull(&env, &[&source, "--name", "two"]);
    env.banger(["vm", "create", "--no-start", "--name", "v", "--image", "one"]).run().expect(0);
    // A name is not in use: the VM has its image by another one too.
    let out = env.banger(["image", "rm", "one"]).run().expect(0);
    assert!(out.err().contains(&format!("image {id} stays as two")), "{out}");
    assert_eq!((env.vm("v")["image_id"].as_str(), stored(&env).contains(&id)), (Some(id.as_str()), true));
    for reference in ["two", &id] {
        let refused = env.banger(["image", "rm", reference]).run().expect(1);
        assert!(refused.err().contains("in use by v"), "{refused}");
    }
    env.banger(["vm", "delete", "-f", "v"]).run().expect(0);
    pull(&env, &[&source, "--name", "one"]);
    let out = env.banger(["image", "rm", &id]).run().expect(0);
    assert!(out.err().contains("its names went with it: one, two"), "{out}");
    assert!(!stored(&env).contains(&id));
    pull(&env, &[&source, "--name", "one"]);
    let out = env.banger(["image", "rm", "one"]).run().expect(0);
    assert_eq!((out.out().as_str(), out.err().as_str(), stored(&env).contains(&id)), ("one\n", "", false));
    env.assert_nothing_left();
}

#[test]
fn what_a_person_called_so_stays_until_force_takes_its_name() {
    let Some(env) = TestEnv::fake() else { return };
    crate::registered::own_file(&env);
    env.banger(["image", "register", "--name", "app:latest", "--rootfs", "my.ext4"]).run().expect(0);
    let mine = env.banger(["image", "show", "app", "--json"]).run().expect(0).json()["id"].clone();
    let source = layout(&env, "app", "1");
    let refused = env.banger(["image", "pull", &source]).patience(SOON).run().expect(1);
    assert!(refused.err().contains("app:latest is the name of an image that was made here"), "{refused}");
    // At once: nothing is built first.
    let refused = env.banger(["image", "build", "app:latest", "--debian", "bookworm"]).run().expect(1);
    assert!(refused.err().contains("there is an image app:latest already"), "{refused}");
    assert!(refused.err().contains("--force"), "{refused}");
    let shown = || env.banger(["image", "show", "app", "--json"]).run().expect(0).json()["id"].clone();
    assert_eq!(shown(), mine);
    let taken = env.banger(["image", "pull", "--force", &source]).patience(SOON).run().expect(0);
    let said = format!("app:latest was another image until now, which stays as {}", mine.as_str().unwrap());
    assert!(taken.err().contains(&said), "{taken}");
    assert_ne!(shown(), mine);
    assert!(stored(&env).contains(&mine.as_str().unwrap().to_owned()));
    env.assert_nothing_left();
}

#[test]
fn a_vm_is_not_made_of_an_image_that_goes_meanwhile() {
    let Some(mut env) = TestEnv::fake() else { return };
    let points = env.home().join("points");
    fs::create_dir(&points).unwrap();
    env.set_variable("BANGER_FAILPOINTS", &points);
    fs::write(points.join("create.settled"), "").unwrap();
    let create = env.banger(["vm", "create", "--no-start", "--name", "v"]).spawn();
    let hit = points.join("create.settled.hit");
    wait_until(SOON, "a VM about to be made", || if hit.exists() { Ok(()) } else { Err("not there".into()) });
    env.banger(["image", "delete", "debian-bookworm"]).run().expect(0);
    fs::remove_file(hit).unwrap();
    let refused = create.finish(SOON).expect(1);
    assert!(refused.err().contains("was deleted meanwhile"), "{refused}");
    assert_eq!(crate::vms(&env), []);
    env.assert_nothing_left();
}

#[test]
fn what_is_here_is_used_while_a_catalogs_server_is_down() {
    let Some(env) = TestEnv::fake() else { return };
    let source = layout(&env, "app", "1");
    pull(&env, &[&source]);
    env.configure_also("[[image_catalog]]\nurl = \"http://127.0.0.1:1/images.json\"\n");
    env.banger(["daemon", "stop"]).run().expect(0);
    // By its familiar form too: `app` is `app:latest` here.
    for (name, image) in [("a", "app:latest"), ("b", "app"), ("c", "docker.io/library/app")] {
        env.banger(["vm", "create", "--no-start", "--name", name, "--image", image]).run().expect(0);
        assert_eq!(env.vm(name)["image"], "app:latest", "{image}");
    }
    let down = env.banger(["vm", "create", "--no-start", "--image", "other"]).patience(SOON).run().expect(1);
    assert!(down.err().contains("the image catalog http://127.0.0.1:1/images.json cannot be used"), "{down}");
    env.banger(["vm", "delete", "-f", "a", "b", "c"]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn a_promoted_image_is_bangers_own() {
    let Some(env) = TestEnv::fake() else { return };
    let file = crate::registered::own_file(&env);
    env.banger(["image", "register", "--name", "my", "--rootfs", "my.ext4", "--kernel-ref", "debian-6.1"])
        .run()
        .expect(0);
    let registered = env.banger(["image", "show", "my", "--json"]).run().expect(0).json();
    let bundle = env.home().join("my.tar.zst");
    let bundle = ["image", "bundle", "my", "-o", bundle.to_str().unwrap()];
    let refused = env.banger(bundle).run().expect(1);
    assert!(refused.err().contains("is a file of yours") && refused.err().contains("image promote"), "{refused}");
    env.banger(["vm", "create", "--no-start", "--name", "before", "--image", "my"]).run().expect(0);
    let out = env.banger(["image", "promote", "my"]).patience(SOON).run().expect(0);
    assert_eq!(out.out(), "my\n");
    let promoted = env.banger(["image", "show", "my", "--json"]).run().expect(0).json();
    assert_eq!((&promoted["managed"], &promoted["kernel"]), (&true.into(), &"debian-6.1".into()), "{promoted:#}");
    assert_ne!(promoted["id"], registered["id"]);
    let again = env.banger(["image", "promote", "my"]).run().expect(1);
    assert!(again.err().contains("my") || again.err().contains("already"), "{again}");

    // The file may go now; who used it before stays with it, and says so.
    fs::remove_file(file).unwrap();
    env.banger(["vm", "run", "-d", "--quiet", "--name", "after", "--image", "my"]).patience(SOON).run().expect(0);
    assert_eq!(env.vm("after")["image_id"], promoted["id"]);
    let gone = env.banger(["vm", "start", "before"]).run().expect(1);
    assert!(gone.err().contains("is not what was registered"), "{gone}");
    env.banger(["vm", "delete", "-f", "before"]).run().expect(0);
    delete(&env, "after");
}

#[test]
fn a_promotion_onto_what_is_here_loses_no_kernel() {
    let Some(env) = TestEnv::fake() else { return };
    let source = layout(&env, "app", "1");
    let id = pull(&env, &[&source, "--name", "app"])["id"].clone();
    let rootfs = env.layout().images().join(id.as_str().unwrap()).join("rootfs.ext4");
    fs::copy(rootfs, env.home().join("home/mine.ext4")).unwrap();
    env.banger(["image", "register", "--name", "mine", "--rootfs", "mine.ext4", "--kernel-ref", "debian-6.1"])
        .run()
        .expect(0);
    let shown = || env.banger(["image", "show", "mine", "--json"]).run().expect(0).json();
    let refused = env.banger(["image", "promote", "mine"]).patience(SOON).run().expect(1);
    assert!(refused.err().contains("is here already") && refused.err().contains("recommends no kernel"), "{refused}");
    assert_eq!(shown()["managed"], false);
    env.banger(["image", "rm", "app"]).run().expect(0);
    env.banger(["image", "promote", "mine"]).patience(SOON).run().expect(0);
    let now = shown();
    assert_eq!((&now["id"], &now["kernel"]), (&id, &"debian-6.1".into()), "{now:#}");
    env.assert_nothing_left();
}

#[test]
fn what_begins_an_id_is_its_image_wherever_one_is_named() {
    let Some(env) = TestEnv::fake() else { return };
    let source = layout(&env, "app", "1");
    let id = pull(&env, &[&source, "--name", "app"])["id"].as_str().unwrap().to_owned();
    let other = env.banger(["image", "show", "debian-bookworm", "--json"]).run().expect(0).json()["id"].clone();
    // As short as tells it from the other one here.
    let other = other.as_str().unwrap();
    let shared = id.bytes().zip(other.bytes()).take_while(|(one, another)| one == another).count();
    let clear = &id[..=shared];
    let shown = env.banger(["image", "show", clear, "--json"]).run().expect(0).json();
    assert_eq!(shown["id"], id.as_str());
    env.banger(["vm", "create", "--no-start", "--name", "a", "--image", clear]).run().expect(0);
    assert_eq!(env.vm("a")["image_id"], id.as_str());
    env.banger(["vm", "delete", "-f", "a"]).run().expect(0);
    env.banger(["image", "delete", clear]).run().expect(0);
    assert_eq!(names(&env), ["debian-bookworm"]);
    env.assert_nothing_left();
}

#[test]
fn a_catalog_that_is_no_file_holds_up_nobody() {
    let env = TestEnv::empty();
    let fifo = env.home().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    env.configure_also(&format!("[[image_catalog]]\npath = \"{}\"\n", fifo.display()));
    let out = env.banger(["image", "pull", "app"]).patience(SOON).run().expect(1);
    assert!(out.err().contains("cannot be used") && out.err().contains("it is not a regular file"), "{out}");
    env.assert_nothing_left();
}

#[test]
fn what_cannot_be_pulled_says_why_and_leaves_nothing() {
    let env = TestEnv::empty();
    for (args, part) in [
        (
            &["image", "pull", "oci:/none"][..],
            "cannot pull oci:/none\n  caused by: cannot open it\n  caused by: No such file or directory",
        ),
        (&["image", "pull", "127.0.0.1:1/none:1"], "cannot connect to 127.0.0.1:1"),
        (&["image", "pull", "UPPER/case:1:2"], "no image here, in a catalog or in a registry"),
        (&["image", "pull", "debian-bookworm", "--platform", "linux/arm64"], "leave out --platform"),
        (&["image", "promote", "none"], "no image \"none\" is here"),
        (&["image", "bundle", "none", "-o", "/tmp/x"], "no image \"none\" is here"),
    ] {
        let out = env.banger(args).patience(SOON).run().expect(1);
        assert!(out.err().contains(part), "{args:?}: {out}");
    }
    // What is no name of anything is wrong usage, and asks nobody.
    for (args, part) in [
        (
            &["image", "pull", "oci:/none", "--platform", "x"][..],
            "invalid platform \"x\": write one such as linux/amd64",
        ),
        (&["image", "build", "x", "--debian=-rf"], "invalid suite \"-rf\""),
    ] {
        let out = env.banger(args).run().expect(2);
        assert!(out.err().contains(part), "{args:?}: {out}");
    }
    let pruned = env.banger(["image", "cache", "prune", "--dry-run"]).run().expect(0);
    assert!(pruned.out().starts_with("would free 0 B in 0 layers"), "{pruned}");
    assert_eq!((names(&env), stored(&env)), (vec![], vec![]));
    env.assert_nothing_left();
}
