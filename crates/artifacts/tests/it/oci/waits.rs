//! Tests of pulls that wait for another process's pull, and report it.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    layers::Layer,
    registry::{Content, Host, digest, reference},
    sources::{bundle, entry, one_image, pull},
};
use crate::{sha256, web::Server};
use banger_artifacts::job::{Job, Progress, Silent};
use banger_proto::name::ImageId;
use std::{
    fs,
    io::Write as _,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Gate that opens once another pull waits for the one it stops.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Waits for the gate; false if nobody opens it.
    fn passed(&self) -> bool {
        let (open, changed) = &*self.0;
        let open = open.lock().unwrap();
        *changed.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap().0
    }
}

impl Progress for Gate {
    fn phase(&self, what: &str) {
        if what.starts_with("waiting for another pull of this ") {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_all();
        }
    }

    fn advance(&self, _done: u64, _total: Option<u64>) {}
}

#[test]
fn who_waits_for_another_pull_of_the_same_image_is_told() {
    let content = Content::default();
    let layer = Layer::new().file("a", "a").done();
    let image = content.plain("v1", std::slice::from_ref(&layer));
    let (gate, slow) = (Gate::default(), digest(&layer));
    let (asked, is_asked) = std::sync::mpsc::channel();
    let passing = gate.clone();
    let server = Server::start(move |request| {
        if request.path.contains(&slow) {
            asked.send(()).unwrap();
            assert!(passing.passed(), "nobody is told to wait");
        }
        content.answer(request)
    });
    let host = Host::new();
    std::thread::scope(|scope| {
        let one = scope.spawn(|| host.image(&reference(&server, "v1")));
        is_asked.recv_timeout(PATIENCE).unwrap();
        let pinned = format!("127.0.0.1:{}/app@{image}", server.port());
        let two = host.pull_watched(&pinned, &gate).unwrap();
        assert!(two.known && two.image.manifest.id == one.join().unwrap().manifest.id);
    });
    assert!(gate.passed());
}

#[test]
fn who_waits_for_another_pull_of_the_same_bundle_is_told() {
    let (content, _) = one_image();
    let registry = content.serve();
    let (host, gate) = (Host::new(), Gate::default());
    let file = host.dir.path().join("app.tar.zst");
    let image = host.image(&reference(&registry, "v1"));
    host.store.bundle(&image.manifest.id, &file, &Job { progress: &Silent, cancel: &host.cancel }).unwrap();
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    let bytes = fs::read(&file).unwrap();
    let (asked, is_asked) = std::sync::mpsc::channel();
    let (passing, answer) = (gate.clone(), crate::web::ok(&bytes));
    let server = Server::start(move |mut request| {
        asked.send(()).unwrap();
        assert!(passing.passed(), "nobody is told to wait");
        request.stream.write_all(&answer)
    });
    let offered = entry(&[bundle(&server, &sha256(&bytes), bytes.len())]);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| pull(&host, &offered).unwrap());
        is_asked.recv_timeout(PATIENCE).unwrap();
        let job = Job { progress: &gate, cancel: &host.cancel };
        let two = host.store.pull(&offered, &host.registries, &|_: &ImageId| Ok(false), &job).unwrap();
        assert_eq!(two.manifest.id, one.join().unwrap().manifest.id);
    });
    assert!(gate.passed() && server.hits() == 1);
}
