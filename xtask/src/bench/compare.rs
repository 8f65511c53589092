//! Samples, medians and targets.

use anyhow::{Context, Result};
use serde::Serialize;
use std::{fmt, path::Path, time::Duration};

/// Minimum of rounds for a figure; fewer only show whether a scenario works.
pub(super) const QUOTABLE: u32 = 10;

/// Results of one run of the benchmark.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    rounds: u32,
    comparisons: Vec<Comparison>,
    series: Vec<Series>,
    weights: Vec<Weight>,
    sizes: Vec<Size>,
    phases: Vec<PhaseTime>,
    left_out: Vec<String>,
    remarks: Vec<String>,
}

/// Two things measured alternately, in milliseconds.
#[derive(Serialize)]
struct Comparison {
    what: String,
    against: String,
    ours_ms: Vec<f64>,
    theirs_ms: Vec<f64>,
    ours_median_ms: f64,
    theirs_median_ms: f64,
    ratio: f64,
    target: Target,
    met: bool,
    /// Reason why few rounds are enough for a figure, if they are.
    few: Option<&'static str>,
}

/// Target of a comparison.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// Ours divided by theirs is at most this.
    Ratio(f64),
    /// Ours is at most this many milliseconds more than theirs.
    MoreMs(f64),
    /// No target.
    Told,
}

impl Target {
    fn is_met(self, ratio: f64, more_ms: f64) -> bool {
        match self {
            Self::Ratio(most) => ratio <= most,
            Self::MoreMs(most) => more_ms <= most,
            Self::Told => true,
        }
    }
}

/// One thing measured by itself, in milliseconds.
#[derive(Serialize)]
struct Series {
    what: String,
    ms: Vec<f64>,
    found_ms: f64,
    limit: Limit,
    met: bool,
}

/// Target of a single measurement.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// The median takes at most so many milliseconds.
    MedianMs(f64),
    /// The 95th percentile takes at most so many milliseconds.
    P95Ms(f64),
    /// No time limit: that nothing failed is the result.
    NoFailure,
}

/// Two amounts of bytes, the same in each run.
#[derive(Serialize)]
struct Weight {
    what: String,
    against: String,
    ours: u64,
    theirs: u64,
    ratio: f64,
    target: Target,
    met: bool,
}

/// Memory of a process, in KiB.
#[derive(Serialize)]
struct Size {
    what: String,
    kib: u64,
    target_kib: u64,
    met: bool,
}

/// Median time of one phase of a boot.
#[derive(Serialize)]
struct PhaseTime {
    name: String,
    started_ms: f64,
    duration_ms: f64,
}

impl Report {
    /// Creates an empty report; comparisons will have so many rounds.
    pub(crate) fn of(rounds: u32) -> Self {
        Self { rounds, ..Self::default() }
    }

    /// Measures both sides `rounds` times, alternately, ours first in every other round.
    pub(crate) fn compare(
        &mut self,
        (what, against): (&str, &str),
        target: Target,
        rounds: u32,
        mut ours: impl FnMut() -> Result<Duration>,
        mut theirs: impl FnMut() -> Result<Duration>,
    ) -> Result<()> {
        let (mut ours_ms, mut theirs_ms) = (Vec::new(), Vec::new());
        // A warm-up of each: files into the page cache, the daemon up.
        ours()?;
        theirs()?;
        for round in 0..rounds {
            if round % 2 == 0 {
                ours_ms.push(millis(ours()?));
                theirs_ms.push(millis(theirs()?));
            } else {
                theirs_ms.push(millis(theirs()?));
                ours_ms.push(millis(ours()?));
            }
        }
        let (ours_median_ms, theirs_median_ms) = (median(&ours_ms), median(&theirs_ms));
        let ratio = ours_median_ms / theirs_median_ms;
        let met = target.is_met(ratio, ours_median_ms - theirs_median_ms);
        let (what, against) = (what.to_owned(), against.to_owned());
        self.comparisons.push(Comparison {
            what,
            against,
            ours_ms,
            theirs_ms,
            ours_median_ms,
            theirs_median_ms,
            ratio,
            target,
            met,
            few: None,
        });
        Ok(())
    }

    /// Accepts the previous comparison as a figure with this many rounds, because of `why`.
    pub(crate) fn few_are_enough(&mut self, rounds: u32, why: &'static str) {
        if let Some(last) = self.comparisons.last_mut().filter(|last| last.ours_ms.len() >= rounds as usize) {
            last.few = Some(why);
        }
    }

