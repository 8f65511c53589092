//! Pulls of images from a registry as they are seen, shared and disturbed.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{SOON, images::pull};
use banger_testkit::{Entry, ImageLayout, Private, Registry, Relay, TestEnv, require, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration};

/// Bytes of the large layer, and where a connection stops that does: in the middle of it.
const LAYER: usize = 3 << 20;
const HALF: u64 = 2 << 20;

/// A registry with `team/NAME:v1` for each name: a layer of bytes that do not compress, and a small one.
fn registry(env: &TestEnv, names: &[&str]) -> Registry {
    let registry = Registry::start(env.home(), "  # every request\n");
    for (number, name) in names.iter().enumerate() {
        let mut image = ImageLayout::new(&env.home().join("layout"));
        image.layer(&[], |layer| layer.add("noise", &Entry::FILE, noise(number as u64 + 1)));
        image.layer(&[], |layer| layer.add("name", &Entry::FILE, name));
        registry.push(&[], &image.finish(name, &json!({})), &format!("team/{name}:v1"));
    }
    registry
}

/// Bytes that do not compress.
fn noise(mut state: u64) -> Vec<u8> {
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u8::try_from(state >> 56).unwrap()
    };
    (0..LAYER).map(next).collect()
}

fn staged(env: &TestEnv) -> usize {
    let entries = fs::read_dir(env.layout().images()).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b".staging-")).count()
}

fn blob_requests(registry: &Registry, since: usize) -> Vec<String> {
    registry.requests()[since..].iter().filter(|line| line.contains("/blobs/")).cloned().collect()
}

#[test]
fn progress_on_a_terminal_in_plain_text_and_as_events() {
    if !require("registry") {
        return;
    }
    let env = TestEnv::empty();
    let registry = registry(&env, &[]);
    let mut image = ImageLayout::new(&env.home().join("layout"));
    for seed in [1, 2] {
        image.layer(&[], |layer| layer.add("noise", &Entry::FILE, noise(seed)));
    }
    registry.push(&[], &image.finish("pair", &json!({})), "team/pair:v1");
    let reference = registry.reference("team/pair:v1");
    let again = || {
        env.banger(["image", "delete", &reference]).run().expect(0);
        env.banger(["image", "cache", "prune"]).run().expect(0);
    };
    // Plain: one line a layer, and what became of the whole.
    let out = env.banger(["image", "pull", &reference]).patience(SOON).run().expect(0);
    assert_eq!(out.err().matches(": downloaded, ").count(), 2, "{out}");
    assert!(out.err().contains(&format!("pulled image {reference} in ")), "{out}");
    assert_eq!(out.out(), format!("{reference}\n"));
    // From the cache.
    env.banger(["image", "delete", &reference]).run().expect(0);
    let out = env.banger(["image", "pull", &reference]).patience(SOON).run().expect(0);
    assert_eq!(out.err().matches(": from the cache, ").count(), 2, "{out}");

    // Events: every layer waits, comes and is done, in that order; each line is one JSON object.
    again();
    let out = env.banger(["image", "pull", "--json", &reference]).patience(SOON).run().expect(0);
    let events: Vec<Value> = out.err().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut states = std::collections::BTreeMap::<String, Vec<String>>::new();
    for event in events.iter().filter(|event| event["event"] == "layer") {
        let text = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("{key} in {event}")).to_owned();
        let states = states.entry(text("layer")).or_default();
        if states.last() != Some(&text("state")) {
            states.push(text("state"));
        }
    }
    assert_eq!(states.len(), 2, "{events:#?}");
    for states in states.values() {
        assert_eq!(states, &["waiting", "downloading", "done"], "{events:#?}");
    }
    assert_eq!(out.json()["names"], json!([reference]));

    // A terminal: a bar each, while the layer is on its way.
    again();
    let (sender, receiver) = std::sync::mpsc::channel();
    let relay = Relay::stalling(registry.port(), HALF, move || sender.send(()).unwrap());
    let slow = format!("127.0.0.1:{}/team/pair:v1", relay.port());
    let mut terminal = env.banger(["image", "pull", &slow]).env("TERM", "xterm").spawn_on_terminal(100, 30);
    receiver.recv_timeout(SOON).unwrap();
    wait_until(SOON, "a bar for each layer", || {
        let screen = terminal.so_far();
        let is_bar = |line: &&str| line.contains(['█', '░', '#']) && line.contains("MiB/3");
        let lines: Vec<&str> = screen.split(['\r', '\n', '\u{1b}']).filter(is_bar).collect();
        let has_bar = |name: &String| lines.iter().any(|line| line.contains(name) && line.contains("downloading"));
        if states.keys().all(has_bar) { Ok(()) } else { Err(format!("{screen:?}")) }
    });
    terminal.type_in("\u{3}");
    terminal.finish(SOON).expect(130);
    wait_until(SOON * 3, "the end of the pull", || match staged(&env) {
        0 => Ok(()),
        staged => Err(format!("{staged} unfinished")),
    });
    // It is a process with this home in its arguments.
    drop(registry);
    env.assert_nothing_left();
}

