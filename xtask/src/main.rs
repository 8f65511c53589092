//! Developer tasks that a shell script would do badly: repository rules, generated documents, packages, the benchmark.
//!
//! Run through the Makefile; `cargo run -p xtask -- help` lists them.

mod bench;
mod boots;
mod check_repo;
mod dist;
mod generate;
mod repository;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(about = "Developer tasks of banger")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the rules of this repository that no compiler checks.
    CheckRepo,
    /// Write man pages and shell completions below DIR.
    Gen {
        /// Where `scripts/build.sh release` put the programs.
        #[arg(long)]
        bin_dir: PathBuf,
        /// Gets `man/man1` and the shells' completion directories.
        dir: PathBuf,
    },
    /// Pack programs, man pages and completions into `dist/`.
    Dist {
        /// Where `scripts/build.sh release` put the programs.
        #[arg(long)]
        bin_dir: PathBuf,
    },
    /// Install programs, man pages, completions and the systemd units of the network helper.
    Install {
        /// Where `scripts/build.sh release` put the programs.
        #[arg(long)]
        bin_dir: PathBuf,
        /// Gets `bin/` and `share/`.
        #[arg(long)]
        prefix: PathBuf,
        /// A directory that stands in for the root of the file system, for those who pack.
        #[arg(long, default_value = "/")]
        destdir: PathBuf,
    },
    /// Measure banger against what it stands on.
    Bench(bench::Args),
    /// Boot throw-away VMs one after the other; fail with the first that hangs.
    Boots(boots::Args),
    /// Join stdin and stdout to a port in a guest; the benchmark's `ProxyCommand`.
    #[command(hide = true)]
    GuestPort {
        /// The VM's hybrid-vsock socket.
        socket: PathBuf,
        /// A TCP port on the guest's loopback.
        port: u16,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program's talk")]
fn complain(text: &str) {
    eprintln!("{text}");
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::CheckRepo => check_repo::run(),
        Task::Gen { bin_dir, dir } => generate::into(&dir, &bin_dir.join("banger")),
        Task::Dist { bin_dir } => dist::pack(&bin_dir),
        Task::Install { bin_dir, prefix, destdir } => {
            let prefix = std::path::absolute(prefix)?;
            dist::install(&bin_dir, &destdir.join(prefix.strip_prefix("/")?), &prefix)
        }
        Task::Bench(args) => bench::run(&args),
        Task::Boots(args) => boots::run(&args),
        Task::GuestPort { socket, port } => bench::guest_port::join(&socket, port),
    }
}
