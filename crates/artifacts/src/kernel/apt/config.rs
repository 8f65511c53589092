//! apt's configuration: the host's own, then settings that make it private, strict and bounded in time.

use std::path::Path;

/// Renders apt's whole configuration: the host's own, then banger's. apt reads `APT_CONFIG` before the host's files, so
/// this text includes those files, and keeps apt from reading them again afterwards.
pub(super) fn configuration(home: &Path, is_root: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    // A final slash includes a whole directory.
    for (path, include) in [("/etc/apt/apt.conf.d", "/etc/apt/apt.conf.d/"), ("/etc/apt/apt.conf", "/etc/apt/apt.conf")]
    {
        if Path::new(path).exists() {
            lines.push(format!("#include \"{include}\";"));
        }
    }
    // Hooks are for the host's own cache and database (the usual container image's would empty both).
    for hooks in [
        "APT::Update::Pre-Invoke",
        "APT::Update::Post-Invoke",
        "APT::Update::Post-Invoke-Success",
        "DPkg",
        "AptCli",
        "Binary",
    ] {
        lines.push(format!("#clear {hooks};"));
    }
    let mut set = |name: &str, value: &str| {
        lines.push(format!("{name} \"{}\";", value.replace('\\', "\\\\").replace('"', "\\\"")));
    };
    let below = |name: &str| home.join(name).display().to_string();
    set("Dir::Etc::Parts", "/dev/null");
    set("Dir::Etc::Main", "/dev/null");
    set("Dir::State", &below(""));
    set("Dir::State::Lists", &below("lists"));
    set("Dir::State::extended_states", &below("extended_states"));
    set("Dir::State::status", "/var/lib/dpkg/status");
    set("Dir::Cache", &below(""));
    set("Dir::Cache::Archives", &below("archives"));
    set("Dir::Log", &below("log"));
    // Only files listed in a signed Release file are accepted, whatever the host allows elsewhere.
    for name in [
        "APT::Get::AllowUnauthenticated",
        "Acquire::AllowInsecureRepositories",
        "Acquire::AllowWeakRepositories",
        "Acquire::AllowDowngradeToInsecureRepositories",
        // Lists that are not used here.
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
        "Acquire::IndexTargets::deb-src::Sources::DefaultEnabled",
    ] {
        set(name, "false");
    }
    set("Acquire::Languages", "none");
    // Bounded waits.
    set("Acquire::Retries", "3");
    set("Acquire::http::Timeout", "30");
    set("Acquire::https::Timeout", "30");
    if is_root {
        // Otherwise root's apt downloads as `_apt`, who may not enter a private directory.
        set("APT::Sandbox::User", "root");
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_private_and_strict() {
        let text = configuration(Path::new("/c/a \"b\""), true);
        assert!(text.contains("Dir::State::Lists \"/c/a \\\"b\\\"/lists\";"), "{text}");
        assert!(text.contains("#clear APT::Update::Post-Invoke;"));
        assert!(text.contains("APT::Sandbox::User \"root\""));
        assert!(!configuration(Path::new("/c"), false).contains("Sandbox"));
    }
}
