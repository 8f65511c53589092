//! VMs outlive the login they were started from: logind may end everything of a user who logs out.

use super::{Check, Host, Look, pass, warn};
use banger_proto::api::host::Finding;

const NAME: &str = "login session";

pub(super) struct LoginSession;

impl Check for LoginSession {
    fn look<'a>(&'a self, host: &'a Host) -> Look<'a> {
        Box::pin(std::future::ready(vec![judge(host)]))
    }
}

fn judge(host: &Host) -> Finding {
    if !host.system("/run/systemd/users").join(host.uid.to_string()).exists() {
        return pass(NAME, "no login manager looks after this user: what runs stays");
    }
    let user = host.user.clone().unwrap_or_else(|| host.uid.to_string());
    if host.system("/var/lib/systemd/linger").join(&user).exists() {
        return pass(NAME, format!("{user} lingers: VMs stay when the last session ends"));
    }
    if kills(host) {
        let mut finding = warn(NAME, format!("logind ends all of {user}'s processes, VMs too, with the last session"));
        finding.hints.push(format!("loginctl enable-linger {user}"));
        return finding;
    }
    pass(NAME, "VMs stay when the last session ends (KillUserProcesses is off)")
}

/// logind.conf(5): off unless it says otherwise; the last word counts.
fn kills(host: &Host) -> bool {
    let mut files = vec![host.system("/etc/systemd/logind.conf")];
    for directory in ["/usr/lib/systemd/logind.conf.d", "/etc/systemd/logind.conf.d"] {
        let entries = std::fs::read_dir(host.system(directory)).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
        found.sort();
        files.extend(found);
    }
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default() + "\n").collect();
    let mut said = text.lines().filter_map(|line| line.trim().strip_prefix("KillUserProcesses="));
    said.next_back().is_some_and(|value| matches!(value.trim(), "yes" | "true" | "on" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn a_login_manager_that_kills_is_found() {
        let mut bench = Bench::new();
        bench.host.uid = 1000;
        assert_eq!(bench.look(&LoginSession).await[0].0, Verdict::Pass, "no login manager");
        bench.write("run/systemd/users/1000", "");
        bench.write("etc/systemd/logind.conf", "[Login]\n#KillUserProcesses=yes\n");
        assert_eq!(bench.look(&LoginSession).await[0].0, Verdict::Pass, "off by default");
        bench.write("etc/systemd/logind.conf.d/x.conf", "[Login]\nKillUserProcesses=yes\n");
        let (verdict, text) = bench.look(&LoginSession).await.remove(0);
        assert!(verdict == Verdict::Warn && text.contains("loginctl enable-linger u"), "{text}");
        bench.write("var/lib/systemd/linger/u", "");
        assert_eq!(bench.look(&LoginSession).await[0].0, Verdict::Pass);
    }
}
