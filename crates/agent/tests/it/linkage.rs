//! Functions that the agent must not be linked with.

use std::process::Command;

/// The C library's look-ups by name load NSS modules of the image's libc into a static program.
#[test]
fn nothing_reaches_nss() {
    let Ok(listed) = Command::new("nm").arg(env!("CARGO_BIN_EXE_banger-vsock-agent")).output() else {
        panic!("nm is missing: install binutils");
    };
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let symbols = String::from_utf8_lossy(&listed.stdout);
    let names = symbols.lines().filter(|line| !line.contains(" n ")).filter_map(|line| line.split_whitespace().last());
    let forbidden: Vec<&str> = names
        .map(|name| name.split('@').next().unwrap_or(name))
        .filter(|name| {
            let plain = name.trim_start_matches('_');
            plain == "getaddrinfo"
                || plain == "initgroups"
                || plain == "getgrouplist"
                || ["getpw", "getgr", "gethostby", "getserv"].iter().any(|prefix| {
                    plain.strip_prefix(prefix).is_some_and(|rest| {
                        ["nam", "uid", "gid", "ent", "name", "addr"].iter().any(|kind| rest.starts_with(kind))
                    })
                })
        })
        .collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
    assert!(symbols.contains("banger_vsock_agent"), "the agent was stripped: this test sees nothing");
}
