//! Files of the host's in a real guest, and out of it again: what a process of the host in its place cannot show.

use crate::{BOOT, delete, sh, start};
use banger_testkit::{TestEnv, shared};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

/// Bytes of the large file, which is noise.
const LARGE: usize = 16 << 20;
/// A file that is a hole up to its last three bytes.
const SPARSE: u64 = 128 << 20;

fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_le_bytes())
    };
    std::iter::from_fn(next).flatten().take(length).collect()
}

/// Many small files, a large one, a hole, links of both kinds, modes, odd names.
fn plant(tree: &Path) {
    for dir in 0..20 {
        let dir = tree.join(format!("many/{dir}"));
        fs::create_dir_all(&dir).expect("directories");
        for file in 0..50 {
            fs::write(dir.join(format!("{file}")), format!("{file}\n").repeat(file)).expect("a file");
        }
    }
    fs::write(tree.join("large"), noise(LARGE)).expect("a file");
    fs::write(tree.join("a:b"), "colon\n").expect("a file");
    fs::write(tree.join("new\nline"), "").expect("a file");
    fs::write(tree.join("run"), "#!/bin/sh\n").expect("a file");
    fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o751)).expect("permissions");
    fs::hard_link(tree.join("run"), tree.join("many/same")).expect("a hard link");
    symlink("many/0", tree.join("link")).expect("a link");
    let sparse = fs::File::create(tree.join("sparse")).expect("a file");
    sparse.set_len(SPARSE).and_then(|()| sparse.write_all_at(b"end", SPARSE - 3)).expect("a hole and an end");
}

/// What a tree holds: of each path its kind and mode, when it was changed, and what is in it.
fn look(tree: &Path) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
    let (mut items, mut dirs) = (BTreeMap::new(), vec![tree.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("metadata"));
            let content = if meta.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
            } else if meta.len() == SPARSE {
                let (mut end, file) = ([0; 3], fs::File::open(&path).expect("a file"));
                file.read_exact_at(&mut end, SPARSE - 3).expect("an end");
                end.to_vec()
            } else {
                fs::read(&path).expect("a file")
            };
            let changed = if meta.is_symlink() { 0 } else { meta.mtime() };
            items.insert(path.strip_prefix(tree).expect("in it").to_owned(), (meta.mode(), changed, content));
        }
    }
    items
}

#[test]
fn files_go_into_a_real_guest_and_come_back() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let home = env.home().join("home");
    fs::write(home.join("dotfile"), "mine\n").expect("a file");
    env.configure_also("[[file_sync]]\nhost = \"~/dotfile\"\nguest = \"~/.conf/dot\"\nmode = \"0640\"\n");
    env.configure_also("[[file_sync]]\nhost = \"~/dotfile\"\nguest = \"/srv/deep/private\"\n");
    start(&env, "c");
    let synced = "stat -c '%U %G %a %n' /root/.conf/dot /srv/deep/private /srv/deep; cat /root/.conf/dot";
    assert_eq!(
        sh(&env, "c", synced),
        "root root 640 /root/.conf/dot\nroot root 600 /srv/deep/private\nroot root 755 /srv/deep\nmine\n"
    );

    let tree = home.join("tree");
    plant(&tree);
    let there = look(&tree);
    let cp = |from: &str, to: &str| env.banger(["vm", "cp", "--quiet", from, to]).patience(BOOT).run().expect(0);
    cp("tree", "c:/root/");
    let sum = env.program("md5sum").args([tree.join("large")]).run().expect(0).out();
    let sum = sum.split(' ').next().expect("a sum");
    let line = "cd /root/tree; md5sum < large; find . -type f | wc -l; stat -c '%U %a %h' run; tail -c 3 sparse; echo; \
                [ $(stat -c %b sparse) -lt 2048 ] && echo hole; [ run -ef many/same ] && readlink link; cat ./a:b";
    // The name with a line in it counts twice.
    let files = 20 * 50 + 7;
    assert_eq!(sh(&env, "c", line), format!("{sum}  -\n{files}\nroot 751 2\nend\nhole\nmany/0\ncolon\n"));
    cp("c:/root/tree", "back");
    assert!(look(&home.join("back")) == there, "not as it was");
    let meta = |name: &str| fs::metadata(home.join("back").join(name)).expect("metadata");
    assert_eq!(meta("run").ino(), meta("many/same").ino());
    assert!(meta("sparse").blocks() * 512 < 1 << 20, "{} blocks of a hole", meta("sparse").blocks());

    cp("./tree/a:b", "c:/root/x:y");
    cp("c:/root/x:y", "./z:z");
    assert_eq!(fs::read(home.join("z:z")).expect("a file"), b"colon\n");
    // Archives, through pipes.
    let banger = banger_testkit::bin_dir().join("banger").display().to_string();
    let line = format!(
        "set -e; tar -c tree/run tree/many/1 | {banger} cp - c:/srv; mkdir out; {banger} cp c:/srv/tree - | tar -x -C out"
    );
    env.program("sh").args(["-c", &line]).patience(BOOT).run().expect(0);
    assert!(look(&home.join("out/tree/many/1")) == look(&tree.join("many/1")), "not as it was, through pipes");
    delete(&env, "c");
}
