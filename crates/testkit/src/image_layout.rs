//! Writes OCI layouts layer by layer.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};
use tar::{EntryType, Header};

/// An image being written into a layout, which may hold others.
#[derive(Debug)]
pub struct ImageLayout {
    dir: PathBuf,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
}

/// A layer being written.
pub struct LayerWriter(tar::Builder<Layer>);

/// Metadata of an entry.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Type of the entry.
    pub kind: EntryType,
    /// Permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds since 1970, as PAX writes them.
    pub mtime: &'a str,
    /// Target of a link.
    pub link: &'a [u8],
    /// Extended attributes.
    pub xattrs: &'a [(&'a str, &'a [u8])],
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

impl Entry<'_> {
    /// A regular file.
    pub const FILE: Self = Self {
        kind: EntryType::Regular,
        mode: 0o644,
        owner: (0, 0),
        mtime: "1700000000",
        link: b"",
        xattrs: &[],
        device: (0, 0),
    };
    /// A directory.
    pub const DIR: Self = Self { kind: EntryType::Directory, mode: 0o755, ..Self::FILE };
}

impl ImageLayout {
    /// Begins an image in the layout `dir`, which is created when it is missing.
    #[track_caller]
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("a directory for the layout");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("room");
        Self { dir: dir.to_owned(), layers: Vec::new(), diff_ids: Vec::new() }
    }

    /// Adds a layer; `pack` is the command that compresses it (`zstd -1`, say), or empty.
    #[track_caller]
    pub fn layer(&mut self, pack: &[&str], write: impl FnOnce(&mut LayerWriter)) {
        let path = self.dir.join("layer");
        let (packer, sink) = packer(pack, &path);
        let mut layer = LayerWriter(tar::Builder::new(Layer { sink, hash: Sha256::new() }));
        write(&mut layer);
        let Layer { sink, hash } = layer.0.into_inner().expect("the end of the layer");
        drop(sink);
        if let Some(mut packer) = packer {
            assert!(packer.wait().expect("it ends").success(), "{pack:?}");
        }
        self.diff_ids.push(format!("sha256:{}", HEXLOWER.encode(&hash.finalize())));
        let mut packed = Layer { sink: Sink::Nowhere, hash: Sha256::new() };
        let size = io::copy(&mut File::open(&path).expect("it was written"), &mut packed).expect("it can be read");
        let digest = HEXLOWER.encode(&packed.hash.finalize());
        fs::rename(path, self.blob(&digest)).expect("its name");
        let suffix = pack.first().map(|program| format!("+{program}")).unwrap_or_default();
        let kind = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        self.layers.push(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size}));
    }

    /// Writes configuration and manifest, and returns the reference `oci:DIR:TAG`. `run` is the part of the
    /// configuration about commands (`Env`, `Cmd`, …).
    #[track_caller]
    pub fn finish(self, tag: &str, run: &Value) -> String {
        self.finish_for("amd64", tag, run)
    }

    /// Like `finish`, for another architecture.
    #[track_caller]
    pub fn finish_for(self, architecture: &str, tag: &str, run: &Value) -> String {
        let config = json!({"os": "linux", "architecture": architecture, "created": "2023-11-14T22:13:20Z", "config": run,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids}});
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "layers": self.layers,
            "config": self.put("application/vnd.oci.image.config.v1+json", &config)});
        let mut descriptor = self.put(kind, &manifest);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = self.dir.join("index.json");
        let before = fs::read(&index).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let mut all = before.and_then(|index| index["manifests"].as_array().cloned()).unwrap_or_default();
        all.retain(|other| other["annotations"] != descriptor["annotations"]);
        all.push(descriptor);
        fs::write(index, json!({"schemaVersion": 2, "manifests": all}).to_string()).expect("room");
        format!("oci:{}:{tag}", self.dir.display())
    }

    fn put(&self, kind: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let digest = HEXLOWER.encode(&Sha256::digest(&bytes));
        fs::write(self.blob(&digest), &bytes).expect("room");
        json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest)
    }
}

impl LayerWriter {
    /// Adds an entry with `content`.
    #[track_caller]
    pub fn add(&mut self, path: impl AsRef<[u8]>, entry: &Entry<'_>, content: impl AsRef<[u8]>) {
        let content = content.as_ref();
        self.stream(path, entry, content.len() as u64, content);
    }

    /// Adds an entry with `size` bytes of `content`.
    #[track_caller]
    pub fn stream(&mut self, path: impl AsRef<[u8]>, entry: &Entry<'_>, size: u64, content: impl Read) {
        let (uid, gid) = (entry.owner.0.to_string(), entry.owner.1.to_string());
        let mut records: Vec<(String, &[u8])> = vec![
            ("path".into(), path.as_ref()),
            ("mtime".into(), entry.mtime.as_bytes()),
            ("uid".into(), uid.as_bytes()),
            ("gid".into(), gid.as_bytes()),
        ];
        if !entry.link.is_empty() {
            records.push(("linkpath".into(), entry.link));
        }
        records.extend(entry.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value)));
        let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let mut extension = Header::new_ustar();
        extension.set_entry_type(EntryType::XHeader);
        extension.set_size(records.len() as u64);
        extension.set_cksum();
        let mut header = Header::new_ustar();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_size(size);
        header.set_device_major(entry.device.0).and_then(|()| header.set_device_minor(entry.device.1)).expect("ustar");
        header.set_cksum();
        let written =
            self.0.append(&extension, records.as_slice()).and_then(|()| self.0.append(&header, content.take(size)));
        written.expect("the layer can be written");
    }

    /// Adds everything `tar` writes for the directory `tree`.
    #[track_caller]
    pub fn tree(&mut self, tree: &Path) {
        let mut tar = Command::new("tar")
            .args(["--numeric-owner", "--format=pax", "-c", "-C"])
            .arg(tree)
            .arg(".")
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        let mut archive = tar::Archive::new(tar.stdout.take().expect("it is a pipe"));
        // The end of the archive is not the end of the layer, so entries are copied one by one.
        for entry in archive.entries().expect("an archive").raw(true) {
            let entry = entry.expect("an entry");
            let header = entry.header().clone();
            self.0.append(&header, entry).expect("the layer can be written");
        }
        assert!(tar.wait().expect("it ends").success());
    }
}

/// Formats a record of a PAX header; its length includes itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = 3 + key.len() + value.len();
    let length = (rest + 1..rest + 9).find(|length| rest + length.to_string().len() == *length).expect("there is one");
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Writer into a compressor or a file.
struct Layer {
    sink: Sink,
    hash: Sha256,
}

enum Sink {
    Packer(ChildStdin),
    File(File),
    /// Discards the bytes; only the digest matters.
    Nowhere,
}

impl Write for Layer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.sink {
            Sink::Packer(stdin) => stdin.write(bytes)?,
            Sink::File(file) => file.write(bytes)?,
            Sink::Nowhere => bytes.len(),
        };
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn packer(pack: &[&str], out: &Path) -> (Option<Child>, Sink) {
    let file = File::create(out).expect("a file for the layer");
    let Some((program, args)) = pack.split_first() else { return (None, Sink::File(file)) };
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(file).spawn().expect("the packer");
    let stdin = child.stdin.take().expect("it is a pipe");
    (Some(child), Sink::Packer(stdin))
}
