//! Which entry replaces which, and where paths lead.

use super::{walk::MAX_LINK_BYTES, *};
use crate::rootfs::path::components;

fn file() -> Kind {
    Kind::File(Segment { source: 0, offset: 0, len: 0 })
}

fn put(tree: &mut Tree, path: &str, kind: Kind) -> Result<(), EntryError> {
    tree.put(&components(path.as_bytes())?, kind, Meta::default())
}

fn link(tree: &mut Tree, path: &str, target: &str) {
    put(tree, path, Kind::Symlink(target.as_bytes().into())).unwrap();
}

fn hard_link(tree: &mut Tree, path: &str, target: &str) -> Result<(), EntryError> {
    tree.hard_link(&components(path.as_bytes())?, &components(target.as_bytes())?)
}

#[test]
fn the_later_entry_wins() {
    let mut tree = Tree::new();
    put(&mut tree, "a/b", file()).unwrap();
    tree.dir(&[b"a"], Meta { uid: 5, ..Meta::default() }).unwrap();
    assert!(tree.find(&[b"a", b"b"]).is_some(), "a directory named again keeps its children");
    put(&mut tree, "a", file()).unwrap();
    assert!(tree.find(&[b"a", b"b"]).is_none());
    tree.dir(&[b"a"], Meta::default()).unwrap();
    assert!(tree.find(&[b"a", b"b"]).is_none(), "what a file replaced does not come back");
}

#[test]
fn nothing_is_reached_through_a_link() {
    let mut tree = Tree::new();
    link(&mut tree, "lib", "usr/lib");
    let refused = put(&mut tree, "lib/x", file()).unwrap_err();
    assert_eq!(refused, EntryError::NotADirectory("\"lib\"".into()));
}

#[test]
fn the_same_names_may_lead_elsewhere_by_now() {
    let layers = || {
        let mut tree = Tree::new();
        tree.next_layer();
        tree
    };
    let there = |tree: &Tree, path: &str| tree.find(&components(path.as_bytes()).unwrap()).is_some();
    // The link that led there was replaced.
    let mut tree = layers();
    put(&mut tree, "e/x", file()).unwrap();
    link(&mut tree, "l", ".");
    link(&mut tree, "l/l", "e");
    put(&mut tree, "l/c", file()).unwrap();
    assert!(there(&tree, "e/c") && !there(&tree, "c"));
    // The directory was removed with the rest of the lower layers.
    let mut tree = layers();
    put(&mut tree, "d/a", file()).unwrap();
    link(&mut tree, "l", "d");
    tree.next_layer();
    put(&mut tree, "l/b", file()).unwrap();
    tree.whiteout(&[b"l"]).unwrap();
    put(&mut tree, "l/c", file()).unwrap();
    assert!(there(&tree, "l/c") && !there(&tree, "d/c"));
    // Its directory was emptied.
    let mut tree = layers();
    put(&mut tree, "d/a", file()).unwrap();
    link(&mut tree, "k/l", "/d");
    tree.next_layer();
    put(&mut tree, "k/l/b", file()).unwrap();
    tree.opaque(&[b"k"]).unwrap();
    put(&mut tree, "k/l/c", file()).unwrap();
    assert!(there(&tree, "k/l/c") && !there(&tree, "d/c"));
    // Another layer marks what it puts there.
    let mut tree = layers();
    put(&mut tree, "d/e/g", file()).unwrap();
    tree.next_layer();
    put(&mut tree, "d/e/h", file()).unwrap();
    tree.opaque(&[b"d"]).unwrap();
    assert!(there(&tree, "d/e/h") && !there(&tree, "d/e/g"));
}

#[test]
fn hard_links_name_what_is_there() {
    let mut tree = Tree::new();
    tree.dir(&[b"d"], Meta::default()).unwrap();
    put(&mut tree, "d/a", file()).unwrap();
    hard_link(&mut tree, "b", "d/a").unwrap();
    assert_eq!(tree.find(&[b"b"]), tree.find(&[b"d", b"a"]));
    hard_link(&mut tree, "b", "b").unwrap();
    // The directory goes, the file in it stays under its other name.
    hard_link(&mut tree, "d", "d/a").unwrap();
    assert_eq!(tree.find(&[b"b"]), tree.find(&[b"d"]));
    assert!(matches!(hard_link(&mut tree, "c", "none"), Err(EntryError::LinkTargetMissing(_))));
    tree.dir(&[b"e"], Meta::default()).unwrap();
    assert!(matches!(hard_link(&mut tree, "c", "e"), Err(EntryError::LinkToDirectory(_))));
}

#[test]
fn lost_found_is_the_file_systems() {
    let mut tree = Tree::new();
    tree.dir(&[b"lost+found"], Meta::default()).unwrap();
    assert_eq!(put(&mut tree, "lost+found", file()).unwrap_err(), EntryError::Reserved);
    assert_eq!(put(&mut tree, "lost+found/x", file()).unwrap_err(), EntryError::Reserved);
    put(&mut tree, "home/lost+found/x", file()).unwrap();
    // By whatever path it is reached.
    tree.next_layer();
    link(&mut tree, "here", ".");
    link(&mut tree, "there", "lost+found/below");
    assert_eq!(put(&mut tree, "here/lost+found", file()).unwrap_err(), EntryError::Reserved);
    assert_eq!(put(&mut tree, "here/lost+found/x", file()).unwrap_err(), EntryError::Reserved);
    assert_eq!(put(&mut tree, "there/x", file()).unwrap_err(), EntryError::Reserved);
    assert_eq!(hard_link(&mut tree, "here/lost+found", "home/lost+found/x").unwrap_err(), EntryError::Reserved);
    tree.dir(&[b"here", b"lost+found"], Meta::default()).unwrap();
    assert!(tree.find(&[b"lost+found"]).is_none());
}

