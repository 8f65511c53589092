//! Where the time of a boot goes, as `vm show` keeps it.

use super::compare::Report;
use anyhow::{Context, Result};
use banger_testkit::{TestEnv, wait_until};
use std::time::Duration;

/// How long the guest's word may take.
const TOLD: Duration = Duration::from_secs(30);

/// Medians of every phase over `rounds` boots.
pub(crate) fn run(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let mut phases: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for round in 0..rounds {
        let name = format!("phases{round}");
        env.banger(["vm", "run", "-d", "--quiet", "--memory", "512M", "--init", "agent", "--name", &name])
            .run()
            .expect(0);
        env.banger(["vm", "exec", &name, "--", "true"]).run().expect(0);
        // The guest's word about its first command reaches the daemon by another way than the command's end reaches us.
        let vm = wait_until(TOLD, "the last phase", || {
            let vm = env.vm(&name);
            let told = vm["phases"].as_array().is_some_and(|phases| phases.iter().any(|phase| phase["name"] == "exec"));
            if told { Ok(vm) } else { Err(format!("{:#}", vm["phases"])) }
        });
        for phase in vm["phases"].as_array().context("phases in vm show")? {
            let name = phase["name"].as_str().unwrap_or_default();
            let sample =
                (phase["started_ms"].as_f64().unwrap_or_default(), phase["duration_ms"].as_f64().unwrap_or_default());
            match phases.iter_mut().find(|(known, _)| known == name) {
                Some((_, samples)) => samples.push(sample),
                None => phases.push((name.to_owned(), vec![sample])),
            }
        }
        env.banger(["vm", "delete", "-f", &name]).run().expect(0);
    }
    for (name, samples) in phases {
        report.phase(&name, &samples);
    }
    Ok(())
}
