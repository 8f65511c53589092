//! Kernels of one's own and catalogs of others.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{SOON, delete, start};
use banger_testkit::{FileServer, TestEnv};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};

/// Packs the real kernel's image alone into `file`; its SHA-256 and size.
pub(crate) fn pack(env: &TestEnv, file: &Path) -> (String, u64) {
    let kernel = env.layout().kernel(&"debian-6.1".parse().unwrap());
    let parts = env.home().join("parts");
    fs::create_dir(&parts).unwrap();
    // A copy: other tests make links to the same file meanwhile, and tar minds.
    fs::copy(kernel.join("vmlinux"), parts.join("vmlinux")).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(parts).args(["-I", "zstd -1", "-cf"]).arg(file).arg("vmlinux");
    assert!(tar.status().unwrap().success());
    let sum = Command::new("sha256sum").arg(file).output().unwrap();
    (String::from_utf8(sum.stdout).unwrap()[..64].to_owned(), fs::metadata(file).unwrap().len())
}

/// A bundle and its catalog entry.
fn bundle(env: &TestEnv, public: &Path, server: &FileServer, name: &str) -> Value {
    let (sha256, size) = pack(env, &public.join(format!("{name}.tar.zst")));
    let url = server.url(&format!("{name}.tar.zst"));
    entry(name, "mine", &json!({"type": "bundle", "url": url, "sha256": sha256, "size": size}))
}

fn entry(name: &str, distro: &str, source: &Value) -> Value {
    json!({"name": name, "distro": distro, "arch": "x86_64", "kernel_version": "6.1", "sources": [source]})
}

fn catalog(path: &Path, entries: &[Value]) {
    fs::write(path, json!({"version": 1, "entries": entries}).to_string()).unwrap();
}

/// The row of `name` in `kernel list --available`.
#[track_caller]
fn listed(env: &TestEnv, name: &str) -> Value {
    let all = env.banger(["kernel", "list", "--available", "--json"]).run().expect(0).json();
    all.as_array().unwrap().iter().find(|kernel| kernel["name"] == name).cloned().unwrap_or_else(|| panic!("{all:#}"))
}