#[test]
fn every_layer_of_an_image_that_has_many_is_told_of() {
    const LAYERS: usize = 120;
    let env = TestEnv::empty();
    let mut image = ImageLayout::new(&env.home().join("layout"));
    for number in 0..LAYERS {
        image.layer(&[], |layer| layer.add(format!("file-{number}"), &Entry::FILE, "x"));
    }
    let source = image.finish("many", &json!({}));
    let out = env.banger(["image", "pull", &source]).patience(SOON).run().expect(0);
    assert_eq!(out.err().matches(": local, ").count(), LAYERS, "{out}");
    env.banger(["image", "delete", "many"]).run().expect(0);
    let out = env.banger(["image", "pull", "--json", &source]).patience(SOON).run().expect(0);
    let events: Vec<Value> = out.err().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for state in ["waiting", "local", "done"] {
        let layers = events.iter().filter(|event| event["state"] == state).map(|event| event["layer"].to_string());
        let told: std::collections::BTreeSet<String> = layers.collect();
        assert_eq!(told.len(), LAYERS, "{state}: {told:?}");
    }
    env.assert_nothing_left();
}

#[test]
fn two_of_one_download_once_and_two_of_different_ones_come_together() {
    if !require("registry") {
        return;
    }
    let env = TestEnv::empty();
    let registry = registry(&env, &["one", "two", "three"]);
    // Neither can end before both have begun: each connection stops in the middle of its layer.
    let relay = Relay::stalling(registry.port(), HALF, || ());
    let through = |name: &str| format!("127.0.0.1:{}/team/{name}:v1", relay.port());
    let pulls = [through("one"), through("two")].map(|reference| env.banger(["image", "pull", &reference]).spawn());
    wait_until(SOON, "two pulls at work", || match staged(&env) {
        2 => Ok(()),
        staged => Err(format!("{staged} at work")),
    });
    for pull in pulls {
        pull.signal(Signal::INT);
        let out = pull.finish(SOON).expect(130);
        assert!(out.err().contains("unless 'banger image list' shows the image, nothing of it is kept"), "{out}");
    }
    wait_until(SOON * 3, "the end of both", || match staged(&env) {
        0 => Ok(()),
        staged => Err(format!("{staged} at work")),
    });

    // Another image: a layer that came whole before its pull was cancelled is in the cache.
    // It goes on when all that want it are known to be told how far it is.
    let (relay, hold) = Relay::holding(registry.port(), HALF);
    let reference = format!("127.0.0.1:{}/team/three:v1", relay.port());
    let before = registry.requests().len();
    let pulls = [(); 4].map(|()| env.banger(["image", "pull", "--json", &reference]).spawn());
    for pull in &pulls {
        pull.wait_stderr("getting 2 layers of", SOON);
    }
    drop(hold);
    let ids = pulls.map(|pull| pull.finish(SOON).expect(0).json()["id"].clone());
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
    // Its configuration and its two layers, each once. The registry writes a request down after it was answered: those
    // of the two that were interrupted may come late.
    let blobs = || {
        let requests = blob_requests(&registry, before).into_iter();
        requests.filter(|line| line.contains("/team/three/")).collect::<Vec<_>>()
    };
    wait_until(SOON, "three blobs in the registry's log", || match blobs().len() {
        3.. => Ok(()),
        fewer => Err(format!("{fewer} so far")),
    });
    // What is here already costs its manifest.
    pull(&env, &[&reference]);
    assert_eq!(blobs().len(), 3, "{:#?}", blobs());
    // It is a process with this home in its arguments.
    drop(registry);
    env.assert_nothing_left();
}

