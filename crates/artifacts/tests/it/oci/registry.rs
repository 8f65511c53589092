//! Registry in memory, and images in it.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use crate::{
    sha256,
    web::{Request, Server},
};
use banger_artifacts::{
    fetch::Client,
    image::{Image, ImageError, ImageStore, PullRequest, Pulled},
    job::{Cancel, Job, Part, Progress},
    oci::{BlobCache, Credentials, ImageSource, Limits, Platform, Registries},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Contents of a registry, by path below `/v2/app/`.
#[derive(Clone, Default)]
pub(super) struct Content(Arc<Mutex<HashMap<String, Stored>>>);

/// Media type and bytes.
type Stored = (String, Vec<u8>);

pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

impl Content {
    pub(super) fn put(&self, path: &str, kind: &str, bytes: &[u8]) {
        self.0.lock().unwrap().insert(path.to_owned(), (kind.to_owned(), bytes.to_vec()));
    }

    pub(super) fn get(&self, path: &str) -> Option<Stored> {
        self.0.lock().unwrap().get(path).cloned()
    }

    pub(super) fn blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.put(&format!("blobs/{digest}"), "application/octet-stream", bytes);
        digest
    }

    /// Adds an image of these layers: (decompressed, as stored, media type). Returns the manifest's digest.
    pub(super) fn image(&self, tag: &str, layers: &[(Vec<u8>, Vec<u8>, &str)], run: &Value) -> String {
        let diff_ids: Vec<String> = layers.iter().map(|(plain, ..)| digest(plain)).collect();
        let config = json!({"os": "linux", "architecture": "amd64", "config": run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let layers: Vec<Value> = layers
            .iter()
            .map(|(_, packed, kind)| json!({"mediaType": kind, "digest": self.blob(packed), "size": packed.len()}))
            .collect();
        self.manifest(tag, &config, &layers)
    }

    pub(super) fn manifest(&self, tag: &str, config: &Value, layers: &[Value]) -> String {
        let config = config.to_string().into_bytes();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "layers": layers, "config":
            {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(&config), "size": config.len()}});
        self.document(tag, kind, &manifest)
    }

    pub(super) fn document(&self, tag: &str, kind: &str, document: &Value) -> String {
        let bytes = document.to_string().into_bytes();
        let digest = digest(&bytes);
        self.put(&format!("manifests/{tag}"), kind, &bytes);
        self.put(&format!("manifests/{digest}"), kind, &bytes);
        digest
    }

    /// Whether a request is for a layer, and not for a configuration.
    pub(super) fn is_layer(&self, path: &str) -> bool {
        let stored = path.strip_prefix("/v2/app/").and_then(|path| self.get(path));
        path.contains("/blobs/") && stored.is_some_and(|(_, bytes)| !bytes.starts_with(b"{"))
    }

    /// Adds an image of uncompressed layers.
    pub(super) fn plain(&self, tag: &str, layers: &[Vec<u8>]) -> String {
        let layers: Vec<_> = layers.iter().map(|layer| (layer.clone(), layer.clone(), OCI_LAYER)).collect();
        self.image(tag, &layers, &Value::Null)
    }

    pub(super) fn serve(&self) -> Server {
        let content = self.clone();
        Server::start(move |request| content.answer(request))
    }

    pub(super) fn answer(&self, mut request: Request) -> io::Result<()> {
        let Some((kind, bytes)) = request.path.strip_prefix("/v2/app/").and_then(|path| self.get(path)) else {
            return request.stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno");
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", bytes.len());
        request.stream.write_all(head.as_bytes())?;
        request.stream.write_all(&bytes)
    }
}

/// Progress as a list of lines.
#[derive(Default)]
pub(super) struct Recorder(pub(super) Mutex<Vec<String>>);

impl Progress for Recorder {
    fn phase(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }

    fn advance(&self, _done: u64, _total: Option<u64>) {}

    fn part(&self, part: &Part<'_>) {
        self.0.lock().unwrap().push(format!("{} {:?}", part.name, part.state));
    }

    fn notice(&self, text: &str) {
        self.0.lock().unwrap().push(format!("notice: {text}"));
    }
}

/// Host with a store and a cache.
pub(super) struct Host {
    pub(super) dir: Home,
    pub(super) store: ImageStore,
    pub(super) registries: Registries,
    pub(super) recorder: Recorder,
    pub(super) cancel: Cancel,
}

/// Directory of a host.
pub(super) enum Home {
    /// Removed with the host.
    Own(tempfile::TempDir),
    /// Kept.
    Given(PathBuf),
}

impl Home {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Given(path) => path,
        }
    }
}

