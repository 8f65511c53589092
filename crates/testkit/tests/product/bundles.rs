//! Images in bundles, through the whole product: packed, offered by a catalog, pulled, and whose word counts.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{
    SOON,
    images::{layout, names, pull, stored},
};
use banger_testkit::{FileServer, TestEnv};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::PathBuf,
};

/// An image that is here as `app`, and its bundle behind a server with a catalog, which offers it as `mine`, and as
/// `lie` with another hash.
struct Offered {
    server: FileServer,
    dir: PathBuf,
    /// Where the image was pulled from.
    source: String,
    id: String,
}

impl Offered {
    /// `None` where there is no server.
    fn in_catalog(env: &TestEnv, text: &str) -> Option<Self> {
        let dir = env.home().join("public");
        fs::create_dir(&dir).unwrap();
        let server = FileServer::start(&dir)?;
        let source = layout(env, "app", text);
        let id = pull(env, &[&source, "--name", "app"])["id"].as_str().unwrap().to_owned();
        let file = dir.join("app.tar.zst");
        let pack = || {
            let args = ["image", "bundle", "app", "--json", "-o", file.to_str().unwrap()];
            env.banger(args).patience(SOON).run().expect(0).json()
        };
        let packed = pack();
        assert_eq!(pack()["sha256"], packed["sha256"], "the same image gives the same bundle");
        let offer = |name: &str, sha256: &Value| {
            let mut entry = packed["entry"].clone();
            (entry["name"], entry["kernel"]) = (name.into(), Value::Null);
            entry["sources"][0]["url"] = server.url("app.tar.zst").into();
            entry["sources"][0]["sha256"] = sha256.clone();
            entry
        };
        let entries = [offer("mine", &packed["sha256"]), offer("lie", &"0".repeat(64).into())];
        let offered = Self { server, dir, source, id };
        fs::write(offered.catalog(), json!({"version": 1, "entries": entries}).to_string()).unwrap();
        Some(offered)
    }

    /// The same, of a catalog in a file that the next daemon reads.
    fn in_file(env: &TestEnv, text: &str) -> Option<Self> {
        let offered = Self::in_catalog(env, text)?;
        env.configure_also(&format!("[[image_catalog]]\npath = \"{}\"\n", offered.catalog().display()));
        env.banger(["daemon", "stop"]).run().expect(0);
        Some(offered)
    }

    fn catalog(&self) -> PathBuf {
        self.dir.join("catalog.json")
    }

    /// Has the catalog say something else.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut catalog = serde_json::from_slice(&fs::read(self.catalog()).unwrap()).unwrap();
        change(&mut catalog);
        fs::write(self.catalog(), catalog.to_string()).unwrap();
    }

    /// Where the image is, when it is here.
    fn image(&self, env: &TestEnv) -> PathBuf {
        env.layout().images().join(&self.id)
    }
}

#[test]
fn a_bundle_pulled_back_is_the_same_image() {
    let env = TestEnv::empty();
    let Some(offered) = Offered::in_catalog(&env, "bundled") else { return };
    let (image, pulled) = (offered.image(&env), env.banger(["image", "show", "app", "--json"]).run().expect(0).json());
    let bytes = fs::read(image.join("rootfs.ext4")).unwrap();
    env.configure_also(&format!("[[image_catalog]]\nurl = \"{}\"\n", offered.server.url("catalog.json")));
    env.banger(["image", "rm", "app"]).run().expect(0);
    assert!(!image.exists());
    env.banger(["daemon", "stop"]).run().expect(0);

    let refused = env.banger(["image", "pull", "lie"]).patience(SOON).run().expect(1);
    assert!(refused.err().contains("the bundle has the SHA-256"), "{refused}");
    assert_eq!((names(&env), stored(&env)), (vec![], vec![]));
    // Whatever else is called so here is not what the catalog offers.
    let other = layout(&env, "other", "not it");
    pull(&env, &[&other, "--name", "mine"]);
    let refused = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(1);
    assert!(refused.err().contains("mine is the name of an image from oci:"), "{refused}");
    let back = pull(&env, &["--force", "mine"]);
    assert_eq!((&back["id"], &back["digest"]), (&pulled["id"], &pulled["digest"]));
    assert!(fs::read(image.join("rootfs.ext4")).unwrap() == bytes);
    // Once it is here nothing is downloaded again, under whatever name.
    fs::remove_file(offered.dir.join("app.tar.zst")).unwrap();
    let again = env.banger(["image", "pull", "mine", "--name", "again"]).patience(SOON).run().expect(0);
    assert!(again.err().contains("image mine is here already"), "{again}");
    drop(offered);
    let config = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap()["config"].clone();
    assert_eq!(config(&fs::read(image.join("manifest.json")).unwrap()), json!({"workdir": "/srv"}));
    env.assert_nothing_left();
}

