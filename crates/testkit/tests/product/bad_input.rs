//! What makes no sense is refused before anything is made, and the error says what would.

use crate::{SOON, delete, images::pull, start, vms};
use banger_testkit::{Entry, ImageLayout, Output, TestEnv, require};

/// Each refused with 125 by `vm run` and with 2 by `vm create`, in these words, leaving no row. They are judged before
/// a kernel or an image is looked for, which an empty home has none of: a refusal for that would be another.
const BAD: [(&[&str], &str); 20] = [
    (&["--name", ""], VM_NAME),
    (&["--name", "0123456789012345678901234567890123456789012345678901234567890123"], VM_NAME),
    (&["--name", ".."], VM_NAME),
    (&["--name=-x"], VM_NAME),
    (&["--name", "x-"], VM_NAME),
    (&["--name", "Upper"], VM_NAME),
    (&["--name", "caf\u{e9}"], VM_NAME),
    (&["--name", "a b"], VM_NAME),
    (&["--name", "a/b"], VM_NAME),
    (&["--vcpu", "0"], VCPU),
    (&["--vcpu", "33"], VCPU),
    (&["--vcpu=-1"], VCPU),
    (&["--vcpu", "two"], VCPU),
    (&["--memory", "1"], "a VM needs at least 128 MiB"),
    (&["--memory", "0"], "a VM needs at least 128 MiB"),
    (&["--memory", "99999999999999999999G"], "such as 512M or 4GiB"),
    (&["--disk-size", "0"], DISK),
    (&["--disk-size", "2T"], DISK),
    (&["--image", ""], "1 to 255 of a-z, A-Z, 0-9"),
    (&["--kernel", "../x"], "1 to 64 of a-z, A-Z, 0-9"),
];
const VM_NAME: &str = "1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'";
const VCPU: &str = "a VM has 1 to 32";
const DISK: &str = "a work disk has 64 MiB to 1 TiB";

