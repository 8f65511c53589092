//! Progress of an operation: a bar on a terminal, lines elsewhere, nothing for what is quick.

use super::{escape::escape, printer::Printer};
use banger_proto::{api::event::LayerState, size::ByteSize};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A phase shorter than this is not shown.
const SHOW_AFTER: Duration = Duration::from_millis(200);
/// A phase longer than this is reported with its duration at its end.
const WORTH_A_TIME: Duration = Duration::from_secs(2);
/// Interval of a transfer's progress lines without a bar.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Interval at which [`Progress::tick`] is to be called.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Progress display of one operation.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    printer: &'a Printer,
    phase: Option<Phase>,
    layers: Layers,
}

/// Progress of the layers in the phase.
#[derive(Debug, Default)]
struct Layers {
    bars: Option<MultiProgress>,
    by_name: BTreeMap<String, Layer>,
}

#[derive(Debug)]
struct Layer {
    state: LayerState,
    done: u64,
    total: u64,
    bar: Option<ProgressBar>,
}

#[derive(Debug)]
struct Phase {
    text: String,
    since: Instant,
    /// The bar, or the time of the last printed line, once anything is shown.
    shown: Option<Shown>,
    /// Whether its layers are shown instead.
    in_layers: bool,
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
        Self { printer, phase: None, layers: Layers::default() }
    }

    /// Ends the current phase and begins another.
    pub(crate) fn phase(&mut self, text: &str) {
        self.end_phase();
        self.phase = Some(Phase {
            text: escape(text).into_owned(),
            since: Instant::now(),
            shown: None,
            in_layers: false,
            done: 0,
            total: None,
        });
    }

    /// Updates the progress of the phase.
    pub(crate) fn advance(&mut self, done: u64, total: Option<u64>) {
        if let Some(phase) = &mut self.phase {
            (phase.done, phase.total) = (done, total);
        }
        self.tick();
    }

    /// Updates the progress of one of several layers: a bar each on a terminal, else a line when it is complete.
    pub(crate) fn layer(&mut self, name: &str, state: LayerState, done: u64, total: u64) {
        if !self.printer.shows_progress() {
            return;
        }
        // The bars of the layers replace that of the phase.
        if let Some(Phase { shown: shown @ Some(Shown::Bar(_)), .. }) = &mut self.phase
            && let Some(Shown::Bar(bar)) = shown.take()
        {
            bar.finish_and_clear();
        }
        if let Some(phase) = &mut self.phase {
            phase.in_layers = true;
        }
        let name = escape(name).into_owned();
        let Layers { bars, by_name } = &mut self.layers;
        let waiting = Layer { state: LayerState::Waiting, done, total, bar: None };
        let layer = by_name.entry(name.clone()).or_insert(waiting);
        let ended = state == LayerState::Done && layer.state != LayerState::Done;
        let before = layer.state;
        (layer.state, layer.done, layer.total) = (state, done, total);
        if !self.printer.terminal() {
            if ended {
                let how = match before {
                    LayerState::Cached => "from the cache",
                    LayerState::Local => "local",
                    LayerState::Waiting | LayerState::Downloading | LayerState::Done => "downloaded",
                };
                self.printer.note(&format!("layer {name}: {how}, {}", ByteSize(total)));
            }
            // Large layers take minutes, so their sum is reported as well.
            let sum =
                |bytes: fn(&Layer) -> u64| by_name.values().fold(0, |sum: u64, layer| sum.saturating_add(bytes(layer)));
            let (done, total) = (sum(|layer| layer.done), sum(|layer| layer.total));
            return self.advance(done, Some(total));
        }
        let bars = bars.get_or_insert_with(MultiProgress::new);
        let bar = layer.bar.get_or_insert_with(|| bars.add(ProgressBar::new(total)));
        bar.set_style(layer_style());
        bar.set_prefix(name);
        bar.set_message(layer_word(state));
        bar.set_position(done);
        if ended {
            bar.abandon();
        }
    }

    /// Prints a notice on a line of its own.
    pub(crate) fn notice(&self, text: &str) {
        if let Some(bars) = &self.layers.bars {
            return bars.suspend(|| self.printer.note(text));
        }
        match &self.phase {
            Some(Phase { shown: Some(Shown::Bar(bar)), .. }) => bar.suspend(|| self.printer.note(text)),
            _ => self.printer.note(text),
        }
    }

    /// Shows what has become worth showing as time passed.
    pub(crate) fn tick(&mut self) {
        if !self.printer.shows_progress() {
            return;
        }
        let Some(phase) = &mut self.phase else { return };
        match &mut phase.shown {
            None if phase.since.elapsed() < SHOW_AFTER => {}
            None if phase.in_layers && self.printer.terminal() => {}
            None if self.printer.terminal() => {
                let bar =
                    ProgressBar::new_spinner().with_message(phase.text.clone()).with_elapsed(phase.since.elapsed());
                phase.shown = Some(Shown::Bar(bar));
                self.tick();
            }
            None => {
                self.printer.note(&phase.text);
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
                self.printer.note(&line);
            }
            Some(Shown::Line(_)) => {}
        }
    }

    fn end_phase(&mut self) {
        let layers = std::mem::take(&mut self.layers);
        for bar in layers.by_name.values().filter_map(|layer| layer.bar.as_ref()) {
            bar.finish_and_clear();
        }
        let Some(phase) = self.phase.take() else { return };
        let took = phase.since.elapsed();
        if let Some(Shown::Bar(bar)) = &phase.shown {
            bar.finish_and_clear();
        }
        if phase.shown.is_some() && took >= WORTH_A_TIME {
            self.printer.note(&format!("{}: {:.1} s", phase.text, took.as_secs_f64()));
        }
    }
}

impl Drop for Progress<'_> {
    /// Restores the terminal, also when the operation failed.
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

fn layer_style() -> ProgressStyle {
    ProgressStyle::with_template(LAYER_TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar())
}

const LAYER_TEMPLATE: &str = "{prefix} {msg:11} {bar:30} {bytes}/{total_bytes}";

fn layer_word(state: LayerState) -> &'static str {
    match state {
        LayerState::Waiting => "waiting",
        LayerState::Downloading => "downloading",
        LayerState::Cached | LayerState::Local => "unpacking",
        LayerState::Done => "done",
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
    fn layers_without_bars_say_together_how_far_they_are() {
        let printer = Printer::new(false, false);
        let mut progress = Progress::new(&printer);
        progress.phase("getting 2 layers");
        for (name, state, done) in [
            ("a", LayerState::Waiting, 0),
            ("b", LayerState::Waiting, 0),
            ("b", LayerState::Downloading, 30),
            ("a", LayerState::Done, 100),
        ] {
            progress.layer(name, state, done, 100);
        }
        let phase = progress.phase.as_ref().unwrap();
        assert_eq!((phase.done, phase.total), (130, Some(200)));
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
    fn one_of_several_shows_no_progress() {
        let printer = Printer::new(false, false).about("a");
        let mut progress = Progress::new(&printer);
        progress.phase("writing the guest's data to its disk");
        progress.phase.as_mut().unwrap().since -= SHOW_AFTER;
        progress.tick();
        assert!(progress.phase.as_ref().unwrap().shown.is_none());
    }

    #[test]
    fn every_template_is_valid() {
        for (done, total) in [(0, None), (1, None), (1, Some(2))] {
            assert!(ProgressStyle::with_template(template(done, total)).is_ok());
        }
        assert!(ProgressStyle::with_template(LAYER_TEMPLATE).is_ok());
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