#[test]
fn a_bundle_that_is_not_what_its_catalog_says_is_told_though_another_source_gives_the_image() {
    let env = TestEnv::empty();
    let Some(offered) = Offered::in_file(&env, "bundled") else { return };
    offered.edit(|catalog| {
        let lie = catalog["entries"][1]["sources"][0].clone();
        catalog["entries"][0]["sources"].as_array_mut().unwrap().insert(0, lie);
    });
    env.banger(["image", "rm", "app"]).run().expect(0);
    let out = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(0);
    assert!(out.err().contains("did not give image mine (the bundle has the SHA-256 "), "{out}");
    assert_eq!(stored(&env).iter().filter(|name| !name.starts_with('.')).count(), 1);
    drop(offered);
    env.assert_nothing_left();
}

#[test]
fn a_bundle_that_turns_out_to_be_here_is_known_and_brings_no_kernel_to_what_is_from_elsewhere() {
    let Some(env) = TestEnv::fake() else { return };
    let Some(offered) = Offered::in_file(&env, "bundled") else { return };
    // As long as the image is lost a bundle says nothing of it.
    let (kept, lost, source) = (offered.image(&env), env.home().join("lost"), &offered.source);
    fs::rename(&kept, &lost).unwrap();
    let refused = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(1);
    assert!(refused.err().contains("which was lost here"), "{refused}");
    assert!(refused.err().contains(&format!("`banger image pull {source} --name app` brings it back")), "{refused}");
    assert!(!kept.exists());
    fs::rename(&lost, &kept).unwrap();
    assert_eq!(pull(&env, &["mine"])["id"], *offered.id);
    fs::remove_file(offered.dir.join("app.tar.zst")).unwrap();
    let again = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(0);
    assert!(again.err().contains("image mine is here already"), "{again}");
    // The catalog has another kernel for it by now.
    offered.edit(|catalog| catalog["entries"][0]["kernel"] = "debian-6.1".into());
    let kernel = || env.banger(["image", "show", "mine", "--json"]).run().expect(0).json()["kernel"].clone();
    // What came from elsewhere keeps the kernel it has, or none, and no other is pulled for nothing.
    let stays = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(0);
    assert!(stays.err().contains("is here as app") && stays.err().contains("no kernel, where"), "{stays}");
    assert_eq!(kernel(), Value::Null);
    // What is the catalog's alone has that of the catalog.
    env.banger(["image", "delete", "app"]).run().expect(0);
    let moved = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(0);
    assert!(moved.err().contains("recommends kernel debian-6.1 now"), "{moved}");
    assert_eq!(kernel(), "debian-6.1");
    let again = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(0);
    assert!(!again.err().contains("recommends"), "{again}");
    // It is published under the name it was asked for by.
    env.banger(["image", "pull", &offered.source, "--name", "another"]).patience(SOON).run().expect(0);
    let bundled =
        env.banger(["image", "bundle", "mine", "-o", "mine.tar.zst", "--json"]).patience(SOON).run().expect(0);
    assert_eq!(bundled.json()["entry"]["name"], "mine");
    env.banger(["image", "delete", "another"]).run().expect(0);
    // What somebody chose, the catalog does not take back.
    let vmlinux = env.home().join("state/kernels/debian-6.1/vmlinux");
    env.banger(["kernel", "import", "other-6.1", "--from", vmlinux.to_str().unwrap()]).patience(SOON).run().expect(0);
    env.banger(["image", "pull", "mine", "--kernel", "debian-6.1"]).patience(SOON).run().expect(0);
    offered.edit(|catalog| catalog["entries"][0]["kernel"] = "other-6.1".into());
    let chosen = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(0);
    assert!(chosen.err().contains("goes on recommending kernel debian-6.1, as you chose"), "{chosen}");
    assert_eq!(kernel(), "debian-6.1");
    drop(offered);
    env.assert_nothing_left();
}

