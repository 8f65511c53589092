//! Tests of broken connections, stalled servers and cancelled pulls.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    layers::{Layer, gzip},
    registry::{Content, Host, OCI_LAYER, digest, names, reference},
};
use crate::{ext4::Image, web::Server};
use banger_artifacts::job::Progress;
use serde_json::Value;
use std::{
    io::Write as _,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Timeout of a step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns incompressible bytes, so that a layer of them keeps its length.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u8::try_from(state >> 56).unwrap()
        })
        .collect()
}

fn image(content: &Content) -> (String, Vec<u8>) {
    let plain = Layer::new().file("noise", noise(900_000)).done();
    let packed = gzip(&plain);
    content.image("v1", &[(plain, packed.clone(), &format!("{OCI_LAYER}+gzip"))], &Value::Null);
    (format!("/v2/app/blobs/{}", digest(&packed)), packed)
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    for ranges in [true, false] {
        let content = Content::default();
        let (path, packed) = image(&content);
        let tries = Arc::new(AtomicUsize::new(0));
        let counter = tries.clone();
        let server = Server::start(move |mut request| {
            if request.path != path {
                return content.answer(request);
            }
            let part = counter.fetch_add(1, Ordering::SeqCst);
            let third = packed.len() / 3;
            let (from, to) = if ranges { (part * third, (part + 1) * third) } else { (0, (part + 1) * third) };
            let to = if part >= 3 { packed.len() } else { to };
            let head = if from > 0 {
                let range = format!("bytes {from}-{}/{}", packed.len() - 1, packed.len());
                format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Range: {range}\r\nContent-Length: {}\r\n\r\n",
                    packed.len() - from
                )
            } else {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", packed.len())
            };
            request.stream.write_all(head.as_bytes())?;
            request.stream.write_all(&packed[from..to])
        });
        let host = Host::new();
        let pulled = host.image(&reference(&server, "v1"));
        assert_eq!(Image::open(&pulled.rootfs).read("/noise"), noise(900_000));
        assert_eq!(tries.load(Ordering::SeqCst), 4);
        let asked: Vec<String> = server
            .heads()
            .iter()
            .filter_map(|head| Some(head.to_lowercase().split("range: bytes=").nth(1)?.split('-').next()?.to_owned()))
            .collect();
        assert_eq!(asked.len(), 3, "each further attempt says where it goes on: {asked:?}");
    }
}

#[test]
fn a_registry_that_is_busy_is_asked_again_and_one_that_stays_so_is_not() {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done()]);
    let busy = |times: usize| {
        let content = content.clone();
        Server::start(move |mut request| {
            if request.number < times {
                return request.stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
            }
            content.answer(request)
        })
    };
    let server = busy(2);
    Host::new().image(&reference(&server, "v1"));
    let server = busy(usize::MAX);
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains("503"), "{refusal}");
    assert_eq!(server.hits(), 4);
}

#[test]
fn a_registry_that_says_when_to_come_again_is_asked_no_sooner() {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done()]);
    let refused = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let server = Server::start(move |mut request| {
        let kind = usize::from(content.is_layer(&request.path));
        // Once for the manifest, once for the layer.
        if refused[kind].fetch_add(1, Ordering::SeqCst) == 0 {
            let status = ["429 Too Many Requests", "503 Service Unavailable"][kind];
            let busy = format!("HTTP/1.1 {status}\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
            return request.stream.write_all(busy.as_bytes());
        }
        content.answer(request)
    });
    let (host, began) = (Host::new(), Instant::now());
    host.image(&reference(&server, "v1"));
    // Without being told it would be a millisecond and a fifth of a second.
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    let lines = host.recorder.0.lock().unwrap();
    let notices: Vec<&String> = lines.iter().filter(|line| line.starts_with("notice: ")).collect();
    let again = format!("notice: 127.0.0.1:{} is asked again in 1 s: ", server.port());
    assert!(notices.iter().all(|line| line.starts_with(&again)), "{notices:?}");
    let [manifest, layer] = notices[..] else { panic!("{notices:?}") };
    assert!(manifest.contains("too many requests") && layer.contains("answers 503"), "{notices:?}");
}

