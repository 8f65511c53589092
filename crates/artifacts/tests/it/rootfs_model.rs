//! Property test: any tree given to the builder equals a model, as read back by an independent reader.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use crate::ext4::check;
use banger_artifacts::{
    job::{Cancel, Job, Silent},
    rootfs::{Format, Limits, Meta, RootfsBuilder, Timestamp},
};
use banger_testkit::require;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Expected state of a path.
#[derive(Debug, Clone, PartialEq)]
enum Thing {
    Dir,
    File(Vec<u8>),
    Link(String),
}

#[derive(Debug, Clone)]
struct Step {
    path: Vec<String>,
    thing: Thing,
    mode: u16,
    uid: u32,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name =
        prop_oneof![4 => "[a-d]", 1 => "[a-zäß€ .~-]{1,60}"].prop_filter("names", |name| name != "." && name != "..");
    let thing = prop_oneof![
        2 => Just(Thing::Dir),
        3 => prop::collection::vec(any::<u8>(), 0..10_000).prop_map(Thing::File),
        1 => "[a-z/]{1,90}".prop_map(Thing::Link),
    ];
    let step = (prop::collection::vec(name, 1..5), thing, 0..0o10000_u16, any::<u32>())
        .prop_map(|(path, thing, mode, uid)| Step { path, thing, mode, uid });
    prop::collection::vec(step, 0..60)
}

type Model = BTreeMap<Vec<String>, (Thing, u16, u32)>;

/// Applies one more step to the expected tree; `false` if the step must be refused.
fn apply(model: &mut Model, step: &Step) -> bool {
    for depth in 1..step.path.len() {
        let parent = step.path[..depth].to_vec();
        if model.entry(parent).or_insert((Thing::Dir, 0o755, 0)).0 != Thing::Dir {
            return false;
        }
    }
    let stays = step.thing == Thing::Dir && model.get(&step.path).is_some_and(|(thing, ..)| *thing == Thing::Dir);
    if !stays {
        model.retain(|path, _| !path.starts_with(&step.path));
    }
    // All symbolic links have one mode.
    let mode = if matches!(step.thing, Thing::Link(_)) { 0o777 } else { step.mode };
    model.insert(step.path.clone(), (step.thing.clone(), mode, step.uid));
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_goes_in_comes_out(steps in steps()) {
        if !require("e2fsck") {
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let cancel = Cancel::default();
        let mut builder = RootfsBuilder::new(dir.path(), Limits::default(), &cancel).unwrap();
        let mut model = Model::new();
        for step in &steps {
            let path = step.path.join("/");
            let meta = Meta { uid: step.uid, ..Meta::root(step.mode, Timestamp::from_secs(7)) };
            let taken = match &step.thing {
                Thing::Dir => builder.dir(path.as_bytes(), meta),
                Thing::File(content) => builder.file(path.as_bytes(), meta, content.len() as u64, &mut &content[..]),
                Thing::Link(target) => builder.symlink(path.as_bytes(), target.as_bytes(), meta),
            };
            prop_assert_eq!(taken.is_ok(), apply(&mut model, step), "{:?}: {:?}", step, taken);
        }
        let image = dir.path().join("image");
        let format = Format { label: "model".into(), ..Format::default() };
        builder.finish(&image, &format, &Job { progress: &Silent, cancel: &cancel }).unwrap();
        check(&image);
        prop_assert_eq!(read_back(&image), model);
    }
}

fn read_back(image: &std::path::Path) -> Model {
    let reader = ext4_view::Ext4::load_from_path(image).unwrap();
    let mut found = Model::new();
    let mut pending = vec![Vec::<String>::new()];
    while let Some(dir) = pending.pop() {
        for entry in reader.read_dir(format!("/{}", dir.join("/")).as_str()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().as_str().unwrap().to_owned();
            if name == "." || name == ".." || (dir.is_empty() && name == "lost+found") {
                continue;
            }
            let mut path = dir.clone();
            path.push(name);
            let full = format!("/{}", path.join("/"));
            let metadata = reader.symlink_metadata(full.as_str()).unwrap();
            let thing = if metadata.is_dir() {
                pending.push(path.clone());
                Thing::Dir
            } else if metadata.is_symlink() {
                Thing::Link(reader.read_link(full.as_str()).unwrap().to_str().unwrap().to_owned())
            } else {
                Thing::File(reader.read(full.as_str()).unwrap())
            };
            found.insert(path, (thing, metadata.mode() & 0o7777, metadata.uid()));
        }
    }
    found
}
