//! Kernels: how fast the recommended one boots, and what getting one costs over the plain tools.

use super::{
    compare::{Report, Target},
    floor::Floor,
    measures::timed,
};
use anyhow::{Context, Result, ensure};
use banger_testkit::{FileServer, TestEnv, generic_kernel, package};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The kernel the measures make.
const NAME: &str = "bench-6.1";
/// Bytes of the bundle that is pulled.
const BUNDLE: u64 = 100_000_000;

/// From the VMM's start to the agent's announcement: the generic kernel against the distribution's modular one, under
/// the same VMM, bare. 1.5 times faster is two thirds of the time.
pub(crate) fn boot(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let shape = ["--memory", "512M", "--vcpu", "1", "--init", "agent"];
    let modular = Floor::capture(env, &shape)?;
    let other = TestEnv::real().context("this machine cannot run VMs")?;
    let kernel = generic_kernel().context("this machine cannot build a kernel")?;
    other.banger(["kernel", "import", "generic-6.12", "--from"]).args([kernel]).run().expect(0);
    let generic = Floor::capture(&other, &[&shape[..], &["--kernel", "generic-6.12"]].concat())?;
    report.compare(
        ("generic-6.12 to the agent", "the distribution's cloud kernel to the agent, same VMM"),
        Target::Ratio(1.0 / 1.5),
        rounds,
        || generic.boot(),
        || modular.boot(),
    )
}

/// A bundle from loopback: fetched, hashed, unpacked, described, on the disk. The tools do the first three, and like
/// ours remove what they made before.
pub(crate) fn pull(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let public = env.home().join("public");
    fs::create_dir(&public)?;
    let server = FileServer::start(&public).context("no web server here")?;
    let bundle = bundle(env, &public)?;
    let size = fs::metadata(&bundle)?.len();
    let sum = Command::new("sha256sum").arg(&bundle).output()?;
    let sha256 = String::from_utf8_lossy(&sum.stdout[..64]).into_owned();
    let url = server.url("bundle");
    let catalog = env.home().join("catalog.json");
    let entry = serde_json::json!({"name": NAME, "distro": "bench", "arch": "x86_64", "kernel_version": "6.1",
        "sources": [{"type": "bundle", "url": url, "sha256": sha256, "size": size}]});
    fs::write(&catalog, serde_json::json!({"version": 1, "entries": [entry]}).to_string())?;
    env.configure(&format!("[[kernel_catalog]]\npath = \"{}\"\n", catalog.display()));
    let tools =
        format!("rm -rf out && mkdir out && curl -s {url} | tee >(sha256sum >sum) | zstd -d | tar x -C out; wait");
    report.compare(
        ("kernel pull of a 100 MB bundle", "curl | tee >(sha256sum) | zstd -d | tar x"),
        Target::Ratio(1.1),
        rounds,
        || timed(env.banger(["kernel", "pull", "--quiet", "--force", NAME])),
        || timed(env.program("bash").args(["-c", &tools])),
    )
}

/// A distribution's package: unpacked, its kernel too, indexed, described, on the disk. `dpkg-deb` does the first. Both
/// make something new each time, and begin with nothing waiting for the disk: ours brings to it what it made, and would
/// have to bring what `dpkg-deb` left to be written some time. Nothing is removed in between: for a minute after
/// thousands of files were deleted, ext4 passes over their inodes one by one when it makes new ones, which costs either
/// side more than its own work.
pub(crate) fn import(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let golden = env.banger(["kernel", "show", "debian-6.1", "--json"]).run().expect(0).json();
    let name = golden["source"].as_str().and_then(|source| source.split(' ').nth(1)).context("a package")?;
    let deb = package(env.home(), name);
    let round = std::cell::Cell::new(0);
    let next = || {
        env.program("sync").run().expect(0);
        round.set(round.get() + 1);
        round.get()
    };
    report.compare(
        ("kernel import of the cloud kernel's .deb", "dpkg-deb -x"),
        Target::Ratio(1.5),
        rounds,
        || timed(env.banger(["kernel", "import", "--quiet", &format!("bench{}-6.1", next()), "--from"]).args([&deb])),
        || timed(env.program("dpkg-deb").args(["-x"]).args([&deb]).args([format!("out{}", next())])),
    )
}

/// A real kernel and an initrd that is half modules, half noise: some of it packs, as in a real bundle, some does not.
fn bundle(env: &TestEnv, public: &Path) -> Result<PathBuf> {
    let (kernel, parts) = (env.layout().kernel(&"debian-6.1".parse()?), env.home().join("parts"));
    fs::create_dir(&parts)?;
    fs::copy(kernel.join("vmlinux"), parts.join("vmlinux"))?;
    let bundle = public.join("bundle");
    let fill = |noise: u64| -> Result<u64> {
        let script = format!(
            "(find {}/modules -name '*.ko' -exec cat {{}} + && head -c {noise} /dev/urandom) >{2}/initrd.img && \
             tar -C {2} -c vmlinux initrd.img | zstd -q -3 -T2 -f -o {1}",
            kernel.display(),
            bundle.display(),
            parts.display()
        );
        let made = Command::new("bash").args(["-c", &script]).status()?;
        ensure!(made.success(), "packing a bundle ended with {made}");
        Ok(fs::metadata(&bundle)?.len())
    };
    let packed = fill(0)?;
    fill(BUNDLE.saturating_sub(packed))?;
    Ok(bundle)
}