#[test]
fn a_catalog_has_no_say_in_the_kernel_of_what_was_made_here() {
    let Some(env) = TestEnv::fake() else { return };
    let Some(offered) = Offered::in_file(&env, "made") else { return };
    // The same bytes, as an image of one's own that is to boot with whatever kernel is the default.
    fs::copy(offered.image(&env).join("rootfs.ext4"), env.home().join("home/own.ext4")).unwrap();
    env.banger(["image", "rm", "app"]).run().expect(0);
    env.banger(["image", "register", "--name", "own", "--rootfs", "own.ext4"]).run().expect(0);
    env.banger(["image", "promote", "own"]).patience(SOON).run().expect(0);
    offered.edit(|catalog| catalog["entries"][0]["kernel"] = "debian-6.1".into());
    let stays = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(0);
    assert!(stays.err().contains("is here as own") && stays.err().contains("no kernel, where"), "{stays}");
    let shown = |name: &str| {
        let shown = env.banger(["image", "show", name, "--json"]).run().expect(0).json();
        (shown["id"].as_str().unwrap().to_owned(), shown["kernel"].clone())
    };
    let id = offered.id.clone();
    assert_eq!((shown("own"), shown("mine")), ((id.clone(), Value::Null), (id.clone(), Value::Null)));
    // Once it is the catalog's alone it is as the catalog says.
    env.banger(["image", "rm", "own"]).run().expect(0);
    env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(0);
    assert_eq!(shown("mine"), (id, "debian-6.1".into()));
    drop(offered);
    env.assert_nothing_left();
}

#[test]
fn a_kernel_that_is_asked_for_of_an_image_that_is_here_and_has_it_is_chosen() {
    let Some(env) = TestEnv::fake() else { return };
    let Some(offered) = Offered::in_file(&env, "bundled") else { return };
    offered.edit(|catalog| catalog["entries"][0]["kernel"] = "debian-6.1".into());
    for (asked, kernel) in [(&[][..], Value::Null), (&["--kernel", "debian-6.1"], "debian-6.1".into())] {
        env.banger(["image", "delete", &offered.id]).run().expect(0);
        // By the catalog's word, and, perhaps, then by a person's.
        assert_eq!(pull(&env, &["mine"])["kernel"], "debian-6.1");
        let args: Vec<&str> = ["mine"].iter().chain(asked).copied().collect();
        assert_eq!(pull(&env, &args)["kernel"], "debian-6.1");
        let first_hand = pull(&env, &[&offered.source, "--name", "app"]);
        assert_eq!((&first_hand["id"], &first_hand["kernel"]), (&offered.id.as_str().into(), &kernel), "{asked:?}");
    }
    drop(offered);
    env.assert_nothing_left();
}

