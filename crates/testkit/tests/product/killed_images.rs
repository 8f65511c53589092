//! A daemon that is killed between two steps of what it does with images: what is there then, and that the same command
//! again is all it takes.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{
    SOON,
    images::{layout, names, pull, stored},
};
use banger_testkit::{FileServer, TestEnv, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Where a daemon may die between an image and its name, between the names of two, between an image and its kernel, or
/// between what an image says and what it is to say.
pub(crate) const POINTS: [&str; 9] = [
    "manifest.staged",
    "image.made",
    "promote.copied",
    "promote.renamed",
    "delete.unnamed",
    "register.imported",
    "register.made",
    "image.recommended",
    "image.named",
];

/// The points of an environment's daemon.
struct Points<'a> {
    env: &'a TestEnv,
    place: PathBuf,
}

impl<'a> Points<'a> {
    fn place(env: &mut TestEnv) -> PathBuf {
        env.banger(["daemon", "stop"]).run().expect(0);
        let place = env.home().join("points");
        fs::create_dir(&place).unwrap();
        env.set_variable("BANGER_FAILPOINTS", &place);
        place
    }

    fn of(env: &'a TestEnv, place: &Path) -> Self {
        Self { env, place: place.to_owned() }
    }

    /// Kills the daemon at a point of a command.
    fn killed_at(&self, point: &str, args: &[&str]) {
        assert!(POINTS.contains(&point));
        fs::write(self.place.join(point), "").unwrap();
        let session = self.env.banger(args).spawn();
        let hit = self.place.join(format!("{point}.hit"));
        wait_until(SOON, point, || if hit.exists() { Ok(()) } else { Err("not there".into()) });
        let daemon = self.env.daemon().unwrap();
        assert!(daemon.signal(Signal::KILL));
        daemon.wait_gone(SOON);
        session.finish(SOON).expect(1);
        fs::remove_file(hit).unwrap();
    }
}

fn shown(env: &TestEnv, image: &str) -> Value {
    env.banger(["image", "show", image, "--json"]).run().expect(0).json()
}

/// An image from a file, and another that is a file of the user's with the same content: `my.ext4`. Their ids.
fn two(env: &TestEnv, source: &str) -> (String, PathBuf) {
    let id = pull(env, &[source, "--name", "app"])["id"].as_str().unwrap().to_owned();
    let rootfs = env.layout().images().join(&id).join("rootfs.ext4");
    let own = env.home().join("home/my.ext4");
    fs::copy(rootfs, &own).unwrap();
    (id, own)
}

#[test]
fn between_an_image_and_its_name_both_stay_usable() {
    let Some(mut env) = TestEnv::fake() else { return };
    let source = layout(&env, "app", "1");
    let (id, own) = two(&env, &source);
    env.banger(["image", "rm", "app"]).run().expect(0);
    env.banger(["image", "register", "--name", "my", "--rootfs", "my.ext4"]).run().expect(0);
    let registered = shown(&env, "my")["id"].as_str().unwrap().to_owned();
    let place = Points::place(&mut env);
    let points = Points::of(&env, &place);
    // A whole image without a name, which is seen and used; the names are those there were.
    points.killed_at("image.made", &["image", "pull", &source, "--name", "app"]);
    assert_eq!((names(&env), stored(&env).contains(&id)), (vec!["debian-bookworm".into(), "my".into()], true));
    let again = env.banger(["image", "pull", &source, "--name", "app"]).patience(SOON).run().expect(0);
    assert!(again.err().contains("image app is up to date"), "{again}");
    env.banger(["image", "rm", "app"]).run().expect(0);

    points.killed_at("promote.copied", &["image", "promote", "my"]);
    assert_eq!((shown(&env, "my")["id"].as_str(), stored(&env).contains(&id)), (Some(&*registered), true));
    points.killed_at("promote.renamed", &["image", "promote", "my"]);
    assert_eq!(shown(&env, "my")["id"], *id);
    // What the name meant before is there by its id, and goes by it.
    env.banger(["image", "rm", &registered]).run().expect(0);
    env.banger(["image", "rm", "my"]).run().expect(0);
    assert!(own.exists() && !stored(&env).contains(&id));
    env.assert_nothing_left();
}