#[test]
fn a_daemon_killed_in_the_middle_leaves_nothing_a_retry_minds() {
    if !require("registry") {
        return;
    }
    let env = TestEnv::empty();
    let registry = registry(&env, &["app"]);
    let (sender, receiver) = std::sync::mpsc::channel();
    let relay = Relay::stalling(registry.port(), HALF, move || sender.send(()).unwrap());
    let first = env.banger(["image", "pull", &format!("127.0.0.1:{}/team/app:v1", relay.port())]).spawn();
    receiver.recv_timeout(SOON).unwrap();
    // A prune beside it takes nothing from it.
    env.banger(["image", "cache", "prune"]).run().expect(0);
    assert_eq!(staged(&env), 1);
    let daemon = env.daemon().unwrap();
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(Duration::from_secs(10));
    first.finish(SOON).expect(1);
    assert_eq!(env.banger(["image", "list", "--json"]).run().expect(0).json(), json!([]));
    wait_until(SOON, "the next daemon to sweep what the killed one left", || match staged(&env) {
        0 => Ok(()),
        left => Err(left.to_string()),
    });
    let reference = registry.reference("team/app:v1");
    assert_eq!(pull(&env, &[&reference])["names"], json!([reference]));
    // It is a process with this home in its arguments.
    drop(registry);
    env.assert_nothing_left();
}

