//! A Debian package file, from the host's own apt sources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Downloads the package `name` with apt's directories below `home`: the host's lists may be old, and its hooks concern
/// its own cache.
#[track_caller]
pub fn package(home: &Path, name: &str) -> PathBuf {
    let apt = home.join("apt");
    fs::create_dir_all(apt.join("lists/partial")).expect("directories for apt");
    let below = |name: &str| apt.join(name).display().to_string();
    let settings = [
        ("Dir::Etc::Parts", "/dev/null".to_owned()),
        ("Dir::State", below("")),
        ("Dir::State::Lists", below("lists")),
        ("Dir::State::status", "/var/lib/dpkg/status".to_owned()),
        ("Dir::Cache", below("")),
        ("Dir::Log", below("log")),
        // Otherwise root's apt downloads as a user who may not enter the test's home.
        ("APT::Sandbox::User", "root".to_owned()),
    ];
    let config = apt.join("apt.conf");
    let lines = settings.map(|(name, value)| format!("{name} \"{value}\";\n"));
    fs::write(&config, lines.concat()).expect("a configuration for apt");
    for arguments in [&["-q", "update"][..], &["-q", "download", name]] {
        let run = Command::new("apt-get").args(arguments).env("APT_CONFIG", &config).current_dir(&apt).output();
        let run = run.expect("apt-get can be run");
        assert!(run.status.success(), "apt-get {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    }
    let mut files = fs::read_dir(&apt).expect("apt's directory").flatten().map(|entry| entry.path());
    files.find(|path| path.extension().is_some_and(|it| it == "deb")).expect("the package was downloaded")
}
