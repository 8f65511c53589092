//! A repository into a guest and a patch out of it, against git and rsync over ssh into the same guest; and how many
//! bytes that moves.

use super::{
    compare::{Report, Target},
    measures::timed,
    ssh::{Guest, VM},
};
use crate::repository::root;
use anyhow::{Result, ensure};
use banger_testkit::{Meter, TestEnv};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

/// Files of the generated repository, over so many directories.
const FILES: (u32, u32) = (20_000, 200);
/// Commits of it, and files each changes after the first.
const COMMITS: (u32, u32) = (30, 20);
/// Half the time.
const TWICE_AS_FAST: Target = Target::Ratio(0.5);
/// What the guest is like: as many processors as a VM gets by itself.
const SHAPE: [&str; 2] = ["--memory", "1G"];
/// In the guest: git speaks to whoever is at the other end of this ssh connection, as it would to an ssh of its own.
const CLONE: &str = "cat > /tmp/ends <<'X'\nexec 7<&0; cat <&7 >&9 & exec cat <&8\nX\nGIT_SSH_COMMAND='sh /tmp/ends' \
                     GIT_SSH_VARIANT=simple git -c protocol.version=0 clone -q --depth 10 ssh://host/repo /root/theirs 8<&0 9>&1";

/// Import of 20,000 files against `git clone --depth 10`.
pub(crate) fn clone(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let (guest, repo) = (Guest::shaped(env, &SHAPE)?, many_files(env)?);
    let fifo = env.home().join("answers").display().to_string();
    let made = env.program("mkfifo").args([&fifo]).run();
    ensure!(made.code() == 0, "{made}");
    let ends = format!("git-upload-pack {} < {fifo} | ssh \"$@\" > {fifo}", repo.display());
    report.compare(
        ("import of 20,000 files", "git clone --depth 10 over ssh"),
        TWICE_AS_FAST,
        rounds,
        || import(env, &repo),
        || {
            clear(env);
            timed(guest.around(&ends, CLONE))
        },
    )
}

/// Import of 20,000 files against rsync of the same directory.
pub(crate) fn rsync(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let (guest, repo) = (Guest::shaped(env, &SHAPE)?, many_files(env)?);
    report.compare(
        ("import of 20,000 files", "rsync -a -e ssh of the tree"),
        TWICE_AS_FAST,
        rounds,
        || import(env, &repo),
        || {
            clear(env);
            timed(guest.rsync(&format!("{}/", repo.display()), "/root/theirs/"))
        },
    )
}

/// Export of changes among 20,000 files against `git diff` through ssh.
pub(crate) fn export(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let (guest, repo) = (Guest::shaped(env, &SHAPE)?, many_files(env)?);
    import(env, &repo)?;
    let work = "cd /root/repo && for f in d1/*; do echo changed >> $f; done && git add d1/f100.rs && echo new > new";
    env.banger(["exec", VM, "--", "sh", "-c", work]).run().expect(0);
    let patch = env.home().join("patch").display().to_string();
    report.compare(
        ("export of 101 changes among 20,000 files", "ssh git diff HEAD"),
        Target::Ratio(1.2),
        rounds,
        || timed(env.banger(["vm", "workspace", "export", "--quiet", VM, "-o", &patch])),
        || timed(guest.ssh("git -C /root/repo diff --binary HEAD")),
    )
}

/// A throw-away VM with this repository in it against one without.
pub(crate) fn run(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let repo = this(env);
    report.compare(
        ("vm run . --rm -- true", "vm run --rm -- true"),
        Target::Ratio(1.3),
        rounds,
        || timed(env.banger(["vm", "run", "--quiet", "--rm", ".", "--", "true"]).current_dir(&repo)),
        || timed(env.banger(["vm", "run", "--quiet", "--rm", "--", "true"]).current_dir(&repo)),
    )
}

