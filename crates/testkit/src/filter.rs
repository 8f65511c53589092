//! Replaces text that changes from run to run by a word in brackets, so that everything else can be compared exactly.

use regex::{Captures, Regex};
use std::{path::Path, sync::LazyLock};

/// Replacements, applied in order.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)\b", "[TIME]"),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "[UUID]"),
        (r"\b[0-9a-f]{64}\b", "[SHA256]"),
        (r"\b[0-9a-f]{16}\b", "[IMAGE ID]"),
        (r"\b[0-9a-f]{12}\b", "[ID]"),
        (r"\boperation(:?) [0-9a-f]{8}\b", "operation$1 [OP]"),
        (r#""operation": ?"[0-9a-f]{8}""#, r#""operation":"[OP]""#),
        (r"\b(pid|process) \d+\b", "$1 [PID]"),
        (r"\b\d+(\.\d+)? ?(ms|s|seconds?)\b", "[DURATION]"),
        (r"\b\d+ vcpu · \d+ MiB", "[VCPU] vcpu · [MEMORY] MiB"),
        (r" disk · (\w+)/(kvm|tcg)\b", " disk · $1/[ACCELERATOR]"),
    ]
    .map(|(pattern, word)| (Regex::new(pattern).expect("a pattern of this file"), word))
    .into()
});

/// Progress lines: the CLI prints one only when its phase takes a while, so they depend on the host's load.
static PROGRESS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?m)^(packing the initramfs|starting qemu|waiting for |writing the guest's data |deleting VM )[^\n]*\n",
    )
    .expect("a pattern of this file")
});

/// Note on why guests are slow on this host: absent where KVM works.
static SLOWNESS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^guests run in software emulation here: [^\n]*\n").expect("a pattern of this file")
});

/// Filters `text`; `home` becomes `[HOME]`.
pub(crate) fn filtered(text: &str, home: &Path) -> String {
    let text = text.replace(&*home.to_string_lossy(), "[HOME]");
    let text = PROGRESS.replace_all(&text, "").into_owned();
    let text = SLOWNESS.replace_all(&text, "").into_owned();
    RULES.iter().fold(text, |text, (pattern, word)| {
        pattern
            .replace_all(&text, |found: &Captures<'_>| {
                let mut replaced = String::new();
                found.expand(word, &mut replaced);
                replaced
            })
            .into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_progress_go_and_what_follows_stays() {
        let text = "spec\npacking the initramfs\nwaiting for the guest's agent: 3.2 s\nerr\n";
        assert_eq!(filtered(text, Path::new("/t/x")), "spec\nerr\n");
    }

    #[test]
    fn what_the_hosts_kvm_does_goes() {
        let spec = |accelerator: &str| format!("2 vcpu · 512 MiB · 8 GiB disk · qemu/{accelerator}\n");
        let slow = format!("{}guests run in software emulation here: there is no /dev/kvm\nerr\n", spec("tcg"));
        let fast = format!("{}err\n", spec("kvm"));
        let same = "[VCPU] vcpu · [MEMORY] MiB · 8 GiB disk · qemu/[ACCELERATOR]\nerr\n";
        assert_eq!([slow, fast].map(|text| filtered(&text, Path::new("/t/x"))), [same, same]);
    }

    #[test]
    fn what_changes_is_replaced_and_the_rest_is_not() {
        let text = "vm demo (0123456789ab) of image 0123456789abcdef in /t/x/state since 2026-11-23T10:00:00Z, \
                    pid 42, took 1.25 s, exit 125, 8 GiB, operation deadbeef";
        assert_eq!(
            filtered(text, Path::new("/t/x")),
            "vm demo ([ID]) of image [IMAGE ID] in [HOME]/state since [TIME], \
             pid [PID], took [DURATION], exit 125, 8 GiB, operation [OP]"
        );
    }
}