#[test]
fn a_copy_whose_image_or_name_went_meanwhile_goes_too() {
    let Some(mut env) = TestEnv::fake() else { return };
    let source = layout(&env, "app", "1");
    let (id, _) = two(&env, &source);
    env.banger(["image", "rm", "app"]).run().expect(0);
    let other = pull(&env, &[&layout(&env, "other", "2"), "--name", "other"])["id"].as_str().unwrap().to_owned();
    let rootfs = env.layout().images().join(&other).join("rootfs.ext4");
    fs::copy(rootfs, env.home().join("home/another.ext4")).unwrap();
    let place = Points::place(&mut env);
    let register = ["image", "register", "--force", "--name", "my", "--rootfs"];
    let take_over = [&register[..], &["another.ext4"]].concat();
    let promoted_while = |env: &TestEnv, meanwhile: &[&str], why: &str| {
        fs::write(place.join("promote.copied"), "").unwrap();
        let session = env.banger(["image", "promote", "my"]).spawn();
        let hit = place.join("promote.copied.hit");
        wait_until(SOON, "the copy", || if hit.exists() { Ok(()) } else { Err("not there".into()) });
        env.banger(meanwhile).run().expect(0);
        fs::remove_file(hit).unwrap();
        let refused = session.finish(SOON).expect(1);
        assert!(refused.err().contains(why), "{refused}");
    };
    for (meanwhile, why) in
        [(&["image", "rm", "my"][..], "was deleted meanwhile"), (&take_over, "my means another image by now")]
    {
        env.banger([&register[..], &["my.ext4"]].concat()).run().expect(0);
        promoted_while(&env, meanwhile, why);
        assert!(!stored(&env).contains(&id), "nobody needs it");
    }

    // The name that was asked for is another image's, and one that was not asked for stays with the file. A copy that
    // was here before is not this promotion's to remove.
    env.banger([&register[..], &["my.ext4"]].concat()).run().expect(0);
    env.banger(["image", "register", "--name", "twin", "--rootfs", "my.ext4"]).run().expect(0);
    Points::of(&env, &place).killed_at("promote.copied", &["image", "promote", "my"]);
    assert_eq!(shown(&env, &id)["names"], json!([]));
    promoted_while(&env, &take_over, "my means another image by now");
    assert_eq!(shown(&env, "twin")["managed"], false);
    assert_eq!(shown(&env, &id)["names"], json!([]));
    env.banger(["image", "rm", &id]).run().expect(0);
    env.assert_nothing_left();
}

#[test]
fn an_image_that_lost_its_name_on_its_way_out_is_there_by_its_id() {
    let Some(mut env) = TestEnv::fake() else { return };
    let (id, _) = two(&env, &layout(&env, "app", "1"));
    let before = names(&env);
    let place = Points::place(&mut env);
    Points::of(&env, &place).killed_at("delete.unnamed", &["image", "delete", "app"]);
    assert_eq!(names(&env), before.into_iter().filter(|name| name != "app").collect::<Vec<_>>());
    assert!(stored(&env).contains(&id));
    assert_eq!((&shown(&env, &id)["state"], &shown(&env, &id)["names"]), (&"ready".into(), &json!([])));
    env.banger(["vm", "create", "--no-start", "--name", "v", "--image", &id]).run().expect(0);
    env.banger(["vm", "delete", "v"]).run().expect(0);
    env.banger(["image", "delete", &id]).run().expect(0);
    assert!(!stored(&env).contains(&id));
    env.assert_nothing_left();
}

#[test]
fn a_file_that_was_registered_halfway_is_registered_by_the_same_command() {
    let Some(mut env) = TestEnv::fake() else { return };
    two(&env, &layout(&env, "app", "1"));
    let before = names(&env);
    let place = Points::place(&mut env);
    let points = Points::of(&env, &place);
    let args = ["image", "register", "--name", "my", "--rootfs", "my.ext4"];
    points.killed_at("register.made", &args);
    assert_eq!(names(&env), before);
    env.banger(args).run().expect(0);
    assert_eq!(shown(&env, "my")["state"], "ready");
    env.banger(["image", "delete", "my"]).run().expect(0);

    // With a kernel, which is whole, and said to be there.
    let kernel = env.layout().kernel(&"debian-6.1".parse().unwrap());
    let [vmlinux, modules] = ["vmlinux", "modules"].map(|part| kernel.join(part).to_str().unwrap().to_owned());
    let more = ["--kernel-file", &vmlinux, "--modules", &modules];
    let args: Vec<&str> = args.iter().copied().chain(more).collect();
    points.killed_at("register.imported", &args);
    assert_eq!(names(&env), before);
    env.banger(["kernel", "show", "my"]).run().expect(0);
    let there = env.banger(&args).patience(SOON).run().expect(1);
    assert!(there.err().contains("--kernel my uses it as it is; --force replaces it"), "{there}");
    env.banger(args.iter().copied().chain(["--force"])).patience(SOON).run().expect(0);
    assert_eq!(shown(&env, "my")["kernel"], "my");
    env.assert_nothing_left();
}

