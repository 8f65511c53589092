//! The kernel banger recommends, from its source to a guest: built, imported, published by the maintainer's script
//! through rclone to a web server, pulled back through a catalog of the user's, booted.

#![expect(clippy::unwrap_used, reason = "what a test looks at is there")]

use crate::{BOOT, sh, start_with};
use banger_testkit::{FileServer, TestEnv, generic_kernel, shared, wait_until};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const NAME: &str = "generic-6.12";
/// `zstd -19` on a busy machine.
const PUBLISH: Duration = Duration::from_secs(300);

#[test]
fn from_its_source_to_a_guest() {
    let _machine = shared();
    let (Some(env), Some(built)) = (TestEnv::real(), generic_kernel()) else { return };
    let public = env.home().join("public");
    fs::create_dir_all(public.join("bucket")).unwrap();
    let Some(server) = FileServer::start(&public) else { return };
    let catalog = env.home().join("catalog.json");
    fs::write(&catalog, r#"{"version": 1, "entries": []}"#).unwrap();
    env.configure(&format!("[[kernel_catalog]]\npath = \"{}\"\n", catalog.display()));

    let from = built.to_str().expect("a cache directory with an ordinary name");
    env.banger(["kernel", "import", NAME, "--from", from, "--distro", "generic"]).run().expect(0);
    let imported = show(&env);
    assert_eq!((&imported["modified"], &imported["distro"]), (&false.into(), &"generic".into()), "{imported:#}");
    assert!(imported["source"].as_str().is_some_and(|source| source.starts_with("directory ")), "{imported:#}");

    let publisher = Publisher { env: &env, base: server.url("bucket"), catalog: &catalog, public: &public };
    a_modified_kernel_is_not_published(&env, &publisher, &public);
    let published = publisher.publish().run().expect(0);
    assert!(published.err().contains("the public sees the same bytes"), "{published}");
    // The same kernel gives the same bytes, which are there already.
    let again = publisher.publish().run().expect(0);
    assert!(again.err().contains("nothing to upload") && again.err().contains("has it already"), "{again}");

    env.banger(["kernel", "rm", NAME]).run().expect(0);
    let offered = list(&env);
    assert_eq!((&offered["pulled"], &offered["catalog"]), (&false.into(), &catalog.to_str().into()), "{offered:#}");
    assert!(offered["download"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{offered:#}");

    let pulled = env.banger(["kernel", "pull", NAME]).run().expect(0);
    assert_eq!(pulled.out(), format!("{NAME}\n"));
    let pulled = show(&env);
    assert_eq!(pulled["sha256"], imported["sha256"]);
    assert_eq!(pulled["modified"], false, "{pulled:#}");
    assert!(
        pulled["source"].as_str().is_some_and(|source| source.starts_with("bundle http://127.0.0.1")),
        "{pulled:#}"
    );
    assert_eq!(pulled["boot_modules"], serde_json::json!([]));
    for absent in ["modules", "modules.ext4", "initrd.img"] {
        assert!(!directory(&env).join(absent).exists(), "{absent}");
    }
    let again = env.banger(["kernel", "pull", NAME]).run().expect(0);
    assert!(again.err().contains("is here already"), "{again}");

    boots(&env, "on");
    without_acpi(&env);
    boots(&env, "off");
    drop(server);
    env.assert_nothing_left();
}

/// A kernel whose files are no longer what was imported is called so, and stays at home until they are again.
fn a_modified_kernel_is_not_published(env: &TestEnv, publisher: &Publisher<'_>, public: &Path) {
    let vmlinux = directory(env).join("vmlinux");
    let good = fs::read(&vmlinux).unwrap();
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&vmlinux, &changed).unwrap();
    let shown = show(env);
    assert_eq!(shown["modified"], true, "{shown:#}");
    let text = env.banger(["kernel", "show", NAME]).run().expect(0).out();
    assert!(text.contains("modified") && text.contains("SHA-256 of its vmlinux"), "{text}");
    let refused = publisher.publish().run().expect(1);
    assert!(refused.err().contains("was modified after its import: vmlinux"), "{refused}");
    assert_eq!(fs::read_dir(public.join("bucket")).unwrap().count(), 0);
    fs::write(&vmlinux, &good).unwrap();
    assert_eq!(show(env)["modified"], false);
}

/// Boots, says its version, has what Docker needs, restarts and ends as it is told.
#[track_caller]
fn boots(env: &TestEnv, acpi: &str) {
    start_with(env, "g", &["--kernel", NAME]);
    let machine = env.vm_process("g", "vmm_pid").command;
    assert!(machine.contains(&format!("microvm,acpi={acpi}")), "{machine}");
    assert!(sh(env, "g", "uname -r").starts_with("6.12."));
    // No module, no directory for any, and none could be loaded.
    assert_eq!(sh(env, "g", "test ! -e /proc/modules && test ! -e /lib/modules/$(uname -r) && echo none"), "none\n");
    let check = fs::read(repository().join("scripts/check-docker-config.sh")).unwrap();
    let check = env.banger(["vm", "exec", "g", "--", "sh", "-s", "--", "--built-in"]).stdin(check).run().expect(0);
    assert!(check.out().contains("cgroup v2 as mounted here") && !check.out().contains("MISSING"), "{check}");

    let boot_id = || env.vm("g")["boot_id"].as_str().unwrap_or_default().to_owned();
    let first = boot_id();
    // Its own end may reach the client before the status does: what counts is what the machine does.
    env.banger(["vm", "exec", "g", "--", "reboot"]).run();
    wait_until(BOOT, "a fresh kernel", || {
        let (state, id) = (env.vm_state("g"), boot_id());
        if state == "running" && id != first && !id.is_empty() { Ok(()) } else { Err(format!("{state}, {id}")) }
    });
    assert!(sh(env, "g", "uname -r").starts_with("6.12."));
    env.banger(["vm", "exec", "g", "--", "poweroff"]).run();
    env.wait_state("g", "stopped", BOOT);
    env.banger(["vm", "delete", "-f", "g"]).run().expect(0);
}

/// Lets the kernel be taken for one without ACPI: its devices are then words of its command line.
fn without_acpi(env: &TestEnv) {
    let path = directory(env).join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for way in ["pvh", "acpi", "mmio_cmdline"] {
        assert_eq!(manifest["boots"][way], true, "{way}: {manifest:#}");
    }
    manifest["boots"]["acpi"] = false.into();
    manifest.as_object_mut().unwrap().remove("manifest_sha256");
    fs::write(&path, manifest.to_string()).unwrap();
}

fn directory(env: &TestEnv) -> PathBuf {
    env.layout().kernel(&NAME.parse().unwrap())
}

#[track_caller]
fn show(env: &TestEnv) -> serde_json::Value {
    env.banger(["kernel", "show", NAME, "--json"]).run().expect(0).json()
}

/// The kernel's row of `kernel list --available`.
#[track_caller]
fn list(env: &TestEnv) -> serde_json::Value {
    let all = env.banger(["kernel", "list", "--available", "--json"]).run().expect(0).json();
    all.as_array().unwrap().iter().find(|kernel| kernel["name"] == NAME).cloned().unwrap_or_else(|| panic!("{all:#}"))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A maintainer with a bucket.
struct Publisher<'a> {
    env: &'a TestEnv,
    base: String,
    catalog: &'a Path,
    public: &'a Path,
}

impl Publisher<'_> {
    fn publish(&self) -> banger_testkit::Invocation {
        let config = self.env.home().join("rclone.conf");
        fs::write(&config, format!("[shop]\ntype = alias\nremote = {}\n", self.public.display())).unwrap();
        self.env
            .program(repository().join("scripts/publish-kernel.sh"))
            .args([NAME, "--description", "Everything a guest needs built in", "--catalog"])
            .args([self.catalog])
            .env("RCLONE_CONFIG", &config)
            .env("RCLONE_REMOTE", "shop")
            .env("RCLONE_BUCKET", "bucket")
            .env("BASE_URL", &self.base)
            .patience(PUBLISH)
    }
}