impl Host {
    pub(super) fn new() -> Self {
        Self::at(Home::Own(tempfile::tempdir().unwrap()))
    }

    /// Creates a host in an existing directory.
    pub(super) fn within(dir: &Path) -> Self {
        Self::at(Home::Given(dir.to_owned()))
    }

    fn at(dir: Home) -> Self {
        let registries = Registries {
            client: Client {
                connect: Duration::from_secs(5),
                stall: Duration::from_secs(5),
                pauses: vec![Duration::from_millis(1); 3],
                ..Client::default()
            },
            credentials: Credentials::in_files(vec![dir.path().join("auth.json")]),
            certificates: vec![dir.path().join("certs.d")],
            cache: BlobCache::open(dir.path().join("blobs")).unwrap(),
            limits: Limits::default(),
        };
        let store = ImageStore::open(dir.path().join("images")).unwrap();
        Self { dir, store, registries, recorder: Recorder::default(), cancel: Cancel::default() }
    }

    pub(super) fn pull(&self, source: &str) -> Result<Pulled, ImageError> {
        self.pull_for(source, Platform { os: "linux".into(), architecture: "amd64".into(), variant: None })
    }

    pub(super) fn pull_for(&self, source: &str, platform: Platform) -> Result<Pulled, ImageError> {
        self.pull_as(source, platform, &self.recorder)
    }

    /// Pulls with the caller's progress.
    pub(super) fn pull_watched(&self, source: &str, progress: &dyn Progress) -> Result<Pulled, ImageError> {
        self.pull_as(source, "linux/amd64".parse().unwrap(), progress)
    }

    fn pull_as(&self, source: &str, platform: Platform, progress: &dyn Progress) -> Result<Pulled, ImageError> {
        let source: ImageSource = source.parse().unwrap();
        let request =
            PullRequest { source, platform, name: "app".parse().unwrap(), kernel: None, kernel_chosen: false };
        self.store.pull_oci(&self.registries, &request, &Job { progress, cancel: &self.cancel })
    }

    pub(super) fn image(&self, source: &str) -> Image {
        self.pull(source).unwrap_or_else(|error| panic!("{}", chain(&error))).image
    }

    /// Runs a pull that must fail and returns the error with its causes. Checks that nothing is left of it: not in the
    /// cache either, if it names a layer.
    pub(super) fn refusal(&self, source: &str) -> String {
        let said = self.failed_pull(source);
        if let Some((_, named)) = said.split_once("layer ").filter(|(_, rest)| rest.contains(") is refused")) {
            let digest = named.split_once('(').unwrap().1.split_once(')').unwrap().0;
            let cached = names(&self.dir.path().join("blobs"));
            assert!(cached.iter().all(|name| !name.starts_with(digest)), "{said}: {cached:?}");
        }
        said
    }

    /// Does the same for a layer whose bytes are valid in another image.
    pub(super) fn failed_pull(&self, source: &str) -> String {
        let error = self.pull(source).unwrap_err();
        self.nothing_left();
        chain(&error)
    }

    pub(super) fn nothing_left(&self) {
        assert_eq!(names(&self.dir.path().join("images")), Vec::<String>::new());
        let cached = names(&self.dir.path().join("blobs"));
        assert!(cached.iter().all(|name| !name.starts_with('.')), "{cached:?}");
    }
}

pub(super) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Returns `127.0.0.1:PORT/app:TAG`.
pub(super) fn reference(server: &Server, tag: &str) -> String {
    format!("127.0.0.1:{}/app:{tag}", server.port())
}
