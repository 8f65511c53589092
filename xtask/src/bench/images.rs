//! Images: pulling one against the tools people have, against decompression alone, and what it weighs.
//!
//! The image is real: files of the packages installed on this host, about 900 MB of them in three layers, in Debian's
//! `docker-registry` on loopback. It is made once per run; everything compared reads the same bytes.

use super::compare::{Report, Target};
use anyhow::{Context, Result, bail, ensure};
use banger_testkit::{Invocation, TestEnv, wait_until};
use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Unpacked bytes of the image, and how many layers they are in.
const IMAGE: u64 = 900 << 20;
const LAYERS: usize = 3;
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

/// A registry of its own with everything that is measured in it.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start(dir: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = dir.join("registry.yml");
        let root = dir.join("registry");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
                root.display()
            ),
        )?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("docker-registry, which scripts/setup.sh --test installs")?;
        wait_until(Duration::from_secs(30), "the registry to listen", || {
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
        Ok(Self { child, port })
    }

    fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/bench/{name}:v1", self.port)
    }

    /// Pushes layers, each a tar compressed with gzip.
    fn push(&self, name: &str, layers: &[PathBuf]) -> Result<()> {
        let list: Vec<String> = layers.iter().map(|path| path.display().to_string()).collect();
        let target = format!("docker://{}", self.reference(name));
        tool(
            "skopeo",
            &["--insecure-policy", "copy", "--dest-tls-verify=false", &format!("tarball:{}", list.join(":")), &target],
        )
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All comparisons about images.
pub(crate) fn run(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("banger-bench-").tempdir_in("/var/tmp")?;
    let dir = dir.path();
    let registry = Registry::start(dir)?;
    let layers = package_layers(dir)?;
    registry.push("packages", &layers)?;
    let rounds = rounds.min(MOST_ROUNDS);
    let reference = registry.reference("packages");
    pulls(env, rounds, report, dir, &reference)?;
    report.compare(
        ("image pull, 900 MB in 3 layers", "decompressing its layers, in parallel, to nowhere"),
        Target::Ratio(1.8),
        rounds,
        || pull(env, &reference),
        || inflate(&layers),
    )?;
    again(env, rounds, report, &registry, &reference)?;
    directories(env, rounds, report, dir, &registry)?;
    starts(env, rounds, report, dir)
}

fn pulls(env: &TestEnv, rounds: u32, report: &mut Report, dir: &Path, reference: &str) -> Result<()> {
    report.compare(
        ("image pull, 900 MB in 3 layers", "skopeo copy + umoci unpack + mke2fs -d"),
        Target::Ratio(0.2),
        rounds,
        || pull(env, reference),
        || others(dir, reference),
    )?;
    let daemon = env.daemon().context("a daemon")?;
    report.size("bangerd at its peak, pulling that image", peak(daemon.pid)?, 150 << 10);
    Ok(())
}

fn again(env: &TestEnv, rounds: u32, report: &mut Report, registry: &Registry, reference: &str) -> Result<()> {
    pull(env, reference)?;
    let path = "/v2/bench/packages/manifests/v1";
    report.compare(
        ("image pull of what is here", "the manifest over HTTP, and process start"),
        Target::MoreMs(50.0),
        rounds * 5,
        || timed(env.banger(["image", "pull", "--quiet", reference])),
        || {
            let since = Instant::now();
            let mut stream = TcpStream::connect(("127.0.0.1", registry.port))?;
            write!(stream, "GET {path} HTTP/1.0\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\n\r\n")?;
            io::copy(&mut stream, &mut io::sink())?;
            timed(env.program("true")).map(|_| since.elapsed())
        },
    )
}

/// A directory of 100,000 files against 1,000 directories of 100.
fn directories(env: &TestEnv, rounds: u32, report: &mut Report, dir: &Path, registry: &Registry) -> Result<()> {
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
        registry.push(name, &[layer])?;
        fs::remove_dir_all(&tree)?;
    }
    report.compare(
        ("pull, 100,000 files in one directory", "pull, the same files in 1,000 directories"),
        Target::Ratio(1.5),
        rounds,
        || pull(env, &registry.reference("flat")),
        || pull(env, &registry.reference("spread")),
    )
}

/// A start costs the same whatever the size of the image.
fn starts(env: &TestEnv, rounds: u32, report: &mut Report, dir: &Path) -> Result<()> {
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
        rounds.max(3),
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
    let (mut bytes, mut files) = (0, 0_u64);
    for list in lists {
        for name in fs::read_to_string(list)?.lines() {
            let Ok(metadata) = fs::symlink_metadata(name) else { continue };
            if name == "/." || bytes >= IMAGE || name.starts_with("/boot") {
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
            }
            files += 1;
            writeln!(outputs[layer].1, "{}", name.trim_start_matches('/'))?;
        }
    }
    ensure!(bytes >= IMAGE / 2, "this host's packages are only {bytes} bytes");
    super::say(&format!("the image: {files} entries, {} MiB", bytes >> 20));
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
    timed(env.banger(["image", "pull", "--quiet", reference]).patience(PATIENCE))
}

/// What people do without banger.
fn others(dir: &Path, reference: &str) -> Result<Duration> {
    let work = dir.join("others");
    fs::create_dir(&work)?;
    let layout = format!("oci:{}:v1", work.join("layout").display());
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
