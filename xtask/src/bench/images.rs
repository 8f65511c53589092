//! Images: pulling one against the tools people have, against decompression alone, and what it weighs.
//!
//! The image is real: files of the packages installed on this host, about 900 MB of them in three layers, in Debian's
//! `docker-registry` on loopback. It is made once per run; everything compared reads the same bytes.

use super::compare::{Report, Target};
use anyhow::{Context, Result, bail, ensure};
use banger_testkit::{Invocation, Registry, TestEnv};
use std::{
    collections::HashSet,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Unpacked bytes of the image, and how many layers they are in.
const IMAGE: u64 = 900 << 20;
const LAYERS: usize = 3;
/// Fewest files it has, and fewest bytes its layers have when they are packed: what makes it the image of the target.
const FILES: usize = 50_000;
const PACKED: u64 = 200 << 20;
/// Largest file of a package that goes into it.
const MAX_FILE: u64 = 2 << 20;
/// Files of the image in which one directory holds all, and the other in which a thousand do.
const FLAT: usize = 100_000;
/// Content of the image a VM's start must not depend on, and of the one it is compared with.
const LARGE: u64 = 5 << 30;
const SMALL: u64 = 50 << 20;
/// Most a comparison of whole minutes is repeated.
const MOST_ROUNDS: u32 = 3;
/// How long one pull may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// A registry and room beside it, on the disk that homes are on.
struct Shop {
    dir: tempfile::TempDir,
    registry: Registry,
}

impl Shop {
    fn open() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("banger-bench-").tempdir_in("/var/tmp")?;
        let registry = Registry::start(dir.path(), "");
        Ok(Self { dir, registry })
    }

    /// The image of this host's packages: its layers, and what it is called.
    fn packages(&self) -> Result<(Vec<PathBuf>, String)> {
        let layers = package_layers(self.dir.path())?;
        let reference = self.push("packages", &layers);
        Ok((layers, reference))
    }

    /// Pushes layers, each a tar compressed with gzip.
    fn push(&self, name: &str, layers: &[PathBuf]) -> String {
        let list: Vec<String> = layers.iter().map(|path| path.display().to_string()).collect();
        let name = format!("bench/{name}:v1");
        self.registry.push(&[], &format!("tarball:{}", list.join(":")), &name);
        self.registry.reference(&name)
    }
}

/// Against what people do without banger, and what memory it takes.
pub(crate) fn pulls(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let shop = Shop::open()?;
    let (_, reference) = shop.packages()?;
    report.compare(
        ("image pull, 900 MB in 3 layers", "skopeo copy + umoci unpack + mke2fs -d"),
        Target::Ratio(0.2),
        rounds.min(MOST_ROUNDS),
        || pull(env, &reference),
        || others(shop.dir.path(), &reference),
    )?;
    let daemon = env.daemon().context("a daemon")?;
    report.size("bangerd at its peak, pulling that image", peak(daemon.pid)?, 150 << 10);
    Ok(())
}

/// Against decompression alone: the fastest decoder that reads a stream, as many layers at once.
pub(crate) fn floor(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let shop = Shop::open()?;
    let (layers, reference) = shop.packages()?;
    report.compare(
        ("image pull, 900 MB in 3 layers", "decompressing its layers, in parallel, to nowhere"),
        Target::Ratio(1.8),
        rounds,
        || pull(env, &reference),
        || inflate(&layers),
    )
}

/// What is here already, against the round trip of its manifest.
pub(crate) fn again(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let shop = Shop::open()?;
    let (_, reference) = shop.packages()?;
    pull(env, &reference)?;
    report.compare(
        ("image pull of 900 MB that are here", "the manifest over HTTP, and process start"),
        Target::MoreMs(50.0),
        rounds,
        || timed(env.banger(["image", "pull", "--quiet", &reference])),
        || {
            let since = Instant::now();
            shop.registry.get("/v2/bench/packages/manifests/v1");
            timed(env.program("true")).map(|_| since.elapsed())
        },
    )
}

/// A directory of 100,000 files against 1,000 directories of 100.
pub(crate) fn directories(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let shop = Shop::open()?;
    let dir = shop.dir.path();
    let mut references = Vec::new();
    for (name, each) in [("flat", FLAT), ("spread", 100)] {
        let tree = dir.join(name);
        for n in 0..FLAT {
            let parent = tree.join((n / each).to_string());
            if n % each == 0 {
                fs::create_dir_all(&parent)?;
            }
            fs::write(parent.join(format!("file-{n}")), n.to_string())?;
        }
        let layer = dir.join(format!("{name}.tar.gz"));
        shell(&format!("tar -C {} -c . | gzip -1 > {}", tree.display(), layer.display()))?;
        references.push(shop.push(name, &[layer]));
        fs::remove_dir_all(&tree)?;
    }
    report.compare(
        ("pull, 100,000 files in one directory", "pull, the same files in 1,000 directories"),
        Target::Ratio(1.5),
        rounds,
        || pull(env, &references[0]),
        || pull(env, &references[1]),
    )
}

