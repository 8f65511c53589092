//! Stacks of chance as images could be them: else few would be any, and few of their layers would be about each other.

use super::stacks::{ROOT, Step, What};
use std::collections::BTreeSet;

/// What the layers so far came to, as far as what follows has to know.
#[derive(Default)]
struct Mender {
    /// What is no directory and leads to none, and what a hard link may lead to.
    leaves: BTreeSet<String>,
    linkable: BTreeSet<String>,
    /// What a hard link leads to.
    linked: BTreeSet<String>,
    /// Paths of lower layers.
    lower: BTreeSet<String>,
}

/// Most steps that no image could take are taken out or given something that is there. Most whiteouts are of something, and
/// much that an upper layer has takes the place of what a lower one had.
pub(super) fn mended(layers: Vec<Vec<Step>>) -> Vec<Vec<Step>> {
    let mut mender = Mender::default();
    layers
        .into_iter()
        .map(|layer| {
            let layer: Vec<Step> = layer.into_iter().filter_map(|step| mender.mend(step)).collect();
            mender.lower.extend(layer.iter().map(|step| step.path.clone()).filter(|path| path != ROOT));
            layer
        })
        .collect()
}

impl Mender {
    fn mend(&mut self, mut step: Step) -> Option<Step> {
        let place = usize::try_from(step.mtime.unsigned_abs()).expect("64 bits");
        let spared = place.is_multiple_of(16);
        if !spared && step.path != ROOT {
            self.lead(&mut step, place);
        }
        let is_below = |leaf: &String| step.path.starts_with(&format!("{leaf}/"));
        if !spared && self.leaves.iter().any(is_below) {
            return None;
        }
        if let What::Link(target) = &mut step.what {
            if !spared && !self.linkable.contains(target) {
                target.clone_from(chosen(&self.linkable, place)?);
            }
            self.linked.insert(target.clone());
        }
        // What is below a path goes with what takes its place.
        for list in [&mut self.leaves, &mut self.linkable] {
            list.retain(|leaf| *leaf != step.path && !leaf.starts_with(&format!("{}/", step.path)));
        }
        match step.what {
            What::File(_) | What::Fifo | What::Char(..) | What::Block(..) => {
                self.leaves.insert(step.path.clone());
                self.linkable.insert(step.path.clone());
            }
            What::Symlink(_) => drop(self.linkable.insert(step.path.clone())),
            What::Link(_) => drop(self.leaves.insert(step.path.clone())),
            What::Dir | What::Whiteout | What::Opaque => {}
        }
        Some(step)
    }

    /// Leads a step to what is there: hidden, emptied or replaced.
    fn lead(&self, step: &mut Step, place: usize) {
        // Another part of the number than what decides the rest.
        let turn = place / 16 % 3;
        let led = match step.what {
            What::Whiteout => chosen(&self.lower, place).cloned(),
            What::Opaque => chosen(&self.lower, place).and_then(|path| Some(path.rsplit_once('/')?.0.to_owned())),
            What::File(_) if turn == 0 => chosen(&self.linked, place).filter(|it| self.lower.contains(*it)).cloned(),
            What::File(_) | What::Fifo | What::Char(..) if turn == 1 => chosen(&self.lower, place).cloned(),
            _ => None,
        };
        if let Some(path) = led {
            step.path = path;
        }
    }
}

/// One of several.
fn chosen(of: &BTreeSet<String>, place: usize) -> Option<&String> {
    of.iter().nth(place % of.len().max(1))
}