#[test]
fn catalogs_by_address_and_by_path_add_to_each_other() {
    let Some(env) = TestEnv::fake() else { return };
    let public = env.home().join("public");
    fs::create_dir(&public).unwrap();
    let Some(server) = FileServer::start(&public) else { return };
    let mine = bundle(&env, &public, &server, "mine-6.1");
    let wrong = json!({"type": "bundle", "url": server.url("mine-6.1.tar.zst"), "sha256": "0".repeat(64), "size": 7});
    catalog(&public.join("kernels.json"), &[mine.clone(), entry("both-6.1", "by-address", &wrong)]);
    let file = env.home().join("own.json");
    catalog(&file, &[entry("both-6.1", "by-path", &wrong)]);
    let address = server.url("kernels.json");
    env.configure(&format!(
        "[[kernel_catalog]]\nurl = \"{address}\"\n[[kernel_catalog]]\npath = \"{}\"\n",
        file.display()
    ));

    let row = listed(&env, "mine-6.1");
    assert_eq!((&row["catalog"], &row["download"]), (&address.as_str().into(), &mine["sources"][0]["size"]), "{row:#}");
    assert_eq!(listed(&env, "both-6.1")["distro"], "by-path", "the later catalog decides");
    let table = env.banger(["kernel", "list", "--available"]).run().expect(0).out();
    let states: Vec<(&str, &str)> = table
        .lines()
        .skip(1)
        .filter_map(|line| Some((line.split_whitespace().next()?, line.split_whitespace().nth(4)?)))
        .collect();
    assert_eq!(states, [("both-6.1", "available"), ("debian-6.1", "pulled"), ("mine-6.1", "available")], "{table}");
    let set = env.banger(["config", "show", "--json"]).run().expect(0).json();
    let set = set.as_array().unwrap().iter().find(|row| row["key"] == "kernel_catalog").cloned().unwrap();
    assert_eq!(set["value"], json!([{"url": address}, {"path": file}]), "{set:#}");

    env.banger(["kernel", "pull", "mine-6.1"]).run().expect(0);
    assert_eq!(listed(&env, "mine-6.1")["pulled"], true);
    let refused = env.banger(["kernel", "pull", "both-6.1"]).run().expect(1);
    assert!(refused.err().contains("the server announces"), "{refused}");
    assert!(!env.layout().kernel(&"both-6.1".parse().unwrap()).exists());

    // Another bundle under that name: what is here is outdated, and stays until it is asked for again.
    let packed = fs::read(public.join("mine-6.1.tar.zst")).unwrap();
    // A skippable frame changes the bytes and not the content.
    fs::write(public.join("mine-6.1.tar.zst"), [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9], &packed[..]].concat())
        .unwrap();
    let newer = {
        let sum = Command::new("sha256sum").arg(public.join("mine-6.1.tar.zst")).output().unwrap();
        let mut newer = mine.clone();
        newer["sources"][0]["sha256"] = String::from_utf8(sum.stdout).unwrap()[..64].into();
        newer["sources"][0]["size"] = (packed.len() + 9).into();
        newer
    };
    catalog(&file, &[newer]);
    assert_eq!(listed(&env, "mine-6.1")["outdated"], true);
    let no_op = env.banger(["kernel", "pull", "mine-6.1"]).run().expect(0);
    assert!(no_op.err().contains("is here already") && no_op.err().contains("--force"), "{no_op}");
    env.banger(["kernel", "pull", "--force", "mine-6.1"]).run().expect(0);
    assert_eq!(listed(&env, "mine-6.1")["outdated"], false);
    // No catalog has it any more: what was pulled stays, and works.
    catalog(&file, &[]);
    env.configure(&format!("[[kernel_catalog]]\npath = \"{}\"\n", file.display()));
    env.banger(["daemon", "stop"]).run().expect(0);
    let kept = env.banger(["kernel", "show", "mine-6.1", "--json"]).run().expect(0).json();
    assert_eq!(
        (&kept["pulled"], &kept["catalog"], &kept["modified"]),
        (&true.into(), &Value::Null, &false.into()),
        "{kept:#}"
    );
    env.banger(["vm", "create", "--no-start", "--name", "kept", "--kernel", "mine-6.1"]).run().expect(0);
    // It names the home, so it would count as a process of this one.
    drop(server);
    delete(&env, "kept");
}

#[test]
fn a_catalog_that_is_not_there_is_said_and_never_passed_over() {
    let Some(env) = TestEnv::fake() else { return };
    let missing = env.home().join("missing.json");
    let settings = fs::read_to_string(env.layout().config_file()).unwrap();
    env.configure(&format!("{settings}[[kernel_catalog]]\npath = \"{}\"\n", missing.display()));
    let list = env.banger(["kernel", "list", "--available"]).run().expect(0);
    assert!(list.out().contains("debian-6.1"), "{list}");
    assert!(list.err().contains("warning: ") && list.err().contains("missing.json"), "{list}");
    // It might have had another debian-6.1.
    let refused = env.banger(["kernel", "pull", "--force", "debian-6.1", "--json"]).run().expect(1).json();
    assert_eq!(refused["code"], "unavailable", "{refused:#}");
    assert!(refused["message"].as_str().is_some_and(|it| it.contains("missing.json")), "{refused:#}");
    // What is here is used without asking any catalog.
    start(&env, "k");
    let kept = env.banger(["kernel", "pull", "debian-6.1"]).run().expect(0);
    assert!(kept.err().contains("is here already"), "{kept}");
    fs::write(&missing, "{").unwrap();
    let refused = env.banger(["kernel", "pull", "nope-1.0", "--json"]).run().expect(1).json();
    assert_eq!(refused["code"], "invalid", "{refused:#}");
    delete(&env, "k");
}

