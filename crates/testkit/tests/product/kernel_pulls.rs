//! Pulls that are disturbed: by a second one, by a removal, by Ctrl-C, by a daemon that is killed.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{SOON, kernels::pack};
use banger_testkit::{Session, TestEnv, require, wait_until};
use rustix::process::Signal;
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

const NAME: &str = "mine-6.1";

/// Serves one bundle: each answer stops halfway until the gate is open.
struct SlowServer {
    port: u16,
    hits: Arc<AtomicUsize>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl SlowServer {
    fn start(bundle: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            hits: Arc::default(),
            gate: Arc::new((Mutex::new(false), Condvar::new())),
        };
        let (hits, gate, bundle) = (server.hits.clone(), server.gate.clone(), Arc::new(bundle));
        // It ends with the test's process: nothing but the test knows its port.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hits, gate, bundle) = (hits.clone(), gate.clone(), bundle.clone());
                std::thread::spawn(move || answer(stream, &bundle, &hits, &gate));
            }
        });
        server
    }

    fn open(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    fn close(&self) {
        *self.gate.0.lock().unwrap() = false;
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// A client that goes away in between is what some of these tests are about.
fn answer(mut stream: TcpStream, bundle: &[u8], hits: &AtomicUsize, gate: &(Mutex<bool>, Condvar)) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    let (first, second) = bundle.split_at(bundle.len() / 2);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bundle.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(first));
    hits.fetch_add(1, Ordering::SeqCst);
    let opened = gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap();
    drop(opened);
    let _ = stream.write_all(second);
}

/// A home whose catalog offers the real kernel's image as a bundle of that server.
fn furnished() -> Option<(TestEnv, SlowServer)> {
    if !require("scripts") {
        return None;
    }
    let env = TestEnv::fake()?;
    let bundle = env.home().join("bundle");
    let (sha256, size) = pack(&env, &bundle);
    let bundle = fs::read(bundle).unwrap();
    let server = SlowServer::start(bundle);
    let url = format!("http://127.0.0.1:{}/bundle", server.port);
    let catalog = env.home().join("catalog.json");
    let entry = serde_json::json!({"name": NAME, "distro": "mine", "arch": "x86_64", "kernel_version": "6.1",
        "sources": [{"type": "bundle", "url": url, "sha256": sha256, "size": size}]});
    fs::write(&catalog, serde_json::json!({"version": 1, "entries": [entry]}).to_string()).unwrap();
    env.configure_also(&format!("[[kernel_catalog]]\npath = \"{}\"\n", catalog.display()));
    Some((env, server))
}

fn pull(env: &TestEnv) -> Session {
    env.banger(["kernel", "pull", NAME]).spawn()
}

/// Waits until a pull hangs in the middle of the bundle.
fn halfway(env: &TestEnv, server: &SlowServer, hits: usize) {
    wait_until(SOON, "half a bundle", || {
        let stored = stored(env);
        let staged = stored.iter().any(|name| name.starts_with(".staging-"));
        if staged && server.hits() == hits { Ok(()) } else { Err(format!("{} hits, {stored:?}", server.hits())) }
    });
}

/// What is in the directory of kernels, hidden files too, but for locks: a killed holder's file excludes nobody.
fn stored(env: &TestEnv) -> Vec<String> {
    let entries = fs::read_dir(env.layout().kernels()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with(".lock-")).collect();
    names.sort();
    names
}

/// The kernel is there, whole, and nothing else besides the one that was.
#[track_caller]
fn whole(env: &TestEnv) {
    let kernel = env.banger(["kernel", "show", NAME, "--json"]).run().expect(0).json();
    assert_eq!((&kernel["pulled"], &kernel["modified"]), (&true.into(), &false.into()), "{kernel:#}");
    assert_eq!(stored(env), ["debian-6.1", NAME]);
}

#[test]
fn two_at_once_are_one_download_and_a_removal_waits_for_it() {
    let Some((env, server)) = furnished() else { return };
    let pulls = [pull(&env), pull(&env)];
    halfway(&env, &server, 1);
    for pull in &pulls {
        pull.wait_stderr("downloading", SOON);
    }
    server.open();
    for pull in pulls {
        assert_eq!(pull.finish(SOON).expect(0).out(), format!("{NAME}\n"));
    }
    assert_eq!(server.hits(), 1);
    whole(&env);

    // A removal in the midst of a pull waits for it, says so, and then takes away what was pulled.
    server.close();
    let again = env.banger(["kernel", "pull", "--force", NAME]).spawn();
    halfway(&env, &server, 2);
    let removal = env.banger(["kernel", "rm", NAME]).spawn();
    removal.wait_stderr("waiting for somebody else's work on kernel", SOON);
    server.open();
    again.finish(SOON).expect(0);
    assert_eq!(removal.finish(SOON).expect(0).out(), format!("{NAME}\n"));
    assert_eq!(stored(&env), ["debian-6.1"]);
    env.banger(["kernel", "pull", NAME]).run().expect(0);

    // A removal beside a pull: whichever comes first, the other one finds a whole kernel or none.
    let again = env.banger(["kernel", "pull", "--force", NAME]).spawn();
    let removal = env.banger(["kernel", "rm", NAME]).spawn();
    assert!([0, 1].contains(&removal.finish(SOON).code()));
    again.finish(SOON).expect(0);
    env.banger(["kernel", "pull", NAME]).run().expect(0);
    whole(&env);
    env.assert_nothing_left();
}

