//! Files into a VM and out of it: the real CLI and the real agent, with everything a tree may hold.

use crate::{delete, start};
use banger_testkit::TestEnv;
use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

/// A tree with links, holes, modes and an odd name.
fn plant(tree: &Path) {
    fs::create_dir_all(tree.join("sub dir")).expect("a directory");
    fs::write(tree.join("a:b"), "colon\n").expect("a file");
    fs::write(tree.join("sub dir/run"), "#!/bin/sh\n").expect("a file");
    fs::set_permissions(tree.join("sub dir/run"), fs::Permissions::from_mode(0o751)).expect("permissions");
    fs::hard_link(tree.join("sub dir/run"), tree.join("same")).expect("a hard link");
    symlink("sub dir/run", tree.join("link")).expect("a link");
    let sparse = fs::File::create(tree.join("sparse")).expect("a file");
    sparse.set_len(64 << 20).expect("a length");
    sparse.write_all_at(b"end", (64 << 20) - 3).expect("an end");
}

#[track_caller]
fn check(tree: &Path, what: &str) {
    let meta =
        |name: &str| fs::symlink_metadata(tree.join(name)).unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
    assert_eq!(fs::read(tree.join("a:b")).expect("a file"), b"colon\n", "{what}");
    assert_eq!(meta("sub dir/run").mode() & 0o7777, 0o751, "{what}");
    assert_eq!(meta("sub dir/run").ino(), meta("same").ino(), "{what}: a hard link is one");
    assert_eq!(fs::read_link(tree.join("link")).expect("a link"), Path::new("sub dir/run"), "{what}");
    assert_eq!(meta("sparse").len(), 64 << 20, "{what}");
    // What is a hole in an archive is for whoever unpacks it to say, and tar does not ask.
    let holes = meta("sparse").blocks() * 512 < 8 << 20;
    assert!(holes || what == "to stdout", "{what}: {} blocks of a hole", meta("sparse").blocks());
    let mut end = [0; 3];
    fs::File::open(tree.join("sparse")).and_then(|file| file.read_exact_at(&mut end, (64 << 20) - 3)).expect("an end");
    assert_eq!(&end, b"end", "{what}");
}

#[test]
fn trees_and_archives_go_both_ways() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "c");
    let home = env.home().join("home");
    plant(&home.join("tree"));
    // The guest is a process of this host: its files can be looked at.
    let there = home.join("there");
    fs::create_dir(&there).expect("a directory");
    let guest = |name: &str| format!("c:{}", there.join(name).display());
    env.banger(["cp", "tree", &guest("")]).run().expect(0);
    check(&there.join("tree"), "into the guest");
    env.banger(["vm", "cp", &guest("tree"), "back"]).run().expect(0);
    check(&home.join("back"), "and back");

    // A name with a colon is a file here when it says so, and one there after the first colon.
    env.banger(["cp", "./tree/a:b", &guest("x:y")]).run().expect(0);
    assert_eq!(fs::read(there.join("x:y")).expect("a file"), b"colon\n");
    env.banger(["cp", &guest("x:y"), "./z:z"]).run().expect(0);
    assert_eq!(fs::read(home.join("z:z")).expect("a file"), b"colon\n");

    // Archives, as tar makes and takes them.
    fs::create_dir(there.join("unpacked")).expect("a directory");
    let banger = banger_testkit::bin_dir().join("banger").display().to_string();
    let line = format!("tar -cSf - tree | {banger} cp - {}", guest("unpacked"));
    env.program("sh").args(["-c", &line]).run().expect(0);
    check(&there.join("unpacked/tree"), "from stdin");
    let line = format!("mkdir out && {banger} cp {} - | tar -xf - -C out", guest("tree"));
    env.program("sh").args(["-c", &line]).run().expect(0);
    check(&home.join("out/tree"), "to stdout");

    // A link to a directory is one; else a file takes the place of what is there, and a directory takes none.
    fs::write(there.join("file"), "kept\n").expect("a file");
    for (link, target) in [("into", "unpacked"), ("alias", "file"), ("dangling", "nowhere")] {
        symlink(target, there.join(link)).expect("a link");
    }
    for to in ["file", "alias", "dangling", "file/."] {
        let out = env.banger(["cp", "tree", &guest(to)]).run().expect(1);
        assert!(out.err().contains("is not a directory"), "{to}: {out}");
    }
    for to in ["into", "alias", "dangling"] {
        env.banger(["cp", "./tree/a:b", &guest(to)]).run().expect(0);
    }
    for copy in ["unpacked/a:b", "alias", "dangling"] {
        assert!(!there.join(copy).is_symlink(), "{copy}");
        assert_eq!(fs::read(there.join(copy)).expect(copy), b"colon\n");
    }
    assert_eq!(fs::read(there.join("file")).expect("a file"), b"kept\n");

    for (args, said) in [
        (["cp", "tree", "elsewhere"], "one end"),
        (["cp", "-", "elsewhere"], "one end"),
        (["cp", &guest("tree"), "c:/tmp/x"], "one end"),
        (["cp", "nothing", &guest("")], "nothing"),
        (["cp", &guest("nothing"), "."], "nothing"),
        (["cp", "tree", "c:relative"], "not absolute"),
    ] {
        let out = env.banger(args).run().expect(1);
        assert!(out.err().contains(said), "{args:?}: {out}");
    }
    // An archive that breaks off is not taken for a whole one.
    let line = format!("tar -cf - tree/sparse | head -c 100000 | {banger} cp - {}", guest("unpacked"));
    env.program("sh").args(["-c", &line]).run().expect(1);
    delete(&env, "c");
}

