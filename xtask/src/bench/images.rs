//! Images: pulling one against the tools people have, against decompression alone, and what it weighs.
//!
//! The image is real: files of the packages installed on this host, about 900 MB of them in three layers, in Debian's
//! `docker-registry` on loopback. It is made once per run; everything compared reads the same bytes.

mod shop;

use super::compare::{Report, Target};
use anyhow::{Context, Result, bail, ensure};
use banger_testkit::{Invocation, TestEnv};
use shop::{IMAGE, Shop};
use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Files of the image in which one directory holds all, and the other in which a thousand do.
const FLAT: usize = 100_000;
/// Content of the image a VM's start must not depend on, and of the one it is compared with, and in how many files it
/// is.
const LARGE: (u64, u64) = (5 << 30, 50_000);
const SMALL: (u64, u64) = (50 << 20, 500);
/// Most a comparison of whole minutes is repeated, and why that is enough.
const MOST_ROUNDS: u32 = 3;
const WHY_SO_FEW: &str = "theirs take minutes each, and the two sides are too far apart for chance";
/// How long one pull may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// Feature bit of virtio-balloon: the guest reports memory it does not use, and the host takes it back (virtio 1.3,
/// 5.5.3, `VIRTIO_BALLOON_F_REPORTING`).
const FREE_PAGE_REPORTING: usize = 5;

/// Against what people do without banger, and what memory it takes.
pub(crate) fn pulls(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    remark_on_memory(report);
    let shop = Shop::open()?;
    let packages = shop.packages()?;
    report.compare(
        (&format!("image pull, {}", packages.size), "skopeo copy + umoci unpack + mke2fs -d"),
        Target::Ratio(0.2),
        rounds.min(MOST_ROUNDS),
        || pull(env, &packages.reference),
        || others(shop.dir(), &packages.reference),
    )?;
    report.few_are_enough(MOST_ROUNDS, WHY_SO_FEW);
    let daemon = env.daemon().context("a daemon")?;
    report.size("bangerd at its peak, pulling that image", peak(daemon.pid)?, 150 << 10);
    Ok(())
}

/// Against decompression alone, as many layers at once. The target is held against zlib-rs, which is the library that
/// banger would use: the fastest in pure Rust. Two more are told, and nobody's target: banger's own decoder, and ISA-L,
/// which is the fastest that was measured (assembly; faster than libdeflate, which wants all of a layer in memory). One
/// layer alone has a target against ISA-L.
pub(crate) fn floor(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    remark_on_memory(report);
    let shop = Shop::open()?;
    let packages = shop.packages()?;
    let (size, layers) = (format!("image pull, {}", packages.size), &packages.layers);
    let nowhere = |by: &str| format!("decompressing its layers by {by}, in parallel, to nowhere");
    let zlib_rs = || inflate(layers, flate2::bufread::MultiGzDecoder::new);
    report.compare(
        (&size, &nowhere("zlib-rs")),
        Target::Ratio(1.8),
        rounds,
        || pull(env, &packages.reference),
        zlib_rs,
    )?;
    report.compare(
        ("banger's decoder of gzip, those layers", "zlib-rs, both in parallel and to nowhere"),
        Target::Told,
        rounds,
        || inflate(layers, banger_artifacts::oci::gunzip),
        zlib_rs,
    )?;
    if !igzip_is_here() {
        report.leave_out(
            "image pull against igzip, which is not here: scripts/setup.sh --test installs it (package isal)",
        );
        return Ok(());
    }
    report.compare(
        (&size, &nowhere("igzip of ISA-L")),
        Target::Told,
        rounds,
        || pull(env, &packages.reference),
        || igzip(layers),
    )?;
    // Alone it has a processor for each half of the work, as every layer has on a machine with more of them.
    let (first, reference) = (&layers[..1], shop.push("first-layer", &layers[..1]));
    report.compare(
        ("image pull, the first of those layers alone", "decompressing it by igzip of ISA-L to nowhere"),
        Target::Ratio(1.8),
        rounds,
        || pull(env, &reference),
        || igzip(first),
    )
}

/// Says so if this machine is a VM whose free memory goes back to the host: then each page written to is first fetched
/// from there, which may cost a pull more than all of its work, and costs a decoder without output nothing.
fn remark_on_memory(report: &mut Report) {
    let balloons = fs::read_dir("/sys/bus/virtio/drivers/virtio_balloon").into_iter().flatten().flatten();
    let mut features = balloons.filter_map(|entry| fs::read_to_string(entry.path().join("features")).ok());
    // One digit for each bit.
    if features.any(|bits| bits.as_bytes().get(FREE_PAGE_REPORTING) == Some(&b'1')) {
        report.remark(
            "this machine gives free memory back to its host (virtio-balloon, free page reporting); what writes an image \
             then waits for memory, up to twice as long as for its own work, and is shown slower than it is",
        );
    }
}