#[test]
fn an_interrupt_leaves_nothing() {
    let Some((env, server)) = furnished() else { return };
    let pull = pull(&env);
    halfway(&env, &server, 1);
    pull.signal(Signal::INT);
    let out = pull.finish(SOON).expect(130);
    assert!(out.err().contains("nothing of it is kept"), "{out}");
    wait_until(SOON, "the end of the pull", || {
        let stored = stored(&env);
        if stored == ["debian-6.1"] { Ok(()) } else { Err(format!("{stored:?}")) }
    });
    env.assert_nothing_left();
}

#[test]
fn an_interrupt_while_an_images_kernel_comes_says_where_the_image_is() {
    let Some((env, server)) = furnished() else { return };
    let image = crate::images::layout(&env, "app", "1");
    let pull = env.banger(["image", "pull", &image, "--name", "app", "--kernel", NAME]).spawn();
    halfway(&env, &server, 1);
    pull.signal(Signal::INT);
    let out = pull.finish(SOON).expect(130);
    assert!(out.err().contains("unless 'banger image list' shows the image"), "{out}");
    // It does: it lacks its name, and nothing else.
    let images = env.banger(["image", "list", "--json"]).run().expect(0).json();
    let nameless = images.as_array().unwrap().iter().filter(|image| image["names"] == serde_json::json!([])).count();
    assert_eq!(nameless, 1, "{images:#}");
    server.open();
    let again = env.banger(["image", "pull", &image, "--name", "app", "--kernel", NAME]).patience(SOON).run().expect(0);
    assert!(again.err().contains("image app is up to date"), "{again}");
    whole(&env);
    env.assert_nothing_left();
}

#[test]
fn a_daemon_that_is_killed_leaves_nothing_a_retry_minds() {
    let Some((env, server)) = furnished() else { return };
    let first = pull(&env);
    halfway(&env, &server, 1);
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(Duration::from_secs(10));
    let out = first.finish(SOON).expect(1);
    assert!(out.err().contains("error: "), "{out}");
    server.open();
    let listed = env.banger(["kernel", "list", "--json"]).run().expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed:#}");
    wait_until(SOON, "the next daemon to sweep what the killed one left", || {
        let stored = stored(&env);
        if stored == ["debian-6.1"] { Ok(()) } else { Err(format!("{stored:?}")) }
    });
    env.banger(["kernel", "pull", NAME]).run().expect(0);
    assert_eq!(server.hits(), 2);
    whole(&env);
    env.assert_nothing_left();
}

#[test]
fn a_catalogs_image_brings_its_kernel_along() {
    let Some((env, server)) = furnished() else { return };
    server.open();
    // Entries that offer what is here already, so that only the kernel is to be had, of an image that recommends none.
    let image = fs::read_dir(env.layout().images()).unwrap().next().unwrap().unwrap().path();
    let file = image.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove("kernel").unwrap();
    // It has a link elsewhere.
    fs::remove_file(&file).unwrap();
    fs::write(&file, manifest.to_string()).unwrap();
    let offer = |name: &str, kernel: &str| serde_json::json!({"name": name, "arch": "x86_64", "kernel": kernel, "sources": [manifest["source"]]});
    let catalog = env.home().join("images.json");
    let offers = |entries: &[serde_json::Value]| {
        fs::write(&catalog, serde_json::json!({"version": 1, "entries": entries}).to_string()).unwrap();
    };
    offers(&[offer("along", "nope-1.0")]);
    env.configure_also(&format!("[[image_catalog]]\npath = \"{}\"\n", catalog.display()));
    // It is another entry's too: that there is no such kernel does not matter.
    let kept = env.banger(["image", "pull", "along"]).patience(SOON).run().expect(0);
    assert!(kept.err().contains("what it recommends stays: no kernel, where"), "{kept}");
    env.banger(["image", "delete", "debian-bookworm"]).run().expect(0);
    let refused = env.banger(["image", "pull", "along"]).patience(SOON).run().expect(1);
    assert!(refused.err().contains("no kernel nope-1.0"), "{refused}");
    offers(&[offer("along", NAME), offer("alone", "nope-1.0")]);
    let out = env.banger(["image", "pull", "along"]).patience(SOON).run().expect(0);
    assert!(out.err().contains(&format!("pulled kernel {NAME} in ")), "{out}");
    assert!(stored(&env).contains(&NAME.to_owned()));
    assert_eq!(server.hits(), 1);
    env.banger(["image", "pull", "along"]).patience(SOON).run().expect(0);
    assert_eq!(server.hits(), 1);
    // What it recommends by now stays, and another entry's kernel is not even asked for.
    let kept = env.banger(["image", "pull", "alone"]).patience(SOON).run().expect(0);
    assert!(kept.err().contains(&format!("what it recommends stays: kernel {NAME}")), "{kept}");

    // What the image says itself counts where the entry names none. Nobody promised that it can be had.
    offers(&[serde_json::json!({"name": "along", "arch": "x86_64", "sources": [manifest["source"]]})]);
    env.banger(["kernel", "rm", "-f", NAME]).run().expect(0);
    let back = env.banger(["image", "pull", "along"]).patience(SOON).run().expect(0);
    assert!(back.err().contains(&format!("pulled kernel {NAME} in ")), "{back}");
    env.banger(["kernel", "rm", "-f", NAME]).run().expect(0);
    let nothing = serde_json::json!({"version": 1, "entries": []}).to_string();
    fs::write(env.home().join("catalog.json"), nothing).unwrap();
    let alone = env.banger(["image", "pull", "along"]).patience(SOON).run().expect(0);
    assert!(alone.err().contains(&format!("recommends kernel {NAME}, which is not here and in no catalog")), "{alone}");
    env.assert_nothing_left();
}
