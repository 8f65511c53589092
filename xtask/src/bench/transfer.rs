//! Bytes into and out of a guest against ssh into the same one, on the same channel. What arrives is looked at: a way
//! that loses some would be the fastest.

use super::{
    compare::{Report, Target},
    measures::timed,
    ssh::{Guest, VM},
};
use anyhow::{Context, Result, ensure};
use banger_testkit::{Invocation, TestEnv};
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Bytes of a command's output.
const OUTPUT: u64 = 100_000_000;
/// Files of the tree, over so many directories.
const FILES: (u32, u32) = (20_000, 200);
/// Half the time.
const TWICE_AS_FAST: Target = Target::Ratio(0.5);

/// What a command writes.
pub(crate) fn output(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let guest = Guest::start(env)?;
    let line = format!("head -c {OUTPUT} /dev/zero");
    report.compare(
        ("exec of 100 MB output", "the same through ssh"),
        TWICE_AS_FAST,
        rounds,
        || timed(env.banger(["exec", VM, "--", "sh", "-c", &line])),
        || timed(guest.ssh(&line)),
    )?;
    for once_more in [env.banger(["exec", VM, "--", "sh", "-c", &line]), guest.ssh(&line)] {
        let arrived = once_more.run().expect(0).out().len() as u64;
        ensure!(arrived == OUTPUT, "{arrived} bytes of {OUTPUT} arrived");
    }
    Ok(())
}

/// One large file. Not of zeroes: what a hole costs is another question.
pub(crate) fn large(env: &TestEnv, rounds: u32, mib: usize, report: &mut Report) -> Result<()> {
    let place = memory()?;
    let file = place.path().join("large");
    let mut to = File::create(&file).context("a large file")?;
    let piece = vec![0x5a; 1 << 20];
    (0..mib).try_for_each(|_| to.write_all(&piece)).context("a large file")?;
    both_ways(env, rounds, report, &format!("{mib} MiB"), &file)
}

/// Many small files.
pub(crate) fn small(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let place = memory()?;
    let tree = place.path().join("tree");
    let (files, directories) = FILES;
    for directory in 0..directories {
        let place = tree.join(directory.to_string());
        fs::create_dir_all(&place)?;
        for file in 0..files / directories {
            fs::write(place.join(file.to_string()), format!("file {file} of directory {directory}\n"))?;
        }
    }
    both_ways(env, rounds, report, "20,000 files", &tree)
}

/// A directory whose disk is nobody's bottleneck: what this host's takes is not the question.
fn memory() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("banger-bench").tempdir_in("/dev/shm")?)
}

fn both_ways(env: &TestEnv, rounds: u32, report: &mut Report, what: &str, from: &Path) -> Result<()> {
    let guest = Guest::start(env)?;
    let name = from.file_name().context("a name")?.to_string_lossy().into_owned();
    let place = from.parent().context("a directory")?;
    // Each copy goes to where nothing is, and making room is nobody's time; nor is counting what came.
    let sum = "awk '{ n++; s += $1 } END { printf \"%d %.0f\", n, s }'";
    let count = format!("find {name} -type f -printf '%s\\n' | {sum}");
    let sent = env.program("sh").args(["-c", &count]).current_dir(place).run().expect(0).out();
    let in_guest = |line: &str| env.banger(["exec", VM, "--", "sh", "-c", line]).run().expect(0).out();
    let into_guest = |copy: Invocation| -> Result<Duration> {
        in_guest("rm -rf /root/copies && mkdir /root/copies");
        let took = timed(copy)?;
        let arrived = in_guest(&format!("cd /root/copies && {count}"));
        ensure!(arrived == sent, "{arrived} files and bytes of {sent} arrived");
        Ok(took)
    };
    let with_banger = || env.banger(["cp", &from.display().to_string(), &format!("{VM}:/root/copies/")]);
    report.compare(
        (&format!("cp of {what} into the guest"), "tar | ssh tar"),
        TWICE_AS_FAST,
        rounds,
        || into_guest(with_banger()),
        || into_guest(guest.ssh_from(&format!("tar -C {} -cf - {name}", place.display()), "tar -C /root/copies -xf -")),
    )?;
    // What comes out is compared with what went in this way.
    into_guest(with_banger())?;
    let copies = place.join("copies");
    let out_of_guest = |copy: Invocation| -> Result<Duration> {
        remake(&copies)?;
        let took = timed(copy)?;
        env.program("diff").args(["-r".as_ref(), from.as_os_str(), copies.join(&name).as_os_str()]).run().expect(0);
        Ok(took)
    };
    let there = format!("{VM}:/root/copies/{name}");
    report.compare(
        (&format!("cp of {what} out of the guest"), "ssh tar | tar"),
        TWICE_AS_FAST,
        rounds,
        || out_of_guest(env.banger(["cp", &there, &copies.display().to_string()])),
        || {
            let unpack = format!("tar -C {} -xf -", copies.display());
            out_of_guest(guest.ssh_into(&format!("tar -C /root/copies -cf - {name}"), &unpack))
        },
    )
}

fn remake(directory: &PathBuf) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(fs::create_dir(directory)?)
}
