//! Entries that appear, change and go while others look on.

use super::*;
use std::{
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

fn shelf() -> (tempfile::TempDir, Shelf) {
    let temp = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(temp.path().join("a/b")).unwrap();
    (temp, shelf)
}

fn hidden(shelf: &Shelf) -> Vec<String> {
    let all = fs::read_dir(shelf.directory()).unwrap();
    all.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|n| n.starts_with('.')).collect()
}

fn publish(shelf: &Shelf, name: &str, content: &str) {
    let lock = shelf.lock(name, &Cancel::default()).unwrap();
    let staging = shelf.stage().unwrap();
    fs::write(staging.path().join("file"), content).unwrap();
    shelf.publish(staging, &lock).unwrap();
}

#[test]
fn an_entry_appears_is_replaced_and_goes_whole() {
    let (_temp, shelf) = shelf();
    publish(&shelf, "x", "one");
    publish(&shelf, "x", "two");
    assert_eq!(fs::read_to_string(shelf.path("x").unwrap().join("file")).unwrap(), "two");
    assert_eq!(shelf.names().unwrap(), ["x"]);
    let lock = shelf.lock("x", &Cancel::default()).unwrap();
    assert!(shelf.remove(&lock).unwrap());
    assert!(!shelf.remove(&lock).unwrap());
    drop(lock);
    assert_eq!(fs::read_dir(shelf.directory()).unwrap().count(), 0, "{:?}", hidden(&shelf));
}

#[test]
fn a_lock_on_a_file_that_is_gone_excludes_nobody_and_takes_no_other_one_along() {
    let (_temp, shelf) = shelf();
    let first = shelf.try_lock("x").unwrap().unwrap();
    // A cache may be deleted at any time.
    fs::remove_dir_all(shelf.directory()).unwrap();
    let second = shelf.try_lock("x").unwrap().unwrap();
    drop(first);
    assert_eq!(hidden(&shelf), [".lock-x"], "it is the second one's");
    assert!(shelf.try_lock("x").unwrap().is_none());
    drop(second);
    assert_eq!(hidden(&shelf), [""; 0]);
    assert!(shelf.try_lock("x").unwrap().is_some());
}

#[test]
fn replacing_leaves_no_moment_without_an_entry() {
    let (_temp, shelf) = shelf();
    publish(&shelf, "x", "0");
    let file = shelf.path("x").unwrap().join("file");
    thread::scope(|scope| {
        let writer = scope.spawn(|| (1..50).for_each(|n| publish(&shelf, "x", &n.to_string())));
        while !writer.is_finished() {
            // Opened by name each time: an absent entry would fail here.
            fs::metadata(shelf.path("x").unwrap()).unwrap();
        }
    });
    assert_eq!(fs::read_to_string(file).unwrap(), "49");
}

#[test]
fn without_exchange_the_old_entry_steps_aside() {
    let temp = tempfile::tempdir().unwrap();
    let (aside, staged, target) = (temp.path().join("aside"), temp.path().join("staged"), temp.path().join("target"));
    for path in [&aside, &staged, &target] {
        fs::create_dir(path).unwrap();
    }
    fs::write(staged.join("new"), "").unwrap();
    swap(&aside, &staged, &target).unwrap();
    assert!(target.join("new").exists() && aside.join("old").exists() && !staged.exists());
    assert!(swap(&temp.path().join("no"), &staged, &target).is_err());
    assert!(target.join("new").exists());
}

#[test]
fn one_holder_at_a_time_and_no_lock_file_stays() {
    let (_temp, shelf) = shelf();
    let inside = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let _lock = shelf.lock("n", &Cancel::default()).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert!(hidden(&shelf).is_empty(), "{:?}", hidden(&shelf));
}

#[test]
fn waiting_for_a_lock_can_be_cancelled() {
    let (_temp, shelf) = shelf();
    let _held = shelf.lock("n", &Cancel::default()).unwrap();
    let cancel = Cancel::default();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| shelf.lock("n", &cancel).map(drop));
        cancel.cancel();
        assert!(matches!(waiter.join().unwrap(), Err(PublishError::Cancelled(_))));
    });
}

