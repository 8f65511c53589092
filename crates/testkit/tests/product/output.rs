//! What scripts read: shapes that stay.

use crate::{SOON, delete, images::layout, start};
use banger_testkit::TestEnv;
use std::{collections::BTreeSet, fmt::Write as _};

/// Every key in a JSON value, dotted; the shape without the values.
fn shape(value: &serde_json::Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, value)| shape(value, &format!("{at}.{key}"), into));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| shape(value, &format!("{at}[]"), into)),
        _ => drop(into.insert(at.to_owned())),
    }
}

#[test]
fn json_keeps_its_fields() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "j");
    let mut shapes = String::new();
    for args in [
        &["vm", "show", "j"][..],
        &["vm", "list"],
        &["image", "list"],
        &["image", "show", "debian-bookworm"],
        &["kernel", "show", "debian-6.1"],
        &["kernel", "list"],
        &["image", "list", "--available"],
        &["kernel", "list", "--available"],
        &["config", "show"],
        &["version"],
        &["daemon", "status"],
        &["system", "df"],
        &["doctor"],
        &["vm", "stats", "j"],
        &["vm", "health", "j"],
        &["vm", "show", "j", "--egress"],
        // One that runs and one that does not, and what is done to them.
        &["vm", "create", "--no-start", "--name", "k"],
        &["vm", "run", "-d", "--name", "l", "-p", "0:80"],
        &["vm", "ports", "l"],
        &["vm", "publish", "l", "-p", "0:81"],
        &["vm", "set", "k", "--vcpu", "2"],
        &["vm", "start", "k"],
        &["vm", "restart", "k"],
        &["vm", "stop", "k"],
        &["vm", "prune", "-f"],
        &["vm", "delete", "-f", "l"],
    ] {
        let json = env.banger(args.iter().chain(&["--json"])).run().expect(0).json();
        let mut keys = BTreeSet::new();
        shape(&json, "", &mut keys);
        let _ = write!(shapes, "{}\n  {}\n", args.join(" "), keys.into_iter().collect::<Vec<_>>().join("\n  "));
    }
    insta::assert_snapshot!(shapes);
    delete(&env, "j");
}

/// Every step of a pull, by its kind: what each says.
fn shapes_of_events(events: &str) -> String {
    let mut kinds = std::collections::BTreeMap::<String, BTreeSet<String>>::new();
    for line in events.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect(line);
        let kind = event["event"].as_str().expect("a kind").to_owned();
        shape(&event, "", kinds.entry(kind).or_default());
    }
    // How far a phase is may be told, or not, before it is over.
    kinds.remove("advance");
    let lines = kinds
        .into_iter()
        .map(|(kind, keys)| format!("{kind}\n  {}\n", keys.into_iter().collect::<Vec<_>>().join("\n  ")));
    lines.collect()
}

#[test]
fn what_is_done_to_images_keeps_its_fields_and_its_events() {
    let env = TestEnv::empty();
    let source = layout(&env, "app", "x");
    let file = env.home().join("home/my.ext4");
    let mut shapes = String::new();
    let mut note = |args: &[&str]| {
        let out = env.banger(args.iter().chain(&["--json"])).patience(SOON).run().expect(0);
        let mut keys = BTreeSet::new();
        shape(&out.json(), "", &mut keys);
        let said = args.iter().map(|arg| if arg.contains('/') { "[PATH]" } else { arg });
        let said = said.collect::<Vec<_>>().join(" ");
        let _ = write!(shapes, "{said}\n  {}\n", keys.into_iter().collect::<Vec<_>>().join("\n  "));
        out
    };
    let pulled = note(&["image", "pull", &source, "--name", "app"]);
    let events = shapes_of_events(&pulled.err());
    let image = env.layout().images().join(pulled.json()["id"].as_str().expect("an id")).join("rootfs.ext4");
    std::fs::copy(image, &file).expect("a copy");
    // With a tail nobody uses it is another image.
    let copy = std::fs::OpenOptions::new().append(true).open(&file).expect("the copy");
    copy.set_len(copy.metadata().expect("its length").len() + 4096).expect("room for a tail");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("it is ours");
    let (file, bundle) = (file.to_string_lossy(), env.home().join("home/app.tar.zst"));
    note(&["image", "register", "--name", "my", "--rootfs", &file]);
    note(&["image", "promote", "my"]);
    note(&["image", "bundle", "app", "-o", &bundle.to_string_lossy()]);
    note(&["image", "cache", "prune", "--dry-run"]);
    note(&["image", "cache", "prune"]);
    note(&["image", "delete", "app", "my"]);
    insta::assert_snapshot!(format!("{shapes}\nevents\n\n{events}"));
    env.assert_nothing_left();
}

#[test]
fn tables_have_the_columns_of_the_contract() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "t");
    let head = |args: &[&str]| {
        let out = env.banger(args).run().expect(0).out();
        out.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(head(&["ps"]), "ID NAME STATE IMAGE VMM IP VCPU MEM DISK WORKSPACE AGE");
    let id = env.vm("t")["id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with(env.banger(["ps", "-q"]).run().expect(0).out().trim()));
    delete(&env, "t");
}

#[test]
fn a_group_without_a_command_shows_the_common_one_first() {
    let env = TestEnv::empty();
    for (group, first) in [
        (&[][..], "banger vm run --rm -- uname -a"),
        (&["vm"], "banger vm run --rm -- uname -a"),
        (&["image"], "banger image list"),
        (&["image", "cache"], "banger image cache prune"),
        (&["kernel"], "banger kernel list --available"),
        (&["vm", "workspace"], "banger vm run . --name fix"),
        (&["daemon"], "banger daemon status"),
        (&["system"], "banger system df"),
        (&["config"], "banger config show"),
    ] {
        let out = env.banger(group).run();
        assert!(matches!(out.code(), 0 | 2), "{out}");
        let text = format!("{}{}", out.out(), out.err());
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what:?}: {out}"));
        // Before everything else that can be typed: other examples, the usage, the list of commands.
        let command = place(&format!("  {first}"));
        let wanted = place("Most people want:");
        let example = text[wanted..].find("banger ").map(|any| wanted + any);
        assert_eq!(example, Some(command + 2), "{first} is not the first: {out}");
        assert!(command < place("Usage:") && command < place("Commands:"), "{out}");
    }
    assert!(env.daemon().is_none(), "help starts no daemon");
}
