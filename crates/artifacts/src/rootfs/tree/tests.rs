//! What replaces what, and where paths lead.

use super::*;
use crate::rootfs::path::components;

fn file() -> Kind {
    Kind::File(Segment { source: 0, offset: 0, len: 0 })
}

fn put(tree: &mut Tree, path: &str, kind: Kind) -> Result<(), Refusal> {
    tree.put(&components(path.as_bytes())?, kind, Meta::default())
}

fn link(tree: &mut Tree, path: &str, target: &str) {
    put(tree, path, Kind::Symlink(target.as_bytes().into())).unwrap();
}

fn hard_link(tree: &mut Tree, path: &str, target: &str) -> Result<(), Refusal> {
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
    assert_eq!(refused, Refusal::NotADirectory("\"lib\"".into()));
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
    assert!(matches!(hard_link(&mut tree, "c", "none"), Err(Refusal::LinkTargetMissing(_))));
    tree.dir(&[b"e"], Meta::default()).unwrap();
    assert!(matches!(hard_link(&mut tree, "c", "e"), Err(Refusal::LinkToDirectory(_))));
}

#[test]
fn lost_found_is_the_file_systems() {
    let mut tree = Tree::new();
    tree.dir(&[b"lost+found"], Meta::default()).unwrap();
    assert_eq!(put(&mut tree, "lost+found", file()).unwrap_err(), Refusal::Reserved);
    assert_eq!(put(&mut tree, "lost+found/x", file()).unwrap_err(), Refusal::Reserved);
    put(&mut tree, "home/lost+found/x", file()).unwrap();
    // By whatever path it is reached.
    tree.next_layer();
    link(&mut tree, "here", ".");
    link(&mut tree, "there", "lost+found/below");
    assert_eq!(put(&mut tree, "here/lost+found", file()).unwrap_err(), Refusal::Reserved);
    assert_eq!(put(&mut tree, "here/lost+found/x", file()).unwrap_err(), Refusal::Reserved);
    assert_eq!(put(&mut tree, "there/x", file()).unwrap_err(), Refusal::Reserved);
    assert_eq!(hard_link(&mut tree, "here/lost+found", "home/lost+found/x").unwrap_err(), Refusal::Reserved);
    tree.dir(&[b"here", b"lost+found"], Meta::default()).unwrap();
    assert!(tree.find(&[b"lost+found"]).is_none());
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