#[test]
fn a_private_registry_with_the_logins_of_docker_and_podman() {
    if !require("registry") || !require("openssl") {
        return;
    }
    let env = TestEnv::empty();
    let home = env.home().join("home");
    let own = Private::make(env.home());
    let registry = Registry::start(env.home(), &own.configuration());
    let mut image = ImageLayout::new(&env.home().join("layout"));
    image.layer(&[], |layer| layer.add("private", &Entry::FILE, "yes"));
    registry.push(&["--dest-creds", Private::LOGIN], &image.finish("v1", &json!({})), "team/app:v1");
    let reference = registry.reference("team/app:v1");
    let host = format!("127.0.0.1:{}", registry.port());
    // The other is that of "me:wrong".
    let (right, wrong) = (Private::AUTH, "bWU6d3Jvbmc=");
    let login = |file: &Path, auth: &str| {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, json!({"auths": {&host: {"auth": auth}}}).to_string()).unwrap();
    };
    let refused = |env: &TestEnv, said: &str| {
        let out = env.banger(["image", "pull", &reference]).patience(SOON).run().expect(1);
        assert!(out.err().contains(said), "{said}: {out}");
        assert!(!out.err().contains("wrong") && !out.err().contains(wrong), "a password: {out}");
    };
    let pulled = |env: &TestEnv| {
        assert_eq!(pull(env, &[&reference])["names"], json!([reference]));
        env.banger(["image", "delete", &reference]).run().expect(0);
    };

    // Its authority as Docker has it, then as Podman does; nobody is asked for a password before.
    let docker = home.join(".docker/certs.d").join(&host);
    fs::create_dir_all(&docker).unwrap();
    fs::write(docker.join("ca.crt"), "").unwrap();
    refused(&env, "cannot trust 127.0.0.1");
    fs::remove_dir_all(&docker).unwrap();
    let podman = home.join(".config/containers/certs.d").join(&host);
    fs::create_dir_all(&podman).unwrap();
    fs::copy(&own.certificate, podman.join("ca.crt")).unwrap();
    refused(&env, &format!("docker login {host}"));

    // What is written there counts from the next pull on.
    login(&home.join(".docker/config.json"), right);
    pulled(&env);
    // Podman's own goes before Docker's.
    login(&home.join(".config/containers/auth.json"), wrong);
    refused(&env, "to these credentials");
    // And what the environment of a command names goes before both, for that command.
    let (named, docker) = (env.home().join("logins.json"), env.home().join("docker"));
    login(&named, right);
    login(&docker.join("config.json"), right);
    let with = |variable: &str, value: &Path| {
        env.banger(["image", "pull", &reference]).env(variable, value).patience(SOON).run()
    };
    for (variable, value) in [("REGISTRY_AUTH_FILE", &named), ("DOCKER_CONFIG", &docker)] {
        with(variable, value).expect(0);
        env.banger(["image", "delete", &reference]).run().expect(0);
        refused(&env, "to these credentials");
    }
    // No other file counts then.
    fs::remove_file(home.join(".config/containers/auth.json")).unwrap();
    for (variable, value) in [("DOCKER_CONFIG", home.as_path()), ("REGISTRY_AUTH_FILE", Path::new("/dev/null"))] {
        let nobody = with(variable, value).expect(1);
        assert!(nobody.err().contains(&format!("docker login {host}")), "{nobody}");
    }
    login(&docker.join("config.json"), wrong);
    let args = ["vm", "create", "--no-start", "--image", &reference];
    let denied = env.banger(args).env("DOCKER_CONFIG", &docker).patience(SOON).run().expect(1);
    assert!(denied.err().contains("to these credentials"), "{denied}");
    pulled(&env);
    // What was set for the command that started the daemon counts for no later one.
    login(&home.join(".docker/config.json"), wrong);
    env.banger(["daemon", "stop"]).run().expect(0);
    with("REGISTRY_AUTH_FILE", &named).expect(0);
    env.banger(["image", "delete", &reference]).run().expect(0);
    refused(&env, "to these credentials");
    // It is a process with this home in its arguments.
    drop(registry);
    env.assert_nothing_left();
}

#[test]
fn twenty_vms_of_one_image_use_one_file() {
    const VMS: usize = 20;
    let Some(env) = TestEnv::fake() else { return };
    let names: Vec<String> = (0..VMS).map(|number| format!("v{number}")).collect();
    for name in &names {
        crate::start(&env, name);
    }
    let mut images: Vec<String> = names
        .iter()
        .map(|name| {
            let id = env.vm(name)["id"].as_str().unwrap().to_owned();
            let plan = fs::read(env.layout().vms().join(id).join("launch.json")).unwrap();
            let plan: Value = serde_json::from_slice(&plan).unwrap();
            plan["disks"][0]["path"].as_str().unwrap_or_else(|| panic!("an image in {plan:#}")).to_owned()
        })
        .collect();
    images.dedup();
    assert_eq!(images.len(), 1, "{images:#?}");
    // And none has a copy of it: what all of them have together is less than one image.
    let image = fs::metadata(&images[0]).unwrap();
    let used: u64 = walk(&env.layout().vms());
    assert!(used < image.len(), "{used} bytes of {VMS} VMs, {} of the image", image.len());
    let refused = env.banger(["image", "delete", "debian-bookworm"]).run().expect(1);
    assert!(refused.err().contains("in use by"), "{refused}");
    env.banger(["vm", "delete", "-f"].into_iter().chain(names.iter().map(String::as_str))).run().expect(0);
    env.assert_nothing_left();
}

/// Bytes on the disk below a directory.
fn walk(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => walk(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