    /// Measures one thing `rounds` times.
    pub(crate) fn series(
        &mut self,
        what: &str,
        limit: Limit,
        rounds: u32,
        mut work: impl FnMut() -> Result<Duration>,
    ) -> Result<()> {
        // A warm-up, as above.
        work()?;
        let ms = (0..rounds).map(|_| Ok(millis(work()?))).collect::<Result<Vec<f64>>>()?;
        let (found_ms, most) = match limit {
            Limit::MedianMs(most) => (median(&ms), most),
            Limit::P95Ms(most) => (p95(&ms), most),
            Limit::NoFailure => (median(&ms), f64::INFINITY),
        };
        self.series.push(Series { what: what.to_owned(), ms, found_ms, limit, met: found_ms <= most });
        Ok(())
    }

    /// Adds bytes of banger and of the other side.
    pub(crate) fn weigh(&mut self, (what, against): (&str, &str), target: Target, ours: u64, theirs: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let ratio = ours as f64 / theirs as f64;
        let met = target.is_met(ratio, 0.0);
        self.weights.push(Weight {
            what: what.to_owned(),
            against: against.to_owned(),
            ours,
            theirs,
            ratio,
            target,
            met,
        });
    }

    /// Adds the memory of a process.
    pub(crate) fn size(&mut self, what: &str, kib: u64, target_kib: u64) {
        self.sizes.push(Size { what: what.to_owned(), kib, target_kib, met: kib <= target_kib });
    }

    /// Adds the median of one phase's samples, each (start, duration) in milliseconds.
    pub(crate) fn phase(&mut self, name: &str, samples: &[(f64, f64)]) {
        let started: Vec<f64> = samples.iter().map(|sample| sample.0).collect();
        let durations: Vec<f64> = samples.iter().map(|sample| sample.1).collect();
        self.phases.push(PhaseTime {
            name: name.to_owned(),
            started_ms: median(&started),
            duration_ms: median(&durations),
        });
    }

    /// Adds a scenario that was not measured, and why.
    pub(crate) fn leave_out(&mut self, what: &str) {
        self.left_out.push(what.to_owned());
    }

    /// Says, once, what is to be known of this machine by whoever reads the figures.
    pub(crate) fn remark(&mut self, what: &str) {
        if !self.remarks.iter().any(|known| known == what) {
            self.remarks.push(what.to_owned());
        }
    }

    /// What was timed, in how many rounds (not all go through as many as were asked for), and why few are enough.
    fn timed(&self) -> impl Iterator<Item = (&str, usize, Option<&'static str>)> {
        let comparisons = self.comparisons.iter().map(|it| (it.what.as_str(), it.ours_ms.len(), it.few));
        let series = self.series.iter().map(|it| (it.what.as_str(), it.ms.len(), None));
        let phases = (!self.phases.is_empty()).then_some(("phases", self.rounds as usize, None));
        comparisons.chain(series).chain(phases)
    }

