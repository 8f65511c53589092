//! Debian's `docker-registry` on loopback, filled by `skopeo`, and a log of its requests.
//!
//! Call `require("registry")` first.

use crate::wait::wait_until;
use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Time to start listening on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A registry, which ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Registry {
    /// Starts a registry that keeps everything below `dir`. `more` is the end of its configuration, within `http`.
    #[track_caller]
    pub fn start(dir: &Path, more: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
        let (config, root, log) = (dir.join("registry.yml"), dir.join("registry"), dir.join("registry.log"));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n{more}",
            root.display()
        );
        fs::write(&config, text).expect("the registry's configuration");
        let said = File::create(&log).expect("the registry's log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a descriptor"))
            .stderr(said)
            .spawn()
            .expect("docker-registry, which scripts/setup.sh --test installs");
        let registry = Self { child, port, log };
        wait_until(START, "the registry to listen", || {
            let connected = TcpStream::connect(("127.0.0.1", port)).map(drop);
            connected.map_err(|error| format!("{error}: {}", fs::read_to_string(&registry.log).unwrap_or_default()))
        });
        registry
    }

    /// Port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Copies an image, such as `oci:DIR:TAG`, into the registry; `options` are those of `skopeo copy`.
    #[track_caller]
    pub fn push(&self, options: &[&str], source: &str, name: &str) {
        let target = format!("docker://{}", self.reference(name));
        skopeo(&[&["copy", "--dest-tls-verify=false"], options, &[source, &target]].concat());
    }

    /// Stores the only image of the layout `dir` as it is; `skopeo` compresses layers that are uncompressed.
    #[track_caller]
    pub fn store(&self, dir: &Path, name: &str, tag: &str) {
        let index = fs::read(dir.join("index.json")).expect("a layout");
        let index: serde_json::Value = serde_json::from_slice(&index).expect("an index");
        let manifest = &index["manifests"][0];
        let top = manifest["digest"].as_str().and_then(|it| it.strip_prefix("sha256:")).expect("a digest").to_owned();
        let blobs = dir.join("blobs/sha256");
        for blob in fs::read_dir(&blobs).expect("blobs").flatten() {
            let digest = blob.file_name().into_string().expect("a digest");
            let answer = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), "", &[]);
            let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a place");
            let path = location.split_once("//").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
            let path = format!("{}&digest=sha256:{digest}", path.unwrap_or(location));
            let answer = self.ask("PUT", &path, "application/octet-stream", &fs::read(blob.path()).expect("a blob"));
            assert!(answer.contains(" 201 "), "{answer}");
        }
        let kind = manifest["mediaType"].as_str().expect("a kind");
        let manifest = fs::read(blobs.join(top)).expect("a manifest");
        let answer = self.ask("PUT", &format!("/v2/{name}/manifests/{tag}"), kind, &manifest);
        assert!(answer.contains(" 201 "), "{answer}");
    }

    /// Requests in order, each as `GET /v2/NAME/blobs/sha256:… 200`. A request whose answer was just sent may be
    /// missing.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        // Common log format: client - - [time] "METHOD path HTTP/1.1" status bytes "referrer" "agent".
        let lines = log.lines().filter_map(|line| {
            let mut parts = line.split('"');
            let request = parts.nth(1)?.strip_suffix(" HTTP/1.1")?;
            let status = parts.next()?.split_whitespace().next()?;
            request.contains("/v2/").then(|| format!("{request} {status}"))
        });
        lines.collect()
    }

    /// Head and body of the answer to a GET of `path`, with every kind of manifest accepted.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
             application/vnd.docker.distribution.manifest.v2+json, \
             application/vnd.docker.distribution.manifest.list.v2+json";
        self.send(&format!("GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n"), &[])
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
        let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        self.send(&format!("{method} {path} HTTP/1.0\r\n{kind}Content-Length: {}\r\n\r\n", body.len()), body)
    }

    fn send(&self, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `skopeo` to its end.
#[track_caller]
pub fn skopeo(args: &[&str]) {
    let output = Command::new("skopeo").arg("--insecure-policy").args(args).output().expect("skopeo");
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
