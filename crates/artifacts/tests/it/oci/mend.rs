//! Repair of random stacks, so that most are valid images and their layers refer to each other.

use super::stacks::{ROOT, Step, What};
use std::collections::BTreeSet;

/// State of the layers so far, as far as later steps need it.
#[derive(Default)]
struct Mender {
    /// Paths that neither are nor lead to a directory, which a hard link may refer to.
    leaves: BTreeSet<String>,
    linkable: BTreeSet<String>,
    /// Targets of hard links.
    linked: BTreeSet<String>,
    /// Paths of lower layers.
    lower: BTreeSet<String>,
}

/// Removes most invalid steps or gives them an existing target. Most whiteouts name something, and many entries of an
/// upper layer replace one of a lower layer.
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

    /// Points a step at an existing path: hidden, emptied or replaced.
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

/// Chooses one of several.
fn chosen(of: &BTreeSet<String>, place: usize) -> Option<&String> {
    of.iter().nth(place % of.len().max(1))
}
