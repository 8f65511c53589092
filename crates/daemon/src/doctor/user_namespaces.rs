//! Settings that keep this user from making namespaces, and how to change them.

use super::Host;
use std::fs;

/// One such setting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Obstacle {
    pub(super) what: &'static str,
    pub(super) hint: &'static str,
}

/// Path of the setting, the forbidding value, and whether it applies to root too.
const SETTINGS: [(&str, u64, bool, Obstacle); 3] = [
    (
        "/proc/sys/user/max_user_namespaces",
        0,
        true,
        Obstacle { what: "this host allows no user namespaces", hint: "sudo sysctl user.max_user_namespaces=15000" },
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        0,
        false,
        Obstacle {
            what: "this host allows user namespaces to root only",
            hint: "sudo sysctl kernel.unprivileged_userns_clone=1",
        },
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        1,
        false,
        Obstacle {
            what: "AppArmor takes user namespaces' rights away",
            hint: "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        },
    ),
];

/// All known settings.
pub(super) fn obstacles(host: &Host) -> Vec<Obstacle> {
    let number =
        |path: &str| fs::read_to_string(host.system(path)).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let forbids = |(path, value, also_root, _): &(&str, u64, bool, Obstacle)| {
        (host.uid != 0 || *also_root) && number(path) == Some(*value)
    };
    SETTINGS.iter().filter(|setting| forbids(setting)).map(|setting| setting.3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;

    #[test]
    fn what_only_root_may_is_named_to_everybody_else() {
        let mut bench = Bench::new();
        bench.write("proc/sys/kernel/unprivileged_userns_clone", "0\n");
        bench.write("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
        bench.host.uid = 1000;
        let hints = |bench: &Bench| obstacles(&bench.host).into_iter().map(|it| it.hint).collect();
        let found: Vec<&str> = hints(&bench);
        assert!(found[0].contains("kernel.unprivileged_userns_clone=1"), "{found:?}");
        assert!(found[1].contains("kernel.apparmor_restrict_unprivileged_userns=0"), "{found:?}");
        bench.host.uid = 0;
        let found: Vec<&str> = hints(&bench);
        assert!(found.is_empty(), "{found:?}");
    }
}