#[test]
fn values_out_of_range_leave_nothing() {
    let env = TestEnv::empty();
    for (bad, said) in BAD {
        let flag = bad[0].split('=').next().expect("a flag");
        let run = env.banger(["vm", "run"].iter().chain(bad).chain(&["--", "true"])).run().expect(125);
        let create = env.banger(["vm", "create", "--no-start"].iter().chain(bad)).run().expect(2);
        for refused in [run, create] {
            let names_it = refused.err().contains(&format!("for '{flag} <"));
            assert!(refused.err().starts_with("error: ") && names_it, "{bad:?}: {refused}");
            assert!(refused.err().contains(said), "{bad:?}: {refused}");
        }
    }
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

#[test]
fn combinations_that_make_no_sense_are_refused() {
    let env = TestEnv::empty();
    for (bad, said, instead) in [
        (&["-d", "--rm"][..], "error: -d and --rm exclude each other", "hint: leave out -d"),
        (&["-d", "--", "true"], "error: -d and a command exclude each other", "banger vm exec NAME -- CMD"),
    ] {
        let out = env.banger(["vm", "run"].iter().chain(bad)).run().expect(125);
        assert!(out.err().starts_with(said) && out.err().contains(instead), "{out}");
    }
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

#[test]
fn unknown_things_are_named() {
    let env = TestEnv::empty();
    let shown = [
        env.banger(["vm", "show", "nope"]).run().expect(1),
        env.banger(["vm", "exec", "nope", "--", "true"]).run().expect(125),
        env.banger(["kernel", "pull", "nope-1.0"]).run().expect(1),
        env.banger(["kernel", "show", "nope-1.0"]).run().expect(1),
        env.banger(["image", "show", "nope"]).run().expect(1),
        env.banger(["vm", "run", "--image", "Nope", "--", "true"]).run().expect(125),
        env.banger(["vm", "run", "--kernel", "nope-1.0", "--", "true"]).run().expect(125),
    ];
    let shown: Vec<String> = shown.iter().map(|out| env.filtered(out)).collect();
    insta::assert_snapshot!(shown.join("\n"));
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

#[test]
fn an_image_that_no_registry_has_leaves_no_vm() {
    let Some(env) = TestEnv::fake() else { return };
    let out = env.banger(["vm", "run", "--image", "127.0.0.1:1/none:1", "--", "true"]).run().expect(125);
    assert!(out.err().contains("error: cannot pull image 127.0.0.1:1/none:1\n"), "{out}");
    assert!(out.err().contains("cannot connect to 127.0.0.1:1\n"), "{out}");
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

#[test]
fn an_image_out_of_reach_is_found_out_before_a_kernel_is_pulled_for_it() {
    let env = TestEnv::empty();
    env.configure(&format!("qemu_bin = \"{}\"\n", banger_testkit::bin_dir().join("fake-qemu").display()));
    for (image, said) in [("127.0.0.1:1/none:1", "cannot connect to 127.0.0.1:1\n"), ("Nope", "\"Nope\"")] {
        let out = env.banger(["vm", "run", "--image", image, "--", "true"]).run().expect(125);
        assert!(out.err().contains(said), "{out}");
        assert!(!out.err().contains("kernel"), "it was pulled first: {out}");
    }
    let kernels = env.banger(["kernel", "list", "--json"]).run().expect(0).json();
    assert_eq!(kernels, serde_json::json!([]));
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

#[test]
fn an_image_larger_than_the_configuration_allows_is_refused() {
    let env = TestEnv::empty();
    let mut image = ImageLayout::new(&env.home().join("layout"));
    image.layer(&[], |layer| layer.add("large", &Entry::FILE, vec![1; 2 << 20]));
    image.layer(&[], |layer| layer.add("small", &Entry::FILE, "2"));
    let source = image.finish("app", &serde_json::json!({}));
    for (limit, said) in [
        ("max_layers = 1", "has 2 layers, more than 1"),
        ("max_unpacked = \"1MiB\"", "more than 1048576 bytes"),
        ("max_entries = 1", "more than 1 entries"),
    ] {
        env.configure(&format!("[oci]\n{limit}\n"));
        let refused = env.banger(["image", "pull", &source]).patience(SOON).run().expect(1);
        assert!(refused.err().contains(said), "{limit}: {refused}");
        assert!(refused.err().contains("[oci] in config.toml has the limits"), "{limit}: {refused}");
        env.banger(["daemon", "stop"]).run().expect(0);
    }
    env.configure("[oci]\nmax_layers = 2\nmax_unpacked = \"3MiB\"\nmax_entries = 8\n");
    assert_eq!(pull(&env, &[&source])["state"], "ready");
    env.assert_nothing_left();
}

#[test]
fn how_much_a_layer_may_unpack_to_is_for_the_configuration_to_say() {
    if !require("packers") {
        return;
    }
    let env = TestEnv::empty();
    let mut image = ImageLayout::new(&env.home().join("layout"));
    // Some 250 times its size: a bomb to one who allows less, and over what is none to anybody.
    image.layer(&["zstd", "-1", "-q"], |layer| {
        layer.stream("noise", &Entry::FILE, 1 << 20, std::fs::File::open("/dev/urandom").expect("it is there"));
        layer.stream("zeros", &Entry::FILE, 257 << 20, std::io::repeat(0));
    });
    let source = image.finish("app", &serde_json::json!({}));
    env.configure("[oci]\nmax_ratio = 100\n");
    let refused = env.banger(["image", "pull", &source]).patience(SOON).run().expect(1);
    assert!(refused.err().contains("it unpacks to more than 100 times its size"), "{refused}");
    assert!(refused.err().contains("[oci] in config.toml has the limits"), "{refused}");
    env.banger(["daemon", "stop"]).run().expect(0);
    env.configure("[oci]\nmax_ratio = 500\n");
    assert_eq!(pull(&env, &[&source])["state"], "ready");
    env.assert_nothing_left();
}

#[test]
fn a_host_without_debians_sources_builds_none_and_says_what_does() {
    if !require("root") || !require("mount") || !require("apt") {
        return;
    }
    let mut env = TestEnv::empty();
    let none = env.home().join("no-sources");
    std::fs::create_dir(&none).expect("a directory");
    env.bind(none, "/etc/apt");
    let refused = env.banger(["image", "build", "x", "--debian", "bookworm", "--json"]).patience(SOON).run().expect(1);
    let failure = refused.json();
    assert_eq!(failure["code"], "unsupported", "{failure:#}");
    assert!(refused.out().contains("this host's apt has no Debian sources"), "{failure:#}");
    assert!(refused.out().contains("`banger image pull debian:12` gets one from a registry"), "{failure:#}");
    env.assert_nothing_left();
}

#[test]
fn failures_in_json_have_one_shape() {
    let env = TestEnv::empty();
    let out = env.banger(["vm", "show", "nope", "--json"]).run().expect(1);
    let failure = out.json();
    assert_eq!(failure["code"], "not_found", "{failure:#}");
    for (key, is_right) in [("message", failure["message"].is_string()), ("causes", failure["causes"].is_array())] {
        assert!(is_right, "{key} in {failure:#}");
    }
    assert!(failure["hints"].is_array(), "{failure:#}");
    env.assert_nothing_left();
}

#[test]
fn more_memory_than_there_is_is_refused_at_start() {
    let Some(env) = TestEnv::fake() else { return };
    let out = env.banger(["vm", "run", "--memory", "999999G", "--", "true"]).run().expect(125);
    assert!(out.err().contains("of memory does not fit: this host has"), "{out}");
    assert!(out.err().contains("--overcommit"), "{out}");
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}

/// Types the command in the hint of an output that has this word.
#[track_caller]
fn type_what_is_hinted(env: &TestEnv, out: &Output, word: &str) -> Output {
    let said = out.err();
    let hint = said.lines().find(|line| line.starts_with("hint: ") && line.contains(word));
    let line = hint.and_then(|hint| hint.split('`').nth(1)).unwrap_or_else(|| panic!("{out}"));
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[0], "banger", "{out}");
    env.banger(&words[1..]).run()
}

#[test]
fn memory_that_is_in_use_is_refused_with_who_uses_it() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "holder");
    // All there is: it would fit, but something is always in use.
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("MemTotal").trim_end_matches("kB");
    let all = format!("{}M", kib.trim().parse::<u64>().expect("a number") / 1024);
    env.banger(["vm", "create", "--no-start", "--name", "large", "--memory", &all]).run().expect(0);
    for args in [&["vm", "start", "large"][..], &["vm", "create", "--name", "other", "--memory", &all]] {
        let out = env.banger(args).run().expect(1);
        let uses = out.err().lines().find(|line| line.contains("memory in use of")).map(str::to_owned);
        let uses = uses.unwrap_or_else(|| panic!("{out}"));
        assert!(uses.contains(": VM holder ") && uses.contains(", everything else "), "{out}");
        assert!(out.err().contains(" free") && out.err().contains("--overcommit"), "{out}");
    }
    let names: Vec<String> = vms(&env).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["holder", "large"]);
    // What is told to be typed does what it is said to do.
    let refused = env.banger(["vm", "start", "large"]).run().expect(1);
    type_what_is_hinted(&env, &refused, "--overcommit").expect(0);
    assert_eq!(env.vm_state("large"), "running");
    env.banger(["vm", "restart", "large"]).run().expect(0);
    env.banger(["vm", "set", "large", "--no-overcommit"]).run().expect(0);
    let refused = env.banger(["vm", "restart", "large"]).run().expect(1);
    assert_eq!(env.vm_state("large"), "running");
    type_what_is_hinted(&env, &refused, "--overcommit").expect(0);
    env.banger(["vm", "delete", "-f", "large"]).run().expect(0);
    delete(&env, "holder");
}

#[test]
fn a_missing_vmm_is_named_with_its_package() {
    let Some(env) = TestEnv::fake() else { return };
    env.configure("");
    // Everything but QEMU.
    let bin = env.home().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for dir in ["/usr/bin", "/usr/sbin"] {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if !entry.file_name().to_string_lossy().starts_with("qemu-system-") {
                let _ = std::os::unix::fs::symlink(entry.path(), bin.join(entry.file_name()));
            }
        }
    }
    let out = env.banger(["vm", "run", "--name", "v", "--", "true"]).env("PATH", &bin).run().expect(125);
    assert!(
        out.err().contains("apt-get install qemu-system-x86") || out.err().contains("apt install qemu-system-x86"),
        "{out}"
    );
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}
