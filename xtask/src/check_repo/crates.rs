//! Rule on dependencies between crates: the processes share nothing but their contracts.

use super::SourceFile;
use crate::repository::{root, text_of};
use anyhow::{Context, Result};
use std::process::Command;

/// A crate, and the workspace's crates it may depend on outside its tests.
const MAY_KNOW: [(&str, &[&str]); 11] = [
    ("banger-proto", &[]),
    ("banger-link", &["banger-proto"]),
    ("banger-netlink", &[]),
    ("banger-artifacts", &["banger-proto"]),
    ("banger-root-helper", &["banger-proto", "banger-netlink"]),
    ("banger-vsock-agent", &["banger-proto", "banger-link", "banger-netlink"]),
    ("banger-cli", &["banger-proto", "banger-link"]),
    // A shim outlives the daemon and must not carry its database and its API along.
    ("banger-machine", &["banger-proto", "banger-link", "banger-netlink", "banger-artifacts"]),
    ("banger-daemon", &["banger-proto", "banger-link", "banger-netlink", "banger-artifacts", "banger-machine"]),
    // For development only: no product crate may depend on it. The fake VMM implements the shim's side of its
    // contracts.
    ("banger-testkit", &["banger-proto", "banger-link"]),
    // It compares the decoder of layers with another one.
    ("xtask", &["banger-proto", "banger-link", "banger-artifacts", "banger-cli", "banger-testkit"]),
];

/// Checks `[dependencies]` and `[build-dependencies]`; tests may use what they like.
pub(crate) fn dependencies(_: &[SourceFile]) -> Vec<String> {
    violations().unwrap_or_else(|error| vec![format!("{error:#}")])
}

fn violations() -> Result<Vec<String>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--no-deps", "--locked"]).current_dir(root());
    let metadata: serde_json::Value = serde_json::from_str(&text_of(&mut cargo)?)?;
    let packages = metadata["packages"].as_array().context("packages in cargo's metadata")?;
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(known, _)| *known == name) else {
            faults.push(format!("{name} is not in the list of crates: say what it may know"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let known = dependency["name"].as_str().unwrap_or_default();
            let is_ours = dependency["path"].is_string();
            if is_ours && dependency["kind"] != "dev" && !allowed.contains(&known) {
                faults.push(format!("{name} depends on {known}"));
            }
        }
    }
    Ok(faults)
}
