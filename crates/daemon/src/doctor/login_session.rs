//! Check: VMs outlive the login they were started from. They do if the user lingers: their scopes belong to the user's
//! manager, which logind ends with the user's last session otherwise, together with the directory of the sockets.

use super::{Check, Host, pass, warn};
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;

const NAME: &str = "login session";

pub(super) struct LoginSession;

impl Check for LoginSession {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
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
    // Independent of KillUserProcesses, which is about the processes of the session itself.
    let mut finding = warn(NAME, format!("{user}'s user manager ends with the last session, and VMs under it"));
    finding.hints.push(format!("loginctl enable-linger {user}"));
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn a_user_who_does_not_linger_is_warned() {
        let mut bench = Bench::new();
        bench.host.uid = 1000;
        assert_eq!(bench.run(&LoginSession).await[0].0, Verdict::Pass, "no login manager");
        bench.write("run/systemd/users/1000", "");
        for config in ["[Login]\nKillUserProcesses=no\n", "[Login]\nKillUserProcesses=yes\n"] {
            bench.write("etc/systemd/logind.conf", config);
            let (verdict, text) = bench.run(&LoginSession).await.remove(0);
            assert!(verdict == Verdict::Warn && text.contains("loginctl enable-linger u"), "{text}");
        }
        bench.write("var/lib/systemd/linger/u", "");
        assert_eq!(bench.run(&LoginSession).await[0].0, Verdict::Pass);
    }
}