#[test]
fn a_shelf_that_was_deleted_is_there_again_when_something_is_put_on_it() {
    let (_temp, shelf) = shelf();
    let gone = || fs::remove_dir_all(shelf.directory()).unwrap();
    gone();
    drop(shelf.stage().unwrap());
    gone();
    drop(shelf.stage_file().unwrap());
    gone();
    drop(shelf.try_lock("name").unwrap().unwrap());
    assert_eq!(shelf.directory().metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn only_dead_staging_is_swept() {
    let (_temp, shelf) = shelf();
    let alive = shelf.stage().unwrap();
    let alive_file = shelf.stage_file().unwrap();
    let dead = shelf.directory().join(".staging-dead");
    fs::create_dir_all(dead.join("sub")).unwrap();
    fs::write(dead.join("sub/file"), "x").unwrap();
    fs::set_permissions(dead.join("sub"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::write(shelf.directory().join(".staging-file"), "x").unwrap();
    fs::write(shelf.directory().join(".lock-dead"), "").unwrap();
    let lock = shelf.lock("alive", &Cancel::default()).unwrap();
    std::os::unix::fs::symlink("/etc", shelf.directory().join(".staging-link")).unwrap();
    Shelf::open(shelf.directory()).unwrap();
    assert!(alive.path().exists() && alive_file.path().exists());
    assert!(!dead.exists() && !shelf.directory().join(".staging-file").exists());
    assert!(!shelf.directory().join(".lock-dead").exists() && shelf.try_lock("alive").unwrap().is_none());
    assert!(Path::new("/etc/passwd").exists());
    drop((alive, alive_file, lock));
    assert_eq!(hidden(&shelf), [".staging-link"]);
}

#[test]
fn what_is_swept_behind_goes_too_and_what_somebody_works_on_stays() {
    let (_temp, shelf) = shelf();
    let alive = shelf.stage().unwrap();
    let dead = shelf.directory().join(".staging-dead");
    fs::create_dir_all(dead.join("sub")).unwrap();
    fs::write(dead.join("sub/file"), "x").unwrap();
    fs::write(shelf.directory().join(".lock-dead"), "").unwrap();
    fs::write(shelf.directory().join("entry"), "x").unwrap();
    let again = Shelf::open_at_once(shelf.directory()).unwrap();
    assert_eq!(again.names().unwrap(), ["entry"], "whatever is still there of the rest");
    let deadline = Instant::now() + Duration::from_secs(60);
    while hidden(&shelf).len() > 1 {
        assert!(Instant::now() < deadline, "{:?}", hidden(&shelf));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(alive.path().exists() && !dead.exists());
}

#[test]
fn unpublished_work_goes_and_published_files_stay() {
    let (_temp, shelf) = shelf();
    let staging = shelf.stage().unwrap();
    fs::write(staging.path().join("x"), "x").unwrap();
    drop(staging);
    drop(shelf.stage_file().unwrap());
    assert!(hidden(&shelf).is_empty());
    let mut file = shelf.stage_file().unwrap();
    io::Write::write_all(file.file_mut(), b"hello").unwrap();
    let path = shelf.publish_file(file, "f").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn names_are_plain() {
    let (_temp, shelf) = shelf();
    for bad in ["", ".", "..", ".x", "a/b", "/", "a\0b"] {
        assert!(matches!(shelf.lock(bad, &Cancel::default()), Err(PublishError::Name { .. })), "{bad:?}");
    }
}

#[test]
fn a_large_tree_is_published_too() {
    let (_temp, shelf) = shelf();
    let lock = shelf.lock("tree", &Cancel::default()).unwrap();
    let staging = shelf.stage().unwrap();
    for n in 0..=sync::FEW_FILES {
        fs::write(staging.path().join(n.to_string()), "x").unwrap();
    }
    let path = shelf.publish(staging, &lock).unwrap();
    assert_eq!(fs::read_dir(path).unwrap().count(), sync::FEW_FILES + 1);
}