/// Puts a changed copy in the place of a file, which is a link that other tests share.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_kernel_that_changed_is_noticed_by_all_who_look() {
    let Some(env) = TestEnv::fake() else { return };
    let kernel = env.layout().kernel(&"debian-6.1".parse().unwrap());
    let doctor = || {
        let findings = env.banger(["doctor", "--json"]).run().json()["findings"].clone();
        let of_kernels =
            |finding: &&Value| finding["message"].as_str().is_some_and(|it| it.contains("kernel debian-6.1"));
        findings
            .as_array()
            .unwrap()
            .iter()
            .find(of_kernels)
            .map(|finding| finding["message"].as_str().unwrap().to_owned())
    };
    let show = || env.banger(["kernel", "show", "debian-6.1", "--json"]).run().expect(0).json();
    assert_eq!((&show()["modified"], doctor()), (&false.into(), None));

    // One byte of what guests mount.
    change(&kernel.join("modules.ext4"), |image| {
        let middle = image.len() / 2;
        image[middle] ^= 1;
    });
    let shown = show();
    assert_eq!(shown["modified"], true, "{shown:#}");
    assert!(shown["problem"].as_str().is_some_and(|it| it.contains("modules.ext4")), "{shown:#}");
    let found = doctor().expect("a finding");
    assert!(found.contains("kernel debian-6.1 is modified") && found.contains("modules.ext4"), "{found}");
    let pull = env.banger(["kernel", "pull", "debian-6.1"]).run().expect(0);
    let said = pull.err();
    assert!(said.contains("is here already, but modified (") && said.contains("modules.ext4"), "{pull}");
    assert!(said.contains("kernel pull --force debian-6.1"), "{pull}");

    // How it boots: such a kernel is not used.
    change(&kernel.join("manifest.json"), |manifest| {
        let text = String::from_utf8(std::mem::take(manifest)).unwrap();
        assert!(text.contains("\"acpi\": true"), "{text}");
        *manifest = text.replace("\"acpi\": true", "\"acpi\": false").into_bytes();
    });
    let found = doctor().expect("a finding");
    assert!(found.contains("kernel debian-6.1 is damaged") && found.contains("manifest.json was changed"), "{found}");
    let shown = show();
    assert!(shown["problem"].as_str().is_some_and(|it| it.contains("manifest.json was changed")), "{shown:#}");
    let refused = env.banger(["vm", "create", "--no-start", "--kernel", "debian-6.1"]).run().expect(1);
    assert!(refused.err().contains("kernel debian-6.1 is damaged") && refused.err().contains("--force"), "{refused}");
    env.assert_nothing_left();
}

#[test]
fn a_kernel_in_use_is_kept_unless_forced() {
    let Some(env) = TestEnv::fake() else { return };
    let vmlinux = env.layout().kernel(&"debian-6.1".parse().unwrap()).join("vmlinux");
    let import = |name: &str, more: &[&str]| {
        let from = vmlinux.to_str().unwrap();
        env.banger(["kernel", "import", name, "--from", from].iter().chain(more)).patience(SOON).run()
    };
    assert_eq!(import("own-6.1", &[]).expect(0).out(), "own-6.1\n");
    let again = import("own-6.1", &[]).expect(1);
    assert!(again.err().contains("--force"), "{again}");
    import("own-6.1", &["--force", "--distro", "me"]).expect(0);
    assert_eq!(listed(&env, "own-6.1")["distro"], "me");

    env.banger(["vm", "create", "--no-start", "--name", "v", "--kernel", "own-6.1"]).run().expect(0);
    // What is not here cannot be deleted; that a catalog has it is no help.
    for name in ["nope-1.0", "debian-9.9"] {
        let refused = env.banger(["kernel", "rm", "own-6.1", name]).run().expect(1);
        assert!(refused.err().contains(&format!("there is no kernel {name} on this host")), "{refused}");
        assert!(refused.err().contains("`banger kernel list`") && !refused.err().contains("pull"), "{refused}");
    }
    let refused = env.banger(["kernel", "rm", "own-6.1"]).run().expect(1);
    assert!(refused.err().contains("in use by VM v") && refused.err().contains("-f"), "{refused}");
    assert_eq!(listed(&env, "own-6.1")["used_by"], json!(["v"]));
    env.banger(["kernel", "rm", "-f", "own-6.1"]).run().expect(0);
    let gone = env.banger(["vm", "start", "v"]).run().expect(1);
    assert!(gone.err().contains("no kernel own-6.1 is here"), "{gone}");

    // The image recommends it, and that is a use too.
    let refused = env.banger(["kernel", "rm", "debian-6.1"]).run().expect(1);
    assert!(refused.err().contains("in use by image debian-bookworm"), "{refused}");
    env.banger(["kernel", "rm", "--force", "debian-6.1"]).run().expect(0);
    let row = listed(&env, "debian-6.1");
    assert_eq!((&row["pulled"], &row["download"]), (&false.into(), &Value::Null), "{row:#}");
    assert_eq!(row["source"], "apt linux-image-cloud-amd64 6.1", "{row:#}");
    let table = env.banger(["kernel", "list", "--available"]).run().expect(0).out();
    assert!(table.contains("by apt"), "why there is no size: {table}");
    let refused = env.banger(["kernel", "rm", "debian-6.1"]).run().expect(1);
    assert!(refused.err().contains("there is no kernel debian-6.1 on this host"), "{refused}");
    delete(&env, "v");
}