/// A start costs the same whatever the size of the image.
pub(crate) fn starts(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("banger-bench-").tempdir_in("/var/tmp")?;
    let dir = dir.path();
    let hello = dir.join("hello");
    shell(&format!("echo 'int main(void) {{ return 0; }}' | gcc -static -O1 -x c -o {} -", hello.display()))?;
    for (name, size) in [("large", LARGE), ("small", SMALL)] {
        let tree = dir.join(format!("{name}.tree"));
        fs::create_dir(&tree)?;
        fs::copy(&hello, tree.join("hello"))?;
        noise(&tree.join("content"), size)?;
        let image = dir.join(format!("{name}.ext4"));
        let blocks = (size + (256 << 20)) / 4096;
        tool("mke2fs", &["-q", "-t", "ext4", "-b", "4096", "-d", path(&tree)?, path(&image)?, &blocks.to_string()])?;
        fs::remove_dir_all(&tree)?;
        env.banger(["image", "register", "--name", name, "--rootfs", path(&image)?]).patience(PATIENCE).run().expect(0);
    }
    let start = |image: &'static str| {
        timed(env.banger(["vm", "run", "--rm", "--quiet", "--memory", "256M", "--image", image, "--", "/hello"]))
    };
    report.compare(
        ("vm run --rm on a 5 GB image", "vm run --rm on a 50 MB image"),
        Target::Ratio(1.2),
        rounds,
        || start("large"),
        || start("small"),
    )
}

/// Files of this host's packages until there are enough, in layers of the same size.
fn package_layers(dir: &Path) -> Result<Vec<PathBuf>> {
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
    super::say(&format!("the image: {files} files, {} MiB, packed {} MiB", bytes >> 20, packed >> 20));
    ensure!(packed >= PACKED, "this host's packages are only {packed} bytes when they are packed");
    Ok(layers)
}

/// Bytes that neither compress nor are zeros.
fn noise(path: &Path, size: u64) -> Result<()> {
    let mut file = io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    let mut state = 1_u64;
    for _ in 0..size / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    Ok(file.flush()?)
}

/// One pull with nothing of it here before; taking it away again is not timed.
fn pull(env: &TestEnv, reference: &str) -> Result<Duration> {
    let known = env.banger(["image", "show", reference]).run().code() == 0;
    if known {
        env.banger(["image", "delete", reference]).run().expect(0);
    }
    env.banger(["image", "cache", "prune"]).run().expect(0);
    settle()?;
    timed(env.banger(["image", "pull", "--quiet", reference]).patience(PATIENCE))
}

/// Waits until the disk has what was written before: an image is brought there after its pull, and what is measured next
/// is not to pay for it.
fn settle() -> Result<()> {
    tool("sync", &[])
}

/// What people do without banger.
fn others(dir: &Path, reference: &str) -> Result<Duration> {
    let work = dir.join("others");
    fs::create_dir(&work)?;
    let layout = format!("oci:{}:v1", work.join("layout").display());
    settle()?;
    let since = Instant::now();
    tool(
        "skopeo",
        &["--insecure-policy", "copy", "--src-tls-verify=false", &format!("docker://{reference}"), &layout],
    )?;
    tool(
        "umoci",
        &["unpack", "--image", &format!("{}:v1", work.join("layout").display()), path(&work.join("bundle"))?],
    )?;
    let blocks = (IMAGE * 2 / 4096).to_string();
    let rootfs = work.join("bundle/rootfs");
    tool(
        "mke2fs",
        &["-q", "-t", "ext4", "-b", "4096", "-N", "200000", "-d", path(&rootfs)?, path(&work.join("image"))?, &blocks],
    )?;
    let took = since.elapsed();
    fs::remove_dir_all(&work)?;
    Ok(took)
}

/// Decompresses all layers at once.
fn inflate(layers: &[PathBuf]) -> Result<Duration> {
    settle()?;
    let since = Instant::now();
    let outcomes: Vec<io::Result<()>> = thread::scope(|scope| {
        let inflating: Vec<_> = layers
            .iter()
            .map(|layer| {
                scope.spawn(move || {
                    let file = io::BufReader::with_capacity(256 << 10, fs::File::open(layer)?);
                    let mut decoder = flate2::bufread::MultiGzDecoder::new(file);
                    let mut buffer = vec![0; 256 << 10];
                    while decoder.read(&mut buffer)? > 0 {}
                    Ok(())
                })
            })
            .collect();
        inflating.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    outcomes.into_iter().collect::<io::Result<()>>()?;
    Ok(since.elapsed())
}

fn timed(invocation: Invocation) -> Result<Duration> {
    let (took, status) = invocation.time();
    ensure!(status.success(), "a measured command failed: {status}");
    Ok(took)
}

/// Most memory a process ever had, in KiB.
fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

fn shell(line: &str) -> Result<()> {
    tool("bash", &["-c", line])
}

fn tool(name: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(name).args(args).stdin(Stdio::null()).output().with_context(|| name.to_owned())?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
