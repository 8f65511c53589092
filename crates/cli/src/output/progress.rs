//! What an operation is doing, while it does it: a bar on a terminal, a line elsewhere, nothing for what is quick.

use super::{escape::escape, printer::Printer};
use banger_proto::size::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// A phase shorter than this is not shown.
const SHOW_AFTER: Duration = Duration::from_millis(200);
/// A phase longer than this says at its end how long it took.
const WORTH_A_TIME: Duration = Duration::from_secs(2);
/// How often a transfer says where it is when there is no bar.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How often [`Progress::tick`] wants to be called.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// The progress of one operation.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    printer: &'a Printer,
    phase: Option<Phase>,
}

#[derive(Debug)]
struct Phase {
    text: String,
    since: Instant,
    /// The bar, or when the last line was printed, once it is shown.
    shown: Option<Shown>,
    done: u64,
    total: Option<u64>,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Line(Instant),
}

impl<'a> Progress<'a> {
    pub(crate) fn new(printer: &'a Printer) -> Self {
        Self { printer, phase: None }
    }

    /// Another phase begins; the one before it ended.
    pub(crate) fn phase(&mut self, text: &str) {
        self.end_phase();
        self.phase =
            Some(Phase { text: escape(text).into_owned(), since: Instant::now(), shown: None, done: 0, total: None });
    }

    /// How far the phase is.
    pub(crate) fn advance(&mut self, done: u64, total: Option<u64>) {
        if let Some(phase) = &mut self.phase {
            (phase.done, phase.total) = (done, total);
        }
        self.tick();
    }

    /// Something worth a line of its own.
    pub(crate) fn notice(&self, text: &str) {
        match &self.phase {
            Some(Phase { shown: Some(Shown::Bar(bar)), .. }) => bar.suspend(|| self.printer.talk(text)),
            _ => self.printer.talk(text),
        }
    }

    /// Time passed: shows what has become worth showing.
    pub(crate) fn tick(&mut self) {
        if self.printer.quiet() {
            return;
        }
        let Some(phase) = &mut self.phase else { return };
        match &mut phase.shown {
            None if phase.since.elapsed() < SHOW_AFTER => {}
            None if self.printer.terminal() => {
                let bar =
                    ProgressBar::new_spinner().with_message(phase.text.clone()).with_elapsed(phase.since.elapsed());
                phase.shown = Some(Shown::Bar(bar));
                self.tick();
            }
            None => {
                self.printer.talk(&phase.text);
                phase.shown = Some(Shown::Line(Instant::now()));
            }
            Some(Shown::Bar(bar)) => {
                bar.set_style(style(phase.done, phase.total));
                if let Some(total) = phase.total {
                    bar.set_length(total);
                }
                bar.set_position(phase.done);
                bar.tick();
            }
            Some(Shown::Line(last)) if phase.done > 0 && last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let line = position(&phase.text, phase.done, phase.total);
                self.printer.talk(&line);
            }
            Some(Shown::Line(_)) => {}
        }
    }

    fn end_phase(&mut self) {
        let Some(phase) = self.phase.take() else { return };
        let took = phase.since.elapsed();
        if let Some(Shown::Bar(bar)) = &phase.shown {
            bar.finish_and_clear();
        }
        if phase.shown.is_some() && took >= WORTH_A_TIME {
            self.printer.talk(&format!("{}: {:.1} s", phase.text, took.as_secs_f64()));
        }
    }
}

impl Drop for Progress<'_> {
    /// The terminal is left as it was, also when the operation failed.
    fn drop(&mut self) {
        self.end_phase();
    }
}

fn style(done: u64, total: Option<u64>) -> ProgressStyle {
    ProgressStyle::with_template(template(done, total)).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn template(done: u64, total: Option<u64>) -> &'static str {
    match (done, total) {
        (_, Some(_)) => "{spinner} {msg} {bar:30} {bytes}/{total_bytes} {eta}",
        (0, None) => "{spinner} {msg} {elapsed}",
        (_, None) => "{spinner} {msg} {bytes} {elapsed}",
    }
}

fn position(text: &str, done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{text}: {} of {}", ByteSize(done), ByteSize(total)),
        None => format!("{text}: {}", ByteSize(done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quick_is_not_shown() {
        let printer = Printer::new(false, false);
        let mut progress = Progress::new(&printer);
        progress.phase("making the disk");
        progress.tick();
        assert!(progress.phase.as_ref().unwrap().shown.is_none());
        progress.phase.as_mut().unwrap().since -= SHOW_AFTER;
        progress.tick();
        assert!(progress.phase.as_ref().unwrap().shown.is_some());
    }

    #[test]
    fn quiet_means_quiet() {
        let printer = Printer::new(false, true);
        let mut progress = Progress::new(&printer);
        progress.phase("making the disk");
        progress.phase.as_mut().unwrap().since -= SHOW_AFTER;
        progress.tick();
        assert!(progress.phase.as_ref().unwrap().shown.is_none());
    }

    #[test]
    fn every_template_is_valid() {
        for (done, total) in [(0, None), (1, None), (1, Some(2))] {
            assert!(ProgressStyle::with_template(template(done, total)).is_ok());
        }
        assert_eq!(position("pulling", 1 << 20, Some(3 << 20)), "pulling: 1 MiB of 3 MiB");
    }

    #[test]
    fn phase_text_is_escaped() {
        let printer = Printer::new(false, true);
        let mut progress = Progress::new(&printer);
        progress.phase("pulling \x1b[2J");
        assert_eq!(progress.phase.as_ref().unwrap().text, "pulling \\u{1b}[2J");
    }
}