#[test]
fn chosen_files_are_in_every_vm_and_no_others() {
    let Some(env) = TestEnv::fake() else { return };
    let home = env.home().join("home");
    let there = home.join("there");
    fs::create_dir_all(home.join("conf")).expect("a directory");
    fs::write(home.join("conf/real"), "mine\n").expect("a file");
    symlink("conf/real", home.join("inside")).expect("a link");
    symlink("/etc/hostname", home.join("outside")).expect("a link");
    let entry = |host: &str, guest: &str, more: &str| {
        format!("[[file_sync]]\nhost = \"~/{host}\"\nguest = \"{}\"\n{more}", there.join(guest).display())
    };
    env.configure_also(&entry("inside", "deep/copy", "mode = \"0640\"\n"));
    env.configure_also(&entry("conf/real", "private", ""));
    env.configure_also(&entry("outside", "stolen", ""));
    env.configure_also(&entry("missing", "nothing", ""));
    let out = env.banger(["vm", "run", "-d", "--name", "c"]).run().expect(0);
    assert!(out.err().contains("leaves out ~/outside") && out.err().contains("leaves your home"), "{out}");
    assert!(out.err().contains("leaves out ~/missing"), "{out}");
    let mode = |name: &str| fs::metadata(there.join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!(fs::read(there.join("deep/copy")).expect("a file"), b"mine\n");
    assert_eq!((mode("deep/copy"), mode("private")), (0o640, 0o600));
    assert!(!there.join("stolen").exists() && !there.join("nothing").exists());
    // Every start brings them as they are then.
    fs::write(home.join("conf/real"), "changed\n").expect("a file");
    env.banger(["vm", "stop", "c"]).run().expect(0);
    env.banger(["vm", "start", "c"]).run().expect(0);
    assert_eq!(fs::read(there.join("private")).expect("a file"), b"changed\n");
    delete(&env, "c");

    env.banger(["daemon", "stop"]).run().expect(0);
    for bad in ["/etc/passwd", "~/../x", "conf/real"] {
        env.configure(&format!("[[file_sync]]\nhost = \"{bad}\"\nguest = \"/x\"\n"));
        let out = env.banger(["ps"]).run().expect(1);
        assert!(out.err().contains("home only"), "{bad}: {out}");
    }
}