/// Returns the names in a directory.
fn names(tree: &Tree, path: &[&[u8]]) -> Vec<String> {
    let Kind::Dir { children, .. } = &tree.inodes[tree.find(path).unwrap() as usize].kind else { panic!("{path:?}") };
    children.keys().map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
}

#[test]
fn a_layer_takes_away_what_lower_ones_have_and_nothing_of_its_own() {
    let mut tree = Tree::new();
    for path in ["d/lower", "d/both/lower", "d/s/lower", "e/lower"] {
        put(&mut tree, path, file()).unwrap();
    }
    tree.next_layer();
    put(&mut tree, "d/both/upper", file()).unwrap();
    tree.whiteout(&[b"d"]).unwrap();
    assert_eq!((names(&tree, &[b"d"]), names(&tree, &[b"d", b"both"])), (vec!["both".into()], vec!["upper".into()]));
    // Later entries stay, however often the whiteout is repeated; a second name for a lower file is of the current
    // layer.
    put(&mut tree, "d/s/after", file()).unwrap();
    hard_link(&mut tree, "d/linked", "e/lower").unwrap();
    tree.opaque(&[b"d"]).unwrap();
    tree.whiteout(&[b"d"]).unwrap();
    tree.whiteout(&[b"d", b"s"]).unwrap();
    assert_eq!(names(&tree, &[b"d"]), ["both", "linked", "s"]);
    assert_eq!(names(&tree, &[b"d", b"s"]), ["after"]);
    // For the next layer all of it is lower.
    tree.next_layer();
    put(&mut tree, "d/s/third", file()).unwrap();
    tree.opaque(&[b"d"]).unwrap();
    assert_eq!((names(&tree, &[b"d"]), names(&tree, &[b"d", b"s"])), (vec!["s".into()], vec!["third".into()]));
    tree.whiteout(&[b"e"]).unwrap();
    assert!(tree.find(&[b"e"]).is_none());
}

#[test]
fn taking_away_the_same_again_and_again_costs_nothing() {
    const MANY: u32 = 200_000;
    let mut tree = Tree::new();
    for layer in 0..2 {
        tree.next_layer();
        for number in 0..MANY {
            put(&mut tree, &format!("d/{layer}-{number}"), file()).unwrap();
        }
    }
    // If each whiteout looked at all names, this would take hours.
    for _ in 0..MANY {
        tree.whiteout(&[b"d"]).unwrap();
        tree.opaque(&[b"d"]).unwrap();
    }
    assert_eq!(names(&tree, &[b"d"]).len(), MANY as usize);
}

#[test]
fn all_paths_together_lead_through_so_many_links_and_no_more() {
    let mut tree = Tree::new();
    tree.next_layer();
    link(&mut tree, "way", &format!("{}usr", "./".repeat(2000)));
    put(&mut tree, "way/a", file()).unwrap();
    assert!(tree.link_bytes > 4000, "{}", tree.link_bytes);
    tree.link_bytes = MAX_LINK_BYTES - 1;
    // The previous entry was put there, so nothing is followed.
    put(&mut tree, "way/b", file()).unwrap();
    put(&mut tree, "elsewhere", file()).unwrap();
    assert_eq!(put(&mut tree, "way/c", file()).unwrap_err(), EntryError::LinkSteps);
    tree.link_bytes = MAX_LINK_BYTES - 1;
    assert_eq!(tree.whiteout(&[b"way", b"a"]).unwrap_err(), EntryError::LinkSteps);
    tree.link_bytes = MAX_LINK_BYTES - 1;
    assert_eq!(hard_link(&mut tree, "c", "way/a").unwrap_err(), EntryError::LinkSteps);
    assert!(tree.find(&[b"usr", b"a"]).is_some() && tree.resolve(b"way/a").is_some());
}

#[test]
fn links_are_followed_inside_the_tree() {
    let mut tree = Tree::new();
    put(&mut tree, "usr/lib/systemd/systemd", file()).unwrap();
    link(&mut tree, "lib", "usr/lib");
    link(&mut tree, "sbin", "usr/sbin");
    link(&mut tree, "usr/sbin/init", "/lib/systemd/systemd");
    link(&mut tree, "up", "../../../lib/systemd/./systemd");
    link(&mut tree, "loop", "loop");
    let init = tree.find(&[b"usr", b"lib", b"systemd", b"systemd"]);
    assert!(init.is_some());
    for path in ["sbin/init", "/sbin/init", "up", "usr/sbin/../lib/systemd/systemd"] {
        assert_eq!(tree.resolve(path.as_bytes()), init, "{path}");
    }
    for path in ["loop", "sbin/none", "usr/lib/systemd/systemd/x"] {
        assert_eq!(tree.resolve(path.as_bytes()), None, "{path}");
    }
    assert_eq!(tree.resolve(b"/.."), Some(ROOT));
}