/// Bytes that pass between commands and the agent for an import, questions and answers included, against git's own
/// packs of the same objects: the last ten generations of commits and all they name, and what changed since. Twice: of
/// whole objects, as they travel, and of such as describe one another, which is work for whoever makes and reads them.
pub(crate) fn wire(env: &TestEnv, report: &mut Report) -> Result<()> {
    env.banger(["vm", "run", "-d", "--quiet", "--name", VM].iter().chain(&SHAPE)).run().expect(0);
    for (what, repo) in [("import of 20,000 files", many_files(env)?), ("import of this repository", this(env))] {
        let git = |line: &str| env.program("sh").args(["-c", line]).current_dir(&repo).run().expect(0).out();
        // Edits without a commit travel as they are.
        git("for file in $(git ls-files | sed -n '7~500p'); do echo '// edited' >> $file; done");
        clear(env);
        let meter = Meter::of(env, VM);
        prepare(env, &repo)?;
        let passed = meter.passed();
        drop(meter);
        ensure!(passed > 0, "the {what} passed by whoever counts its bytes");
        let edited = "git diff --name-only | git hash-object -w --stdin-paths";
        // Not the last ten commits: the commits of the last ten generations.
        let commits =
            "git clone -q --bare --depth 10 file://$PWD needed.git && git -C needed.git rev-list --objects HEAD";
        // With the names of files, by which git finds what describes what.
        let needed = format!("{{ {commits}; {edited}; }}");
        for (against, how) in [
            ("whole objects in a pack of git's", "--window=0"),
            ("objects in a pack of git's, described by one another", "--window=10"),
        ] {
            let size = git(&format!("{needed} | git pack-objects -q {how} --stdout | wc -c; rm -rf needed.git"));
            report.weigh((what, against), Target::Ratio(1.3), passed, size.trim().parse()?);
        }
    }
    Ok(())
}

/// A clone of this repository.
fn this(env: &TestEnv) -> PathBuf {
    let repo = env.home().join("home/this");
    let (from, to) = (root().display().to_string(), repo.display().to_string());
    env.program("git").args(["clone", "-q", "--no-hardlinks", &from, &to]).run().expect(0);
    repo
}

fn import(env: &TestEnv, repo: &Path) -> Result<std::time::Duration> {
    clear(env);
    prepare(env, repo)
}

fn prepare(env: &TestEnv, repo: &Path) -> Result<std::time::Duration> {
    timed(env.banger(["vm", "workspace", "prepare", "--quiet", VM, &repo.display().to_string()]))
}

/// Room for the next: that is nobody's time.
fn clear(env: &TestEnv) {
    let line = "rm -rf /root/repo /root/theirs; sync";
    env.banger(["exec", "-w", "/", VM, "--", "sh", "-c", line]).run().expect(0);
}

/// A repository whose files are words, none like another, and whose history is longer than what travels.
fn many_files(env: &TestEnv) -> Result<PathBuf> {
    let repo = env.home().join("home/many");
    fs::create_dir(&repo)?;
    let git = |args: &[&str]| env.program("git").args(args).current_dir(&repo);
    git(&["init", "-q", "-b", "main"]).run().expect(0);
    let (mut stream, mut words) = (Vec::new(), Words(7));
    for commit in 0..COMMITS.0 {
        let time = 1_700_000_000 + commit;
        write!(
            stream,
            "commit refs/heads/main\nmark :{}\ncommitter T <t@example.com> {time} +0000\ndata 1\nx\n",
            commit + 1
        )?;
        if commit > 0 {
            writeln!(stream, "from :{commit}")?;
        }
        for n in 0..if commit == 0 { FILES.0 } else { COMMITS.1 } {
            let file = if commit == 0 { n } else { words.next() % FILES.0 };
            let content = words.text(10 + words.peek() % 590);
            let directory = file / (FILES.0 / FILES.1);
            write!(stream, "M 100644 inline d{directory}/f{file}.rs\ndata {}\n{content}\n", content.len())?;
        }
    }
    git(&["fast-import", "--quiet"]).stdin(stream).run().expect(0);
    git(&["reset", "-q", "--hard", "main"]).run().expect(0);
    Ok(repo)
}

/// The same words each time.
struct Words(u32);

impl Words {
    fn peek(&self) -> u32 {
        self.0 >> 8
    }

    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.peek()
    }

    fn text(&mut self, words: u32) -> String {
        let mut text = String::new();
        for _ in 0..words {
            // One of a few thousand, two to nine letters long, as identifiers are.
            let mut word = self.next() % 5000;
            for _ in 0..2 + word % 8 {
                word = word.wrapping_mul(2_654_435_761).rotate_left(7);
                text.push(char::from(b'a' + u8::try_from(word % 26).unwrap_or(0)));
            }
            text.push(' ');
        }
        text.push('\n');
        text
    }
}