#[test]
fn a_registry_that_gives_a_byte_a_connection_is_left() {
    let content = Content::default();
    let (path, packed) = image(&content);
    let (size, blob) = (packed.len(), path.clone());
    let server = Server::start_with_heads(move |mut request, head| {
        if request.path != blob {
            return content.answer(request);
        }
        let from =
            head.to_lowercase().split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse().ok());
        let from: usize = from.unwrap_or_default();
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Range: bytes {from}-{}/{size}\r\nContent-Length: {}\r\n\r\n",
            size - 1,
            size - from
        );
        request.stream.write_all(answer.as_bytes())?;
        request.stream.write_all(&packed[from..=from])
    });
    let refusal = Host::new().refusal(&reference(&server, "v1"));
    assert!(refusal.contains("layer 1 of 1") && refusal.contains("stopped after"), "{refusal}");
    let asked = server.heads().iter().filter(|head| head.contains(&path)).count();
    assert_eq!(asked, 5, "an attempt that brings next to nothing is one that failed");
}

#[test]
fn a_pull_that_is_cancelled_leaves_nothing() {
    let content = Content::default();
    let (path, packed) = image(&content);
    let host = Arc::new(Host::new());
    let cancel = host.cancel.clone();
    let server = Server::start(move |mut request| {
        if request.path != path {
            return content.answer(request);
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", packed.len());
        request.stream.write_all(head.as_bytes())?;
        request.stream.write_all(&packed[..1000])?;
        cancel.cancel();
        request.stall()
    });
    let error = host.pull(&reference(&server, "v1")).unwrap_err();
    assert!(error.is_cancelled(), "{error:?}");
    host.nothing_left();
}

#[test]
fn a_damaged_cache_costs_a_download() {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done(), Layer::new().file("b", "b").done()]);
    let server = content.serve();
    let host = Host::new();
    let id = host.image(&reference(&server, "v1")).manifest.id;
    let blobs = host.dir.path().join("blobs");
    let layers = names(&blobs);
    let flip = |layer: &str, at: usize| {
        let path = blobs.join(layer);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    // In a file, where only the digest shows it, and in a header, where the archive seems to be damaged.
    flip(&layers[0], 600);
    flip(&layers[1], 10);
    host.store.delete(&id, &host.cancel).unwrap();
    let before = server.heads().len();
    assert_eq!(host.image(&reference(&server, "v1")).manifest.id, id);
    let again = server.heads()[before..].iter().filter(|head| layers.iter().any(|layer| head.contains(layer))).count();
    assert_eq!(again, 2, "both came anew, and once");
    let is = |layer: &String| digest(&std::fs::read(blobs.join(layer)).unwrap());
    assert!(layers.iter().all(|layer| is(layer) == format!("sha256:{layer}")));
}

/// Opens when a pull has reported that it waits for another.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn pass(&self) {
        let outcome = self.1.wait_timeout_while(self.0.lock().unwrap(), PATIENCE, |open| !*open).unwrap();
        assert!(!outcome.1.timed_out(), "no pull waits for another");
    }
}

impl Progress for Gate {
    fn phase(&self, what: &str) {
        if what.contains("waiting for another pull") {
            *self.0.lock().unwrap() = true;
            self.1.notify_all();
        }
    }

    fn advance(&self, _: u64, _: Option<u64>) {}
}

#[test]
fn two_at_once_download_once() {
    let content = Content::default();
    let (path, _) = image(&content);
    // The layer comes once the other pull has said that it waits for this one.
    let gate = Arc::new(Gate::default());
    let (opened, blob, stored) = (gate.clone(), path.clone(), content.clone());
    let server = Server::start(move |request| {
        if request.path == blob {
            opened.pass();
        }
        stored.answer(request)
    });
    let host = Host::new();
    let source = reference(&server, "v1");
    let (one, two) = std::thread::scope(|scope| {
        let pull = || host.pull_watched(&source, &*gate).unwrap().image;
        let (one, two) = (scope.spawn(pull), scope.spawn(pull));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(one, two);
    assert_eq!(server.heads().iter().filter(|head| head.contains(&path)).count(), 1);
}
