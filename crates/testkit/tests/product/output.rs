//! What scripts read: shapes that stay.

use crate::{delete, start};
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
