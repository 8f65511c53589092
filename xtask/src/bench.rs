//! The benchmark: banger's cost over the programs it builds on.
//!
//! Every comparison runs both sides alternately, so that a busy machine affects both, and compares medians. The homes
//! are those of the tests: hermetic, with the real kernel and image, and removed afterwards.

mod compare;
mod floor;
pub(crate) mod guest_port;
mod images;
mod kernels;
mod life;
mod measures;
mod network;
mod phases;
mod ssh;
mod transfer;
mod workspace;

use anyhow::{Context, Result};
use banger_testkit::TestEnv;
use clap::ValueEnum;
use compare::Report;
use std::path::PathBuf;

/// What to measure and how often.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pairs of measurements for each comparison; with fewer than ten the table says that it holds no figures.
    #[arg(long, default_value_t = compare::QUOTABLE, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Mebibytes of the large file of `copy-large`.
    #[arg(long, default_value_t = 1024)]
    large_mib: usize,
    /// Gets every sample.
    #[arg(long, default_value = "target/bench.json")]
    out: PathBuf,
    /// Only these; all when absent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// `vm run --rm -- true` against the same QEMU started by hand.
    Run,
    /// `vm exec` against ssh into the same guest.
    Exec,
    /// `ps` with 50 VMs against process start; memory of daemon and shim.
    Ps,
    /// `vm create` with a small and a large disk.
    Create,
    /// Where the time of a boot goes.
    Phases,
    /// The generic kernel's boot against that of the distribution's modular one.
    KernelBoot,
    /// `kernel pull` against curl, sha256sum, zstd and tar.
    KernelPull,
    /// `kernel import` of a package against dpkg-deb.
    KernelImport,
    /// Attaching a VM to its network against ip and nft by hand, and beside a hundred others.
    Attach,
    /// A published port against socat.
    Ports,
    /// A stream from a guest to the outside against a plain veth.
    Nat,
    /// The guests' resolver against dnsmasq.
    Dns,
    /// Ten VMs at once against one.
    Together,
    /// An orderly stop.
    Stop,
    /// Deleting a VM that runs.
    Delete,
    /// Two hundred commands at once in one VM.
    Execs,
    /// A hundred megabytes of a command's output against ssh.
    Output,
    /// A gigabyte into a guest and out of it against tar and ssh. Minutes.
    CopyLarge,
    /// Twenty thousand files into a guest and out of it against tar and ssh. Minutes.
    CopySmall,
    /// Pulling a gigabyte of packages against skopeo, umoci and mke2fs, and the daemon's memory. Minutes.
    ImagePull,
    /// The same against decompression alone.
    ImageFloor,
    /// Pulling what is here already.
    ImageAgain,
    /// An image with one directory of 100,000 files against one with 1,000 directories.
    ImageDirectory,
    /// `vm run` on a 5 GB image against a 50 MB one.
    ImageSize,
    /// A repository of 20,000 files into a guest against `git clone` over ssh. Minutes.
    WorkspaceClone,
    /// The same against rsync. Minutes.
    WorkspaceRsync,
    /// A patch out of it against `git diff` through ssh.
    WorkspaceExport,
    /// `vm run . --rm -- true` against the same without a repository.
    WorkspaceRun,
    /// Bytes that pass for an import against the size of the objects that are needed, as git packs them.
    WorkspaceWire,
}

const ALL: [Measure; 29] = [
    Measure::Run,
    Measure::Exec,
    Measure::Ps,
    Measure::Create,
    Measure::Phases,
    Measure::KernelBoot,
    Measure::KernelPull,
    Measure::KernelImport,
    Measure::Attach,
    Measure::Ports,
    Measure::Nat,
    Measure::Dns,
    Measure::Together,
    Measure::Stop,
    Measure::Delete,
    Measure::Execs,
    Measure::Output,
    Measure::CopyLarge,
    Measure::CopySmall,
    Measure::ImagePull,
    Measure::ImageFloor,
    Measure::ImageAgain,
    Measure::ImageDirectory,
    Measure::ImageSize,
    Measure::WorkspaceClone,
    Measure::WorkspaceRsync,
    Measure::WorkspaceExport,
    Measure::WorkspaceRun,
    Measure::WorkspaceWire,
];

/// Measures, prints the table and writes the samples.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::of(args.rounds);
    for measure in if args.only.is_empty() { &ALL } else { args.only.as_slice() } {
        let env = TestEnv::real().context("this machine cannot run VMs")?;
        match measure {
            Measure::Run => measures::run(&env, args.rounds, &mut report)?,
            Measure::Exec => ssh::exec(&env, args.rounds, &mut report)?,
            Measure::Ps => measures::ps(&env, args.rounds, &mut report)?,
            Measure::Create => measures::create(&env, args.rounds, &mut report)?,
            Measure::Phases => phases::run(&env, args.rounds, &mut report)?,
            Measure::KernelBoot => kernels::boot(&env, args.rounds, &mut report)?,
            Measure::KernelPull => kernels::pull(&env, args.rounds, &mut report)?,
            Measure::KernelImport => kernels::import(&env, args.rounds, &mut report)?,
            Measure::Attach => network::attach(args.rounds, &mut report)?,
            Measure::Ports => network::ports(args.rounds, &mut report)?,
            Measure::Nat => network::nat(args.rounds, &mut report)?,
            Measure::Dns => network::dns(args.rounds, &mut report)?,
            Measure::Together => life::together(&env, args.rounds, &mut report)?,
            Measure::Stop => life::stop(&env, args.rounds, &mut report)?,
            Measure::Delete => life::delete(&env, args.rounds, &mut report)?,
            Measure::Execs => life::execs(&env, args.rounds, &mut report)?,
            Measure::Output => transfer::output(&env, args.rounds, &mut report)?,
            Measure::CopyLarge => transfer::large(&env, args.rounds, args.large_mib, &mut report)?,
            Measure::CopySmall => transfer::small(&env, args.rounds, &mut report)?,
            Measure::ImagePull => images::pulls(&env, args.rounds, &mut report)?,
            Measure::ImageFloor => images::floor(&env, args.rounds, &mut report)?,
            Measure::ImageAgain => images::again(&env, args.rounds, &mut report)?,
            Measure::ImageDirectory => images::directories(&env, args.rounds, &mut report)?,
            Measure::ImageSize => images::starts(&env, args.rounds, &mut report)?,
            Measure::WorkspaceClone => workspace::clone(&env, args.rounds, &mut report)?,
            Measure::WorkspaceRsync => workspace::rsync(&env, args.rounds, &mut report)?,
            Measure::WorkspaceExport => workspace::export(&env, args.rounds, &mut report)?,
            Measure::WorkspaceRun => workspace::run(&env, args.rounds, &mut report)?,
            Measure::WorkspaceWire => workspace::wire(&env, &mut report)?,
        }
    }
    report.write(&args.out)?;
    say(&format!("{report}\nsamples: {}", args.out.display()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result of the task")]
fn say(line: &str) {
    println!("{line}");
}
