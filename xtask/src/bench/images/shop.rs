//! Where benchmarks of images get theirs: a registry on loopback, and an image of this host's packages in it.

use super::shell;
use anyhow::{Context, Result, ensure};
use banger_testkit::{Private, Registry, TestEnv};
use std::{
    collections::HashSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Unpacked bytes of the image, and how many layers they are in.
pub(super) const IMAGE: u64 = 900 << 20;
const LAYERS: usize = 3;
/// Fewest files it has.
const FILES: usize = 50_000;
/// Bytes that its layers are to have when they are packed, and fewest with which it is measured all the same: what is
/// installed on a host packs as it packs. One that falls short is said to.
const WANTED: u64 = 350_000_000;
const PACKED: u64 = 280 << 20;
/// Largest file of a package that goes into it.
const MAX_FILE: u64 = 2 << 20;
/// A registry and room beside it, on the disk that homes are on.
pub(super) struct Shop {
    dir: tempfile::TempDir,
    registry: Registry,
    /// What it shows and asks for, where it speaks TLS and wants a password.
    private: Option<Private>,
}

/// The image of this host's packages.
pub(super) struct Packages {
    /// Its layers, each a tar compressed with gzip.
    pub(super) layers: Vec<PathBuf>,
    /// What it is called.
    pub(super) reference: String,
    /// In words: how many files and bytes it has, unpacked and packed, and what it falls short of.
    pub(super) size: String,
}

impl Shop {
    pub(super) fn open() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("banger-bench-").tempdir_in("/var/tmp")?;
        let registry = Registry::start(dir.path(), "");
        Ok(Self { dir, registry, private: None })
    }

    /// One that speaks TLS with a certificate of its own, and gives nothing to strangers.
    pub(super) fn private() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("banger-bench-").tempdir_in("/var/tmp")?;
        let private = Private::make(dir.path());
        let registry = Registry::start(dir.path(), &private.configuration());
        Ok(Self { dir, registry, private: Some(private) })
    }

    /// Where there is room.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Lets a home trust it and log in there, if it is private.
    pub(super) fn known_to(&self, env: &TestEnv) -> Result<()> {
        let Some(Private { certificate, .. }) = &self.private else { return Ok(()) };
        let (host, containers) = (self.registry.reference(""), env.home().join("home/.config/containers"));
        let host = host.trim_end_matches('/');
        let authorities = containers.join("certs.d").join(host);
        fs::create_dir_all(&authorities)?;
        fs::copy(certificate, authorities.join("ca.crt"))?;
        let logins = serde_json::json!({"auths": {host: {"auth": Private::AUTH}}});
        Ok(fs::write(containers.join("auth.json"), logins.to_string())?)
    }

    /// The image of this host's packages.
    pub(super) fn packages(&self) -> Result<Packages> {
        let (layers, size) = package_layers(self.dir())?;
        let reference = self.push("packages", &layers);
        Ok(Packages { layers, reference, size })
    }

    /// Pushes layers, each a tar compressed with gzip.
    pub(super) fn push(&self, name: &str, layers: &[PathBuf]) -> String {
        let list: Vec<String> = layers.iter().map(|path| path.display().to_string()).collect();
        let name = format!("bench/{name}:v1");
        let login: &[&str] = if self.private.is_some() { &["--dest-creds", Private::LOGIN] } else { &[] };
        self.registry.push(login, &format!("tarball:{}", list.join(":")), &name);
        self.registry.reference(&name)
    }

    /// Has curl get the manifest of an image that was pushed.
    pub(super) fn curl(&self, name: &str) -> Result<Duration> {
        let scheme = if self.private.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", self.registry.reference(&format!("bench/{name}")));
        let (registry, path) = url.rsplit_once("/bench/").context("an address")?;
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--output", "/dev/null"]).stdin(Stdio::null());
        curl.args(["--header", "Accept: application/vnd.oci.image.manifest.v1+json"]);
        curl.args(["--header", "Accept: application/vnd.docker.distribution.manifest.v2+json"]);
        if let Some(Private { certificate, .. }) = &self.private {
            curl.args(["--user", Private::LOGIN, "--cacert"]).arg(certificate);
        }
        curl.arg(format!("{registry}/v2/bench/{path}/manifests/v1"));
        let since = Instant::now();
        let status = curl.status().context("curl")?;
        ensure!(status.success(), "curl: {status}");
        Ok(since.elapsed())
    }
}

/// Files of this host's packages until there are enough, in layers of the same size.
fn package_layers(dir: &Path) -> Result<(Vec<PathBuf>, String)> {
    let lists = fs::read_dir("/var/lib/dpkg/info").context("this host has no packages of Debian")?;
    let mut lists: Vec<PathBuf> = lists.filter_map(|entry| Some(entry.ok()?.path())).collect();
    lists.retain(|path| path.extension().is_some_and(|extension| extension == "list"));
    lists.sort();
    let mut outputs: Vec<(PathBuf, fs::File)> = Vec::new();
    let (mut bytes, mut files, mut seen) = (0, 0, HashSet::new());
    for list in lists {
        for listed in fs::read_to_string(list)?.lines() {
            let (Some(parent), Some(name)) = (Path::new(listed).parent(), Path::new(listed).file_name()) else {
                continue;
            };
            // What is listed below /lib stands below /usr/lib, and many packages list the same directory.
            let Ok(name) = parent.canonicalize().map(|parent| parent.join(name)) else { continue };
            let Ok(metadata) = fs::symlink_metadata(&name) else { continue };
            if bytes >= IMAGE || name.starts_with("/boot") || !seen.insert(name.clone()) {
                continue;
            }
            let layer = usize::try_from(bytes * LAYERS as u64 / IMAGE)?;
            if outputs.len() <= layer {
                let path = dir.join(format!("layer{layer}"));
                outputs.push((path.clone(), fs::File::create(path)?));
            }
            // A few programs are larger than thousands of files; an image has more of the small.
            if metadata.is_file() {
                if metadata.len() > MAX_FILE {
                    continue;
                }
                bytes += metadata.len();
                files += 1;
            }
            writeln!(outputs[layer].1, "{}", name.display().to_string().trim_start_matches('/'))?;
        }
    }
    ensure!(bytes >= IMAGE && files >= FILES, "this host's packages are only {files} files, {bytes} bytes");
    let mut layers = Vec::new();
    for (list, _) in outputs {
        let layer = list.with_extension("tar.gz");
        shell(&format!(
            "tar -C / -c --no-recursion --ignore-failed-read -T {} 2>/dev/null | gzip -6 > {}",
            list.display(),
            layer.display()
        ))?;
        layers.push(layer);
    }
    let packed = layers.iter().map(|layer| Ok(fs::metadata(layer)?.len())).sum::<io::Result<u64>>()?;
    ensure!(packed >= PACKED, "this host's packages are only {packed} bytes when they are packed");
    Ok((layers, size(files, bytes, packed)))
}

fn size(files: usize, bytes: u64, packed: u64) -> String {
    let short = if packed < WANTED { format!(" (the target says {})", WANTED >> 20) } else { String::new() };
    format!("{files} files, {} MiB, packed {} MiB{short}", bytes >> 20, packed >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_packs_too_well_is_said_to() {
        assert_eq!(size(60_000, IMAGE, WANTED), "60000 files, 900 MiB, packed 333 MiB");
        assert_eq!(size(60_000, IMAGE, PACKED), "60000 files, 900 MiB, packed 280 MiB (the target says 333)");
    }
}