/// What is here already, against the round trip of its manifest: without and with TLS and a password.
pub(crate) fn again(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let (open, private) = (Shop::open()?, Shop::private()?);
    let packages = open.packages()?;
    private.known_to(env)?;
    let behind = private.push("packages", &packages.layers);
    for (shop, reference, against) in [
        (&open, &packages.reference, "curl, the manifest over HTTP"),
        (&private, &behind, "curl, the manifest over TLS with a password"),
    ] {
        pull(env, reference)?;
        report.compare(
            (&format!("image pull of what is here, {}", packages.size), against),
            Target::MoreMs(50.0),
            rounds,
            || timed(env.banger(["image", "pull", "--quiet", reference])),
            || shop.curl("packages"),
        )?;
        env.banger(["image", "delete", reference]).run().expect(0);
    }
    Ok(())
}

/// A directory of 100,000 files against 1,000 directories of 100.
pub(crate) fn directories(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let shop = Shop::open()?;
    let dir = shop.dir();
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
    for (name, (size, files)) in [("large", LARGE), ("small", SMALL)] {
        let tree = dir.join(format!("{name}.tree"));
        fs::create_dir(&tree)?;
        fs::copy(&hello, tree.join("hello"))?;
        let mut state = 1;
        for number in 0..files {
            let parent = tree.join((number / 100).to_string());
            fs::create_dir_all(&parent)?;
            noise(&parent.join(number.to_string()), size / files, &mut state)?;
        }
        let image = dir.join(format!("{name}.ext4"));
        let (blocks, inodes) = (((size + (512 << 20)) / 4096).to_string(), (files * 2).to_string());
        let (from, to) = (path(&tree)?, path(&image)?);
        tool("mke2fs", &["-q", "-t", "ext4", "-b", "4096", "-N", &inodes, "-d", from, to, &blocks])?;
        fs::remove_dir_all(&tree)?;
        // In banger's store it is one of those that people have.
        env.banger(["image", "register", "--name", name, "--rootfs", path(&image)?]).patience(PATIENCE).run().expect(0);
        env.banger(["image", "promote", name]).patience(PATIENCE).run().expect(0);
        fs::remove_file(&image)?;
    }
    settle()?;
    let start = |image: &'static str| {
        timed(env.banger(["vm", "run", "--rm", "--quiet", "--memory", "256M", "--image", image, "--", "/hello"]))
    };
    report.compare(
        ("vm run --rm on a 5 GB image, 50,000 files", "vm run --rm on a 50 MB image"),
        Target::Ratio(1.2),
        rounds,
        || start("large"),
        || start("small"),
    )
}

/// A file of bytes that neither compress nor are zeros, nor those of any other; `state` is what the next goes on from.
fn noise(path: &Path, size: u64, state: &mut u64) -> Result<()> {
    let mut file = io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    for _ in 0..size / 8 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
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

/// Waits until the disk has what was written before: an image is brought there after its pull, and what is measured
/// next is not to pay for it.
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
fn inflate<D: Read>(layers: &[PathBuf], decoder: fn(io::BufReader<fs::File>) -> D) -> Result<Duration> {
    settle()?;
    let since = Instant::now();
    let outcomes: Vec<io::Result<()>> = thread::scope(|scope| {
        let inflating: Vec<_> = layers
            .iter()
            .map(|layer| {
                scope.spawn(move || {
                    let mut decoder = decoder(io::BufReader::with_capacity(256 << 10, fs::File::open(layer)?));
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

fn igzip_is_here() -> bool {
    Command::new("igzip").arg("-V").stdin(Stdio::null()).output().is_ok()
}

/// The same by `igzip`, a process for each.
fn igzip(layers: &[PathBuf]) -> Result<Duration> {
    settle()?;
    let since = Instant::now();
    let start = |layer| Command::new("igzip").arg("-dc").arg(layer).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let started: Vec<_> = layers.iter().map(start).collect::<io::Result<_>>().context("igzip")?;
    for mut igzip in started {
        let status = igzip.wait()?;
        ensure!(status.success(), "igzip: {status}");
    }
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
