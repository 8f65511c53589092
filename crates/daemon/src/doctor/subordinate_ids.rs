//! Check: the user has the subordinate ids that building a Debian image maps.

use super::{Check, Host, pass, warn};
use banger_proto::api::host::Finding;
use futures_util::future::BoxFuture;

const NAME: &str = "subordinate ids";
/// Number of ids mmdebstrap maps.
const WANTED: u64 = 65_536;
const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

pub(super) struct SubordinateIds;

impl Check for SubordinateIds {
    fn run<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(std::future::ready(vec![judge(host)]))
    }
}

fn judge(host: &Host) -> Finding {
    if host.uid == 0 {
        return pass(NAME, "root needs none");
    }
    let user = name(host).or_else(|| host.user.clone()).unwrap_or_else(|| host.uid.to_string());
    let lacking = FILES.iter().find(|file| {
        let text = std::fs::read_to_string(host.system(file)).unwrap_or_default();
        !text.lines().any(|line| has_enough(line, &user, host.uid))
    });
    match lacking {
        None => match another_group(host) {
            None => pass(NAME, format!("{user} has {WANTED} of both kinds")),
            Some(own) => {
                let message = format!(
                    "this shell is in group {}, and newuidmap serves {user} in {own} only: with a daemon that is started \
                     here no Debian image, the default one neither, can be built",
                    host.gid
                );
                let mut finding = warn(NAME, message);
                finding.hints.push("exit # the shell of newgrp or sg, after `banger daemon stop`".into());
                finding
            }
        },
        Some(file) => {
            let message = format!(
                "{user} has no {WANTED} ids in {file}: building a Debian image, the default one too, needs them"
            );
            let mut finding = warn(NAME, message);
            finding.hints.push(format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"));
            finding
        }
    }
}

/// Name of the user as the host knows it, whatever the environment says: cron and `env -i` set nothing.
fn name(host: &Host) -> Option<String> {
    let known = std::fs::read_to_string(host.system("/etc/passwd")).ok()?;
    known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(host.uid)).then(|| name.to_owned())
    })
}

/// The user's primary group, if the current one differs and that matters, as in a shell of `newgrp` or `sg`.
fn another_group(host: &Host) -> Option<u32> {
    let read = |file| std::fs::read_to_string(host.system(file)).unwrap_or_default();
    let own = read("/etc/passwd").lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let is_own = fields.next()?.parse() == Ok(host.uid);
        is_own.then(|| fields.next()?.parse::<u32>().ok()).flatten()
    })?;
    let granted = read("/etc/login.defs").lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("GRANT_AUX_GROUP_SUBIDS")
            && words.next().is_some_and(|word| word.eq_ignore_ascii_case("yes"))
    });
    (own != host.gid && !granted).then_some(own)
}

/// Line of subuid(5): `user:first:count`, with the user by name or number.
fn has_enough(line: &str, user: &str, uid: u32) -> bool {
    let mut fields = line.split(':');
    let who = fields.next().unwrap_or_default();
    let count = fields.nth(1).and_then(|count| count.trim().parse::<u64>().ok());
    (who == user || who == uid.to_string()) && count.is_some_and(|count| count >= WANTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Bench;
    use banger_proto::api::host::Verdict;

    #[tokio::test]
    async fn too_few_ids_are_found() {
        let mut bench = Bench::new();
        bench.host.uid = 1000;
        assert_eq!(bench.run(&SubordinateIds).await[0].0, Verdict::Warn);
        bench.write("etc/subuid", "other:1:65536\nu:100000:65536\n");
        bench.write("etc/subgid", "u:100000:1000\n");
        let (verdict, text) = bench.run(&SubordinateIds).await.remove(0);
        assert!(verdict == Verdict::Warn && text.contains("/etc/subgid") && text.contains("usermod"), "{text}");
        bench.write("etc/subgid", "1000:100000:65536\n");
        assert_eq!(bench.run(&SubordinateIds).await[0].0, Verdict::Pass);
    }

    #[tokio::test]
    async fn a_shell_in_another_group_than_the_users_own_is_found() {
        let mut bench = Bench::new();
        (bench.host.uid, bench.host.gid) = (1000, 998);
        bench.write("etc/subuid", "u:100000:65536\n");
        bench.write("etc/subgid", "u:100000:65536\n");
        // A user of a directory service is in no file: the group may be right.
        assert_eq!(bench.run(&SubordinateIds).await[0].0, Verdict::Pass);
        bench.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n");
        let (verdict, text) = bench.run(&SubordinateIds).await.remove(0);
        assert!(verdict == Verdict::Warn && text.contains("in group 998") && text.contains("newgrp"), "{text}");
        bench.write("etc/login.defs", "# GRANT_AUX_GROUP_SUBIDS no\nGRANT_AUX_GROUP_SUBIDS yes\n");
        assert_eq!(bench.run(&SubordinateIds).await[0].0, Verdict::Pass);
        bench.write("etc/login.defs", "");
        bench.host.gid = 1000;
        assert_eq!(bench.run(&SubordinateIds).await[0].0, Verdict::Pass);
    }
}
