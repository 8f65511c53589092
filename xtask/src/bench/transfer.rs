//! Bytes into and out of a guest against ssh into the same one, on the same channel.

use super::{
    compare::{Report, Target},
    measures::timed,
    ssh::{Guest, VM},
};
use anyhow::{Context, Result};
use banger_testkit::TestEnv;
use std::{fs, path::Path};

/// Bytes of a command's output.
const OUTPUT: u64 = 100_000_000;
/// Bytes of the large file.
const LARGE: u64 = 1 << 30;
/// Files of the tree, over so many directories.
const FILES: (u32, u32) = (20_000, 200);

pub(crate) fn run(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let guest = Guest::start(env)?;
    let line = format!("head -c {OUTPUT} /dev/zero");
    report.compare(
        ("exec of 100 MB output", "the same through ssh"),
        Target::Ratio(0.5),
        rounds,
        || timed(env.banger(["exec", VM, "--", "sh", "-c", &line])),
        || timed(guest.ssh(&line)),
    )?;
    let (large, tree) = (env.home().join("large"), env.home().join("tree"));
    // Not sparse on the way: what a hole costs is another question.
    fs::write(&large, vec![0x5a; usize::try_from(LARGE)?]).context("a large file")?;
    plant(&tree)?;
    for (what, from) in [("cp of 1 GiB into the guest", &large), ("cp of 20,000 files into the guest", &tree)] {
        let name = from.file_name().context("a name")?.to_string_lossy().into_owned();
        let tar = format!("tar -C {} -cf - {name}", env.home().display());
        report.compare(
            (what, "tar | ssh tar"),
            Target::Ratio(0.5),
            rounds,
            || timed(env.banger(["cp", &from.display().to_string(), &format!("{VM}:/root/ours")])),
            || timed(guest.ssh_from(&tar, "mkdir -p /root/theirs && tar -C /root/theirs -xf -")),
        )?;
        env.banger(["exec", VM, "--", "rm", "-rf", "/root/ours", "/root/theirs"]).run().expect(0);
    }
    Ok(())
}

fn plant(tree: &Path) -> Result<()> {
    let (files, directories) = FILES;
    for directory in 0..directories {
        let place = tree.join(directory.to_string());
        fs::create_dir_all(&place)?;
        for file in 0..files / directories {
            fs::write(place.join(file.to_string()), format!("file {file} of directory {directory}\n"))?;
        }
    }
    Ok(())
}
