//! Images made shortly before the host went down: users of one wait until it has been verified, and nobody else does.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{
    SOON,
    images::{layout, pull},
    vms,
};
use banger_testkit::{Entry, ImageLayout, TestEnv, wait_until};
use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
};

/// Part of the message to a waiting user.
const WAIT: &str = "which was made shortly before this host went down";

/// Marks the image in this directory as made in another boot, once its sync in this one is done.
fn doubt(image: &Path) {
    let mark = image.join(".unsynced");
    wait_until(SOON, "an image on the disk", || if mark.exists() { Err("not yet".into()) } else { Ok(()) });
    fs::write(mark, "another boot\n").unwrap();
}

/// Overwrites the end of its file, as if the new content had not reached the disk.
fn damage(image: &Path) {
    let rootfs = image.join("rootfs.ext4");
    fs::set_permissions(&rootfs, fs::Permissions::from_mode(0o644)).unwrap();
    let file = File::options().write(true).open(rootfs).unwrap();
    file.write_all_at(b"what was there before", file.metadata().unwrap().len() - 100).unwrap();
}

/// State of an image, if it exists.
fn state(env: &TestEnv, id: &str) -> Option<String> {
    let images = env.banger(["image", "list", "--json"]).run().expect(0).json();
    let image = images.as_array().unwrap().iter().find(|image| image["id"] == id)?.clone();
    assert_eq!(image["problem"].is_null(), image["state"] == "ready", "{image:#}");
    Some(image["state"].as_str().unwrap().to_owned())
}

/// Makes an image incomplete, which the next daemon finds by itself.
fn lose(env: &TestEnv, id: &str) {
    env.banger(["daemon", "stop"]).run().expect(0);
    let image = env.layout().images().join(id);
    doubt(&image);
    damage(&image);
    wait_until(SOON, "the end of the image that is not whole", || match state(env, id) {
        None => Ok(()),
        Some(state) => Err(state),
    });
}

#[test]
fn only_who_needs_a_doubtful_image_waits_for_it() {
    let Some(env) = TestEnv::fake() else { return };
    let (good, bad) = (layout(&env, "good", "1"), layout(&env, "bad", "2"));
    let [good_id, bad_id] = [&good, &bad].map(|source| pull(&env, &[source])["id"].as_str().unwrap().to_owned());
    env.banger(["vm", "create", "--no-start", "--name", "early", "--image", "good"]).run().expect(0);
    env.banger(["daemon", "stop"]).run().expect(0);
    let images = env.layout().images();
    for id in [&good_id, &bad_id] {
        doubt(&images.join(id));
    }
    damage(&images.join(&bad_id));
    // Somebody else reads both, and takes his time.
    let turns = [&good_id, &bad_id].map(|id| {
        let turn = File::create(images.join(format!(".lock-settle-{id}"))).unwrap();
        flock(&turn, FlockOperation::LockExclusive).unwrap();
        turn
    });

    // The daemon serves all the same, and what is not doubtful can be used.
    assert_eq!([state(&env, &good_id), state(&env, &bad_id)], [Some("unread".into()), Some("unread".into())]);
    let list = env.banger(["image", "list"]).run().expect(0);
    assert!(list.err().contains(&format!("warning: image {good_id}: made shortly before")), "{list}");
    env.banger(["vm", "create", "--no-start", "--name", "other"]).patience(SOON).run().expect(0);
    env.banger(["vm", "delete", "-f", "other"]).run().expect(0);
    // Who needs one is told what he waits for, and can give up.
    let create = env.banger(["vm", "create", "--no-start", "--name", "late", "--image", "good"]).spawn();
    create.wait_stderr(WAIT, SOON);
    create.signal(Signal::INT);
    create.finish(SOON).expect(130);
    assert_eq!(vms(&env), [("early".to_owned(), "created".to_owned())]);
    let again = env.banger(["image", "pull", &bad]).spawn();
    again.wait_stderr(WAIT, SOON);
    // A daemon that is killed meanwhile leaves it to the next.
    let daemon = env.daemon().unwrap();
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
    again.finish(SOON).expect(1);
    assert_eq!(state(&env, &bad_id).as_deref(), Some("unread"));

    let start = env.banger(["vm", "start", "early"]).spawn();
    start.wait_stderr(WAIT, SOON);
    drop(turns);
    start.finish(SOON).expect(0);
    assert_eq!(state(&env, &good_id).as_deref(), Some("ready"));
    wait_until(SOON, "the end of the image that is not whole", || match state(&env, &bad_id) {
        None => Ok(()),
        Some(state) => Err(state),
    });
    // Had again, it is the same.
    assert_eq!(pull(&env, &[&bad])["id"], bad_id.as_str());
    crate::delete(&env, "early");
}