#[test]
fn what_the_catalogs_offer_is_listed_and_what_cannot_be_read_is_said() {
    let Some(env) = TestEnv::fake() else { return };
    let Some(offered) = Offered::in_file(&env, "listed") else { return };
    let catalogs = || env.banger(["image", "list", "--available", "--json"]).run().expect(0).json();
    let before = catalogs();
    let names = |number: usize| {
        let images = before[number]["images"].as_array().unwrap().iter();
        images.map(|image| image["name"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((&before[0]["place"], names(0)), (&offered.catalog().to_str().unwrap().into(), vec!["lie", "mine"]));
    assert_eq!((&before[1]["place"], names(1)), (&"built-in".into(), vec!["debian-bookworm"]));
    let mine = &before[0]["images"][1];
    assert_eq!((&mine["sources"][0], &mine["id"]), (&offered.server.url("app.tar.zst").into(), &Value::Null));
    pull(&env, &["mine"]);
    assert_eq!(catalogs()[0]["images"][1]["id"], *offered.id);
    fs::remove_file(offered.catalog()).unwrap();
    let table = env.banger(["image", "list", "--available"]).run().expect(0);
    assert!(table.err().contains("the image catalog") && table.err().contains("cannot be used"), "{table}");
    assert!(table.out().contains("debian-bookworm") && !table.out().contains("mine"), "{table}");
    assert_ne!(catalogs()[0]["failure"], Value::Null);
    drop(offered);
    env.assert_nothing_left();
}

#[test]
fn a_kernel_that_is_asked_for_is_recommended_by_an_image_that_is_here_with_another_or_none() {
    let Some(env) = TestEnv::fake() else { return };
    let Some(offered) = Offered::in_file(&env, "bundled") else { return };
    let vmlinux = env.home().join("state/kernels/debian-6.1/vmlinux");
    env.banger(["kernel", "import", "other-6.1", "--from", vmlinux.to_str().unwrap()]).patience(SOON).run().expect(0);
    let kernel = || env.banger(["image", "show", "app", "--json"]).run().expect(0).json()["kernel"].clone();
    assert_eq!(kernel(), Value::Null);
    // By its source again, then by a catalog that has the same image: the last word counts.
    for (args, asked, before) in [
        (&[&*offered.source, "--name", "app"][..], "debian-6.1", "no kernel"),
        (&[&*offered.source, "--name", "app"], "other-6.1", "kernel debian-6.1"),
        (&["mine"], "debian-6.1", "kernel other-6.1"),
    ] {
        let args = [&["image", "pull"], args, &["--kernel", asked]].concat();
        let pulled = env.banger(&args).patience(SOON).run().expect(0);
        let said = format!("the image recommends kernel {asked} now, under all its names, and {before} before");
        assert!(pulled.err().contains(&said), "{pulled}");
        assert_eq!(kernel(), asked);
        let again = env.banger(&args).patience(SOON).run().expect(0);
        assert!(!again.err().contains("recommends"), "{again}");
    }
    // One that is nowhere is refused, and what it recommends stays.
    let refused = env.banger(["image", "pull", &offered.source, "--name", "app", "--kernel", "nope-1"]).run().expect(1);
    assert!(refused.err().contains("no kernel nope-1 is here"), "{refused}");
    assert_eq!(kernel(), "debian-6.1");
    env.banger(["vm", "create", "--no-start", "--name", "v", "--image", "app"]).run().expect(0);
    assert_eq!(env.vm("v")["kernel"], "debian-6.1");
    drop(offered);
    crate::delete(&env, "v");
}

#[test]
fn a_lost_image_of_a_bundle_comes_back_for_its_vm_by_any_of_its_names_and_without_one_by_force() {
    let Some(env) = TestEnv::fake() else { return };
    let Some(offered) = Offered::in_file(&env, "bundled") else { return };
    let (id, source) = (offered.id.clone(), &offered.source);
    offered.edit(|catalog| {
        catalog["entries"][1] = catalog["entries"][0].clone();
        catalog["entries"][1]["name"] = "twin".into();
    });
    env.banger(["image", "rm", "app"]).run().expect(0);
    for name in ["mine", "twin"] {
        assert_eq!(pull(&env, &[name])["id"], *id);
    }
    env.banger(["vm", "create", "--no-start", "--name", "v", "--image", "mine"]).run().expect(0);
    let lose = || {
        env.banger(["daemon", "stop"]).run().expect(0);
        fs::remove_dir_all(offered.image(&env)).unwrap();
    };
    lose();
    let lost = env.banger(["vm", "start", "v"]).run().expect(1);
    assert!(lost.err().contains("`banger image pull mine` brings it back"), "{lost}");
    assert_eq!(pull(&env, &["mine"])["id"], *id);
    lose();
    assert_eq!(pull(&env, &["twin"])["id"], *id);
    lose();
    for name in ["mine", "twin"] {
        env.banger(["image", "delete", name]).run().expect(0);
    }
    let refused = env.banger(["image", "pull", "mine"]).patience(SOON).run().expect(1);
    assert!(refused.err().contains("which was lost here"), "{refused}");
    assert!(refused.err().contains("`banger image pull --force mine` takes the bundle's word"), "{refused}");
    assert!(!stored(&env).contains(&id));
    // What it says helps.
    let forced = pull(&env, &["--force", "mine", "--kernel", "debian-6.1"]);
    assert_eq!((forced["id"].as_str(), &forced["kernel"]), (Some(&*id), &"debian-6.1".into()));
    // The kernel is not the bundle's word.
    let first_hand = pull(&env, &[source, "--name", "app"]);
    assert_eq!((first_hand["id"].as_str(), &first_hand["kernel"]), (Some(&*id), &"debian-6.1".into()));
    env.banger(["vm", "start", "v"]).patience(SOON).run().expect(0);
    drop(offered);
    crate::delete(&env, "v");
}

#[test]
fn a_bundle_takes_the_place_of_a_file_and_of_nothing_else() {
    let env = TestEnv::empty();
    pull(&env, &[&layout(&env, "app", "1"), "--name", "app"]);
    let at = |name: &str| env.home().join(name);
    fs::write(at("kept"), "kept").unwrap();
    symlink(at("kept"), at("link")).unwrap();
    symlink(at("none"), at("dangling")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let others = ["link", "dangling", "directory", "socket"];
    let kinds = || others.map(|name| at(name).symlink_metadata().unwrap().file_type());
    let pack = |name: &str| {
        let output = at(name);
        env.banger(["image", "bundle", "app", "-o", output.to_str().unwrap()]).patience(SOON).run()
    };
    let before = kinds();
    for name in others {
        let refused = pack(name).expect(1);
        assert!(refused.err().contains("is there, and is no regular file"), "{name}: {refused}");
    }
    assert_eq!((kinds(), fs::read(at("kept")).unwrap(), at("none").exists()), (before, b"kept".to_vec(), false));
    pack("kept").expect(0);
    assert!(fs::read(at("kept")).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    env.assert_nothing_left();
}