#[test]
fn what_is_no_kernel_is_refused_and_leaves_nothing() {
    let env = TestEnv::empty();
    let text = env.home().join("text");
    fs::write(&text, "no kernel at all").unwrap();
    fs::create_dir(env.home().join("empty")).unwrap();
    for (from, code, said) in [
        ("text", "invalid", "cannot import kernel x-1.0"),
        ("empty", "invalid", "no kernel image"),
        ("nowhere", "not_found", "nowhere"),
    ] {
        // A relative path is the caller's.
        let from = format!("../{from}");
        let out = env.banger(["kernel", "import", "x-1.0", "--from", &from, "--json"]).run().expect(1);
        let failure = out.json();
        assert_eq!(failure["code"], code, "{failure:#}");
        assert!(failure.to_string().contains(said), "{said}: {failure:#}");
        let hints = failure["hints"].to_string();
        assert_eq!(
            hints.contains("what can be imported") && hints.contains("bzImage"),
            code == "invalid",
            "{failure:#}"
        );
    }
    let out = env.banger(["kernel", "import", "../x", "--from", "x"]).run().expect(2);
    assert!(out.err().contains("kernel name"), "{out}");
    let out = env.banger(["kernel", "import", "x", "--from", "../text", "--distro", "a b"]).run().expect(1);
    assert!(out.err().contains("distribution"), "{out}");
    assert_eq!(fs::read_dir(env.layout().kernels()).unwrap().count(), 0);
    env.assert_nothing_left();
}

#[test]
fn a_damaged_kernel_is_listed_as_one_and_a_pull_or_import_mends_it() {
    let Some(env) = TestEnv::fake() else { return };
    let directory = env.layout().kernel(&"debian-6.1".parse().unwrap());
    let (vmlinux, kept) = (directory.join("vmlinux"), env.home().join("kept"));
    fs::copy(&vmlinux, &kept).unwrap();
    // Not through the hard link, which others share.
    fs::remove_file(&vmlinux).unwrap();
    fs::write(&vmlinux, "cut").unwrap();
    let row = listed(&env, "debian-6.1");
    assert!(row["problem"].as_str().is_some_and(|it| it.contains("not a kernel image")), "{row:#}");
    let table = env.banger(["kernel", "list"]).run().expect(0).out();
    assert!(table.contains("damaged"), "{table}");
    let show = env.banger(["kernel", "show", "debian-6.1"]).run().expect(0).out();
    assert!(show.contains("damaged") && show.contains("problem"), "{show}");
    let run = env.banger(["vm", "run", "--rm", "--", "true"]).run().expect(125);
    assert!(run.err().contains("kernel debian-6.1 is damaged") && run.err().contains("pull --force"), "{run}");
    let from = kept.to_str().unwrap();
    env.banger(["kernel", "import", "debian-6.1", "--from", from, "--force"]).patience(SOON).run().expect(0);
    assert_eq!(listed(&env, "debian-6.1")["problem"], Value::Null);
    env.assert_nothing_left();
}