#[test]
fn what_the_disk_refused_is_used_by_nobody_until_it_is_pulled_again() {
    let Some(env) = TestEnv::fake() else { return };
    let source = layout(&env, "app", "1");
    let id = pull(&env, &[&source])["id"].as_str().unwrap().to_owned();
    let mark = env.layout().images().join(&id).join(".unsynced");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(mark, format!("failed {boot}")).unwrap();
    assert_eq!(state(&env, &id).as_deref(), Some("damaged"));
    let create = ["vm", "create", "--no-start", "--name", "v", "--image", "app"];
    let refused = env.banger(create).run().expect(1);
    assert!(refused.err().contains("the disk has refused part of it"), "{refused}");
    assert!(refused.err().contains("`banger image pull` of it again"), "{refused}");
    assert_eq!(vms(&env), []);
    let again = env.banger(["image", "pull", &source]).patience(SOON).run().expect(0);
    assert!(again.err().contains("pulled image app:latest in") && !again.err().contains("up to date"), "{again}");
    assert_eq!(state(&env, &id).as_deref(), Some("ready"));
    env.banger(create).run().expect(0);
    crate::delete(&env, "v");
}

#[test]
fn a_name_of_ones_own_leads_to_nothing_else_once_its_image_is_lost() {
    let Some(env) = TestEnv::fake() else { return };
    let (source, other) = (layout(&env, "app", "1"), layout(&env, "other", "2"));
    let id = pull(&env, &[&source, "--name", "mine"])["id"].as_str().unwrap().to_owned();
    env.banger(["vm", "create", "--no-start", "--name", "v", "--image", "mine"]).run().expect(0);
    lose(&env, &id);
    let bundle = env.home().join("mine.tar.zst");
    for args in [
        &["vm", "create", "--no-start", "--image", "mine"][..],
        &["image", "show", "mine"],
        &["image", "promote", "mine"],
        &["image", "bundle", "mine", "-o", bundle.to_str().unwrap()],
        // Nor does a VM know no more than an id.
        &["vm", "start", "v"],
    ] {
        let lost = env.banger(args).run().expect(1);
        assert!(lost.err().contains("image mine was lost when this host went down"), "{args:?}: {lost}");
        assert!(lost.err().contains(&format!("`banger image pull {source} --name mine` brings it back")), "{lost}");
        assert!(lost.err().contains("`banger image delete mine` gives the name up"), "{lost}");
    }
    let taken = env.banger(["image", "pull", &other, "--name", "mine"]).patience(SOON).run().expect(1);
    assert!(taken.err().contains("image mine was lost") && taken.err().contains("--force"), "{taken}");
    // What it says helps.
    assert_eq!(pull(&env, &[&source, "--name", "mine"])["id"], id.as_str());
    env.banger(["vm", "start", "v"]).patience(SOON).run().expect(0);
    env.banger(["vm", "delete", "-f", "v"]).run().expect(0);
    lose(&env, &id);
    env.banger(["image", "delete", "mine"]).run().expect(0);
    assert_ne!(pull(&env, &[&other, "--name", "mine"])["id"], id.as_str());
    env.assert_nothing_left();
}

#[test]
fn a_lost_image_for_another_platform_comes_back_for_that_one() {
    let env = TestEnv::empty();
    let mut image = ImageLayout::new(&env.home().join("layout"));
    image.layer(&[], |layer| layer.add("srv/greeting", &Entry::FILE, "1"));
    let source = image.finish_for("arm64", "app", &serde_json::json!({}));
    let id = pull(&env, &[&source, "--platform", "linux/arm64", "--name", "mine"])["id"].as_str().unwrap().to_owned();
    lose(&env, &id);
    let lost = env.banger(["image", "show", "mine"]).run().expect(1);
    let again = format!("image pull {source} --platform linux/arm64 --name mine");
    assert!(lost.err().contains(&format!("`banger {again}` brings it back")), "{lost}");
    let less = env.banger(["image", "pull", &source, "--name", "mine"]).run().expect(1);
    assert!(less.err().contains("no linux/amd64"), "{less}");
    // What it says helps.
    env.banger(again.split(' ')).patience(SOON).run().expect(0);
    assert_eq!(state(&env, &id).as_deref(), Some("ready"));
    env.assert_nothing_left();
}

#[test]
fn what_is_damaged_is_listed_with_what_helps() {
    let env = TestEnv::empty();
    let source = layout(&env, "app", "1");
    let id = pull(&env, &[&source])["id"].as_str().unwrap().to_owned();
    let manifest = env.layout().images().join(&id).join("manifest.json");
    fs::set_permissions(&manifest, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&manifest, "{").unwrap();
    let image = env.banger(["image", "list", "--json"]).run().expect(0).json()[0].clone();
    assert_eq!((&image["state"], &image["digest"]), (&"damaged".into(), &"unknown".into()), "{image:#}");
    assert_eq!(image["names"], serde_json::json!(["app:latest"]));
    assert_eq!(env.banger(["image", "show", "app", "--json"]).run().expect(0).json(), image);
    let list = env.banger(["image", "list"]).run().expect(0);
    assert!(list.out().contains(" damaged "), "{list}");
    let mends = format!("banger image delete {id}");
    assert!(list.err().contains("its manifest cannot be used") && list.err().contains(&mends), "{list}");
    // What it says helps.
    let args: Vec<_> = mends.split(' ').skip(1).collect();
    env.banger(args).run().expect(0);
    assert_eq!(pull(&env, &[&source])["state"], "ready");
    env.assert_nothing_left();
}