    /// Writes everything as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |met: bool| if met { "met" } else { "MISSED" };
        if !self.comparisons.is_empty() {
            writeln!(f, "{:<44} {:>11} {:>11} {:>7}  target", "comparison", "ours", "theirs", "ratio")?;
        }
        let target = |target: Target, met: bool| match target {
            Target::Ratio(most) => format!("≤ {most}×: {}", verdict(met)),
            Target::MoreMs(most) => format!("≤ {most} ms more: {}", verdict(met)),
            Target::Told => "none".to_owned(),
        };
        for it in &self.comparisons {
            let target = target(it.target, it.met);
            let (ours, theirs) = (it.ours_median_ms, it.theirs_median_ms);
            writeln!(f, "{:<44} {ours:>8.1} ms {theirs:>8.1} ms {:>7.3}  {target}", it.what, it.ratio)?;
            writeln!(f, "  against {}", it.against)?;
        }
        for it in &self.series {
            let limit = match it.limit {
                Limit::MedianMs(most) => format!("median ≤ {most} ms"),
                Limit::P95Ms(most) => format!("p95 ≤ {most} ms"),
                Limit::NoFailure => "none fails".to_owned(),
            };
            writeln!(f, "{:<44} {:>8.1} ms {:>19}  {limit}: {}", it.what, it.found_ms, "", verdict(it.met))?;
        }
        for it in &self.weights {
            let (ours, theirs, target) = (it.ours, it.theirs, target(it.target, it.met));
            writeln!(f, "{:<44} {ours:>9} B {theirs:>9} B {:>7.3}  {target}", it.what, it.ratio)?;
            writeln!(f, "  against {}", it.against)?;
        }
        for it in &self.sizes {
            let (size, target) = (it.kib, it.target_kib);
            writeln!(f, "{:<44} {size:>7} KiB {:>19}  ≤ {target} KiB: {}", it.what, "", verdict(it.met))?;
        }
        for it in &self.phases {
            writeln!(f, "phase {:<38} {:>8.1} ms  from {:>8.1} ms", it.name, it.duration_ms, it.started_ms)?;
        }
        for what in &self.left_out {
            writeln!(f, "LEFT OUT: {what}")?;
        }
        for what in &self.remarks {
            writeln!(f, "NOTE: {what}")?;
        }
        for (what, rounds, few) in self.timed().filter(|(_, rounds, _)| *rounds < QUOTABLE as usize) {
            if let Some(why) = few {
                writeln!(f, "few rounds: {what}: {rounds}, which is enough: {why}")?;
            } else {
                let is = format!("{what}: {rounds} rounds");
                writeln!(f, "NOT A FIGURE: {is}; what fewer than {QUOTABLE} give is not to be quoted")?;
            }
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Median of the samples; the mean of the two middle ones for an even number.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

/// 95th percentile of the samples.
fn p95(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * 95).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_alternate_and_medians_are_compared() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name: char, ms: u64| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(Duration::from_millis(ms))
            }
        };
        let mut report = Report::default();
        report.compare(("a", "b"), Target::Ratio(2.0), 4, side('o', 30), side('t', 20)).unwrap();
        assert_eq!(order.into_inner(), "otottootto");
        assert!((report.comparisons[0].ratio - 1.5).abs() < 1e-9 && report.comparisons[0].met);
    }

    #[test]
    fn few_rounds_are_said_to_be_no_figure() {
        for (rounds, said) in [(QUOTABLE - 1, true), (QUOTABLE, false)] {
            let mut report = Report::of(rounds);
            report.phase("p", &[(0.0, 1.0)]);
            assert_eq!(report.to_string().contains("NOT A FIGURE: phases: 9 rounds"), said);
        }
        // The rounds that were done count, not those requested.
        let mut report = Report::of(QUOTABLE);
        let instant = || Ok(Duration::from_millis(1));
        report.compare(("slow", "slower"), Target::Told, 3, instant, instant).unwrap();
        report.series("quick", Limit::NoFailure, QUOTABLE, instant).unwrap();
        let shown = report.to_string();
        assert!(shown.contains("NOT A FIGURE: slow: 3 rounds") && !shown.contains("FIGURE: quick"), "{shown}");
    }

    #[test]
    fn few_rounds_are_a_figure_where_the_scenario_says_why_and_did_all_of_them() {
        let instant = || Ok(Duration::from_millis(1));
        for (rounds, figure) in [(2, false), (3, true)] {
            let mut report = Report::of(QUOTABLE);
            report.compare(("slow", "slower"), Target::Told, rounds, instant, instant).unwrap();
            report.few_are_enough(3, "they take minutes");
            report.compare(("another", "slower"), Target::Told, 3, instant, instant).unwrap();
            let shown = report.to_string();
            assert_eq!(shown.contains("few rounds: slow: 3, which is enough: they take minutes"), figure, "{shown}");
            assert_eq!(shown.contains("NOT A FIGURE: slow"), !figure, "{shown}");
            assert!(shown.contains("NOT A FIGURE: another"), "{shown}");
        }
    }

    #[test]
    fn a_remark_is_made_once() {
        let mut report = Report::of(QUOTABLE);
        for what in ["slow disk", "slow disk", "old kernel"] {
            report.remark(what);
        }
        assert_eq!(report.to_string().matches("NOTE: ").count(), 2);
    }

    #[test]
    fn bytes_are_weighed_however_often_one_looks() {
        let mut report = Report::of(1);
        report.weigh(("a", "b"), Target::Ratio(1.3), 13, 10);
        report.weigh(("c", "d"), Target::Ratio(1.3), 14, 10);
        assert_eq!(report.weights.iter().map(|it| it.met).collect::<Vec<_>>(), [true, false]);
        let shown = report.to_string();
        assert!(shown.contains("1.400  ≤ 1.3×: MISSED") && !shown.contains("NOT A FIGURE"), "{shown}");
    }

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((p95(&hundred) - 95.0).abs() < 1e-9);
        assert!((p95(&[7.0, 9.0]) - 9.0).abs() < 1e-9);
        let mut report = Report::default();
        let mut ms = (1..).map(Duration::from_millis);
        report.series("it", Limit::P95Ms(20.0), 20, || Ok(ms.next().unwrap())).unwrap();
        assert!(report.series[0].ms.len() == 20 && report.series[0].met, "the first did not count");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