#[test]
fn a_file_that_changes_while_it_is_registered_takes_no_name_from_what_it_was() {
    let Some(mut env) = TestEnv::fake() else { return };
    let (_, own) = two(&env, &layout(&env, "app", "1"));
    let args = ["image", "register", "--name", "my", "--rootfs", "my.ext4"];
    env.banger(args).run().expect(0);
    let before = shown(&env, "my")["id"].clone();
    let kernel = env.layout().kernel(&"debian-6.1".parse().unwrap());
    let [vmlinux, modules] = ["vmlinux", "modules"].map(|part| kernel.join(part).to_str().unwrap().to_owned());
    let place = Points::place(&mut env);
    fs::write(place.join("register.imported"), "").unwrap();
    let more = ["--kernel-file", &vmlinux, "--modules", &modules];
    let session = env.banger(args.iter().copied().chain(more)).spawn();
    let hit = place.join("register.imported.hit");
    wait_until(SOON, "the kernel", || if hit.exists() { Ok(()) } else { Err("not there".into()) });
    fs::File::options().write(true).open(&own).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let there = stored(&env);
    fs::remove_file(hit).unwrap();
    let refused = session.finish(SOON).expect(1);
    assert!(refused.err().contains("there is an image my already"), "{refused}");
    assert_eq!((&shown(&env, "my")["id"], stored(&env)), (&before, there));
    env.assert_nothing_left();
}

#[test]
fn a_catalogs_image_gets_what_it_lacks_from_the_same_pull() {
    let Some(mut env) = TestEnv::fake() else { return };
    let dir = env.home().join("public");
    fs::create_dir(&dir).unwrap();
    let Some(server) = FileServer::start(&dir) else { return };
    pull(&env, &[&layout(&env, "app", "1"), "--name", "app"]);
    let file = dir.join("app.tar.zst");
    let pack = ["image", "bundle", "app", "--json", "-o", file.to_str().unwrap()];
    let mut entry = env.banger(pack).patience(SOON).run().expect(0).json()["entry"].clone();
    entry["name"] = "mine".into();
    entry["sources"][0]["url"] = server.url("app.tar.zst").into();
    let catalog = dir.join("catalog.json");
    let offer = |kernel: Value| {
        let mut entry = entry.clone();
        entry["kernel"] = kernel;
        fs::write(&catalog, json!({"version": 1, "entries": [entry]}).to_string()).unwrap();
    };
    offer(Value::Null);
    env.configure_also(&format!("[[image_catalog]]\npath = \"{}\"\n", catalog.display()));
    env.banger(["image", "delete", "app"]).run().expect(0);
    let place = Points::place(&mut env);
    let points = Points::of(&env, &place);
    let args = ["image", "pull", "mine"];
    // Here, with its name, and whatever came after that not done.
    points.killed_at("image.named", &args);
    assert_eq!((&shown(&env, "mine")["state"], &shown(&env, "mine")["kernel"]), (&"ready".into(), &Value::Null));
    // What it is to say of its kernel is written, and not there yet: it says what it said, and the next daemon sweeps.
    offer("debian-6.1".into());
    let unfinished = |env: &TestEnv| stored(env).iter().filter(|name| name.starts_with(".staging-")).count();
    points.killed_at("manifest.staged", &args);
    assert_eq!(unfinished(&env), 1);
    assert_eq!((&shown(&env, "mine")["state"], &shown(&env, "mine")["kernel"]), (&"ready".into(), &Value::Null));
    // Behind its back.
    wait_until(SOON, "what was unfinished to be gone", || match unfinished(&env) {
        0 => Ok(()),
        left => Err(format!("{left} of it")),
    });
    // The kernel is noted, and the name as it was.
    points.killed_at("image.recommended", &args);
    assert_eq!(shown(&env, "mine")["kernel"], "debian-6.1");
    let again = env.banger(args).patience(SOON).run().expect(0);
    assert!(again.err().contains("image mine is here already"), "{again}");
    env.banger(["vm", "create", "--no-start", "--name", "v", "--image", "mine"]).run().expect(0);
    assert_eq!(env.vm("v")["kernel"], "debian-6.1");
    drop(server);
    crate::delete(&env, "v");
}
