//! Streams of repositories: their content, and what git makes of them.

use super::*;
use crate::workspace::{
    leftovers::RepositoryLeftovers,
    plan::{ImportRequest, Plan},
};
use std::process::Command;

fn git(dir: &Path, line: &str) -> Vec<u8> {
    let out = Command::new("sh")
        .args(["-c", line])
        .current_dir(dir)
        .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_AUTHOR_NAME", "t"), ("GIT_COMMITTER_NAME", "t")])
        .envs([("GIT_AUTHOR_EMAIL", "t@t"), ("GIT_COMMITTER_EMAIL", "t@t")])
        .output()
        .unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn request(root: &Path, mode: Mode) -> ImportRequest {
    ImportRequest {
        path: root.to_owned(),
        mode,
        branch: None,
        from: None,
        include_untracked: false,
        guest_path: "~/repo".into(),
    }
}

#[test]
fn only_objects_are_taken_out_of_a_directory_of_objects() {
    let id = "0123456789abcdef0123456789abcdef01234567";
    for name in [&id[2..], &format!("pack-{id}.pack"), &format!("pack-{id}.idx")] {
        assert!(is_object(name), "{name}");
    }
    for name in ["id_ed25519", "tmp_obj_x", "pack-x.pack", &format!("pack-{id}"), "credentials", "multi-pack-index", ""]
    {
        assert!(!is_object(name), "{name}");
    }
}

/// The file looks unchanged; git reads files that are no older than the index.
#[test]
fn what_was_changed_in_the_moment_after_it_was_added_travels_as_it_is() {
    use std::os::unix::fs::MetadataExt as _;
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap();
    git(&root, "git init -q -b main && echo one > file && git add file && git commit -q -m a && echo two > file");
    // As if all that had happened within one tick of the clock, an hour ago: some gits compare seconds alone. The index
    // has one entry, behind a header of 12 bytes.
    let file = File::options().write(true).open(root.join("file")).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600)).unwrap();
    let meta = fs::metadata(root.join("file")).unwrap();
    let path = root.join(".git/index");
    let mut index = fs::read(&path).unwrap();
    for (number, time) in [meta.ctime(), meta.ctime_nsec(), meta.mtime(), meta.mtime_nsec()].into_iter().enumerate() {
        index[12 + 4 * number..][..4].copy_from_slice(&u32::try_from(time).unwrap().to_be_bytes());
    }
    fs::write(&path, index).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    assert_eq!(git(&root, "git --no-optional-locks status --porcelain"), b" M file\n");
    let plan = Plan::make(request(&root, Mode::Overlay)).unwrap();
    assert_eq!((plan.changes.sent, plan.changes.written), (vec![b"file".to_vec()], vec![]));
}

/// Compared with git's pack of the same objects without deltas. Deltas make it smaller, by as much as the last commits
/// are alike, and are work for the guest.
#[test]
fn little_travels_beside_the_objects_that_are_needed() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap();
    git(&root, "git init -q -b main");
    // This crate's own source, changed a little in each commit.
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    git(&root, &format!("cp -r {source} src && chmod -R u+w src && git add -A && git commit -q -m 0"));
    for n in 1..15 {
        git(
            &root,
            &format!("for f in $(git ls-files | sed -n '{n}~20p'); do echo '// {n}' >> $f; done; git commit -qam {n}"),
        );
    }
    let plan = Plan::make(request(&root, Mode::Overlay)).unwrap();
    let mut sent = Vec::new();
    write(&plan, &Leftovers::default(), &mut sent).unwrap();
    let needed =
        git(&root, "git rev-list --objects -10 HEAD | cut -d' ' -f1 | git pack-objects -q --window=0 --stdout").len();
    assert!(sent.len() * 10 <= needed * 13, "{} bytes for {needed}", sent.len());
}

/// Refs come after their objects, and a backup before what is overwritten: a stream may end anywhere.
#[test]
fn what_is_named_is_there_before_its_name() {
    for mode in [Mode::Overlay, Mode::Full] {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        git(&root, "git init -q -b main && echo a > a && git add a && git commit -q -m a && git branch side");
        let plan = Plan::make(request(&root, mode)).unwrap();
        let id = "0123456789abcdef0123456789abcdef01234567";
        let backups = [("refs/banger/before/1/HEAD".to_owned(), id.to_owned())].into();
        let outer = RepositoryLeftovers { backups, shallow: vec![id.to_owned()], ..RepositoryLeftovers::default() };
        let left = Leftovers { repositories: [(Vec::new(), outer)].into(), ..Leftovers::default() };
        let mut sent = Vec::new();
        write(&plan, &left, &mut sent).unwrap();
        let mut archive = tar::Archive::new(sent.as_slice());
        let files =
            archive.entries().unwrap().map(Result::unwrap).filter(|entry| entry.header().entry_type().is_file());
        let order = files.filter_map(|entry| {
            let name = entry.path().unwrap().strip_prefix(".git").ok()?.to_str().unwrap().to_owned();
            let ranks = [("objects/", 0), ("shallow", 1), ("refs/banger/before/", 2), ("", 3)];
            ranks.into_iter().find_map(|(begin, rank)| name.starts_with(begin).then_some(rank))
        });
        let order: Vec<i32> = order.collect();
        assert!(order.is_sorted() && (0..4).all(|rank| order.contains(&rank)), "{mode}: {order:?}");
    }
}

/// Writer that runs `line` once, before the first bytes that name a pack.
struct Meddler<'a> {
    root: &'a Path,
    line: Option<&'static str>,
    taken: Vec<u8>,
}

impl Write for Meddler<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.starts_with(b".git/objects/pack/pack-")
            && let Some(line) = self.line.take()
        {
            git(self.root, line);
        }
        self.taken.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All history arrives even when listed files, packs or loose objects, are elsewhere by the time they are read.
#[test]
fn a_repository_that_is_repacked_meanwhile_arrives_whole() {
    for line in ["git gc -q --prune=now", "git repack -q -a -d -n", "true"] {
        let temp = tempfile::tempdir().unwrap();
        let (root, to) = (temp.path().canonicalize().unwrap().join("repo"), temp.path().join("to"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&to).unwrap();
        git(&root, "git init -q -b main");
        for pack in 0..3 {
            for n in 0..4 {
                git(&root, &format!("echo {pack}{n} > f{n} && git add -A && git commit -q -m {pack}{n}"));
            }
            if pack < 2 {
                git(&root, "git repack -q -d");
            }
        }
        let plan = Plan::make(request(&root, Mode::Full)).unwrap();
        let mut meddler = Meddler { root: &root, line: Some(line), taken: Vec::new() };
        write(&plan, &Leftovers::default(), &mut meddler).unwrap();
        assert_eq!(meddler.line, None, "it was too late");
        tar::Archive::new(meddler.taken.as_slice()).unpack(&to).unwrap();
        assert_eq!(git(&to, "git rev-list --objects HEAD | sort"), git(&root, "git rev-list --objects HEAD | sort"));
        git(&to, "git fsck --full");
    }
}
