//! `banger doctor`.
//!
//! The checks are in the daemon's program, which knows what a VM needs. It is run for them whether or not a daemon
//! runs, so that a host on which no daemon starts can be checked, too.

use crate::{
    context::Context,
    daemon::spawn,
    exit::{Error, Result, Status},
    output::escape::escape,
};
use banger_proto::{
    api::host::{Doctor, Finding, Verdict},
    failure::{Code, Failure},
};
use std::{fmt::Write as _, process::Stdio, time::Duration};
use tokio::{io::AsyncReadExt as _, process::Command};

/// Time limit for the checks: the slowest runs a guest instruction.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most bytes of the results.
const MAX_FINDINGS: u64 = 1 << 20;

/// Prints the results; the exit status says whether VMs can run.
pub(crate) async fn run(context: &Context) -> Result {
    let doctor = match spawn::find_program() {
        Ok(program) => run_checks(&program).await?,
        Err(Error::Failed(failure)) => incomplete(failure),
        Err(error) => return Err(error),
    };
    context.printer.data(&doctor, render)?;
    let worst = doctor.findings.iter().map(|finding| finding.verdict).max();
    Ok(if worst == Some(Verdict::Fail) { Status::SomeFailed } else { Status::Done })
}

/// Runs `bangerd --doctor`.
async fn run_checks(program: &std::path::Path) -> Result<Doctor> {
    let failed = |error: &dyn std::error::Error| {
        Failure::caused_by(Code::Unavailable, format!("cannot run {} --doctor", program.display()), error)
    };
    let mut child = Command::new(program)
        .arg("--doctor")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&error))?;
    let mut output = Vec::new();
    let stdout = child.stdout.take();
    let work = async {
        if let Some(stdout) = stdout {
            stdout.take(MAX_FINDINGS).read_to_end(&mut output).await?;
        }
        child.wait().await
    };
    let status = tokio::time::timeout(DEADLINE, work)
        .await
        .map_err(|_| Failure::new(Code::Timeout, format!("the checks did not end within {} s", DEADLINE.as_secs())))?
        .map_err(|error| failed(&error))?;
    if !status.success() {
        return Err(Failure::new(Code::Unavailable, format!("{} --doctor failed ({status})", program.display()))
            .hint("install banger again: its programs belong together")
            .into());
    }
    Ok(serde_json::from_slice(&output).map_err(|error| failed(&error))?)
}

/// Builds the result if the checks could not be run.
fn incomplete(failure: Failure) -> Doctor {
    let finding = Finding {
        check: "banger's programs".into(),
        verdict: Verdict::Fail,
        message: failure.message,
        causes: failure.causes,
        hints: failure.hints,
    };
    Doctor { version: crate::daemon::VERSION.to_owned(), findings: vec![finding] }
}

fn render(doctor: &Doctor) -> String {
    let width = doctor.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in &doctor.findings {
        let verdict = label(finding.verdict);
        let _ = writeln!(text, "{verdict}  {:width$}  {}", finding.check, escape(&finding.message));
        for cause in &finding.causes {
            for line in cause.lines() {
                let _ = writeln!(text, "      {:width$}  {}", "", escape(line));
            }
        }
        for hint in &finding.hints {
            let _ = writeln!(text, "      {:width$}  mend: {}", "", escape(hint));
        }
    }
    let count = |verdict| doctor.findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (failures, warnings) = (count(Verdict::Fail), count(Verdict::Warn));
    let warned = number(warnings, "warning");
    let _ = match (failures, warnings) {
        (0, 0) => write!(text, "\neverything is as it should be"),
        (0, _) => write!(text, "\nVMs can run; {warned}"),
        (failures, 0) => write!(text, "\nVMs cannot run: {}", number(failures, "failure")),
        (failures, _) => write!(text, "\nVMs cannot run: {}, {warned}", number(failures, "failure")),
    };
    text
}

fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_beside_what_mends_it() {
        let finding = |verdict, message: &str, hints: &[&str]| Finding {
            check: "programs".into(),
            verdict,
            message: message.into(),
            causes: Vec::new(),
            hints: hints.iter().map(ToString::to_string).collect(),
        };
        let findings = vec![
            finding(Verdict::Pass, "all there", &[]),
            finding(Verdict::Fail, "mke2fs is \x1b[1m not installed", &["sudo apt install e2fsprogs"]),
        ];
        let text = render(&Doctor { version: "1".into(), findings });
        assert_eq!(
            text,
            "PASS  programs  all there\nFAIL  programs  mke2fs is \\u{1b}[1m not installed\n                mend: sudo apt \
             install e2fsprogs\n\nVMs cannot run: 1 failure"
        );
        let last = |verdicts: &[Verdict]| {
            let findings = verdicts.iter().map(|verdict| finding(*verdict, "so", &[])).collect();
            render(&Doctor { version: "1".into(), findings }).lines().next_back().unwrap_or_default().to_owned()
        };
        let (warn, fail) = (Verdict::Warn, Verdict::Fail);
        assert_eq!(last(&[]), "everything is as it should be");
        assert_eq!(last(&[warn]), "VMs can run; 1 warning");
        assert_eq!(last(&[warn, fail, warn]), "VMs cannot run: 1 failure, 2 warnings");
        assert_eq!(last(&[fail, fail, warn]), "VMs cannot run: 2 failures, 1 warning");
    }
}
