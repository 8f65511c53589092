//! Trees packed and unpacked.

use crate::{Hosted, on_one_thread};
use banger_proto::failure::{Code, Failure};
use hyper::{Method, StatusCode};
use std::{
    ffi::OsStr,
    fs,
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};
use tar::{Builder, EntryType, Header};

/// Builds one entry by hand, with its name unchanged.
fn entry(kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_mtime(1_000_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend([0; 1024]);
    bytes
}

async fn put(hosted: &Hosted, to: &Path, bytes: Vec<u8>) -> Result<(), Failure> {
    let path = format!("/archive?path={}", to.display());
    let (status, body) = hosted.agent.request(Method::PUT, &path, bytes).await;
    if status == StatusCode::OK { Ok(()) } else { Err(serde_json::from_slice(&body).unwrap()) }
}

#[test]
fn a_tree_goes_out_and_comes_back_the_same() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let tree = hosted.dir.path().join("tree");
        fs::create_dir_all(tree.join("sub/empty")).unwrap();
        fs::write(tree.join("file"), vec![3; 300_000]).unwrap();
        fs::set_permissions(tree.join("file"), PermissionsExt::from_mode(0o4751)).unwrap();
        fs::hard_link(tree.join("file"), tree.join("sub/same")).unwrap();
        symlink("../../outside", tree.join("sub/link")).unwrap();
        fs::write(tree.join(OsStr::from_bytes(b"not\xffutf8")), "x").unwrap();
        fs::write(tree.join("n".repeat(200)), "long").unwrap();
        for path in ["sub/empty", "sub", "file"] {
            let file = fs::File::open(tree.join(path)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567_890)).unwrap();
        }
        fs::set_permissions(tree.join("sub"), PermissionsExt::from_mode(0o711)).unwrap();

        let (status, bytes) = hosted.agent.request(Method::GET, &format!("/archive?path={}", tree.display()), "").await;
        assert_eq!(status, StatusCode::OK);
        let to = hosted.dir.path().join("to");
        fs::create_dir(&to).unwrap();
        put(&hosted, &to, bytes.to_vec()).await.unwrap();

        let copy = to.join("tree");
        let meta = |path: &str| copy.join(path).symlink_metadata().unwrap();
        assert_eq!(fs::read(copy.join("file")).unwrap(), vec![3; 300_000]);
        assert_eq!((meta("file").mode() & 0o7777, meta("file").mtime()), (0o4751, 1_234_567_890));
        assert_eq!(meta("file").ino(), meta("sub/same").ino());
        assert_eq!(fs::read_link(copy.join("sub/link")).unwrap(), Path::new("../../outside"));
        assert_eq!((meta("sub").mode() & 0o7777, meta("sub").mtime()), (0o711, 1_234_567_890));
        assert_eq!(meta("sub/empty").mtime(), 1_234_567_890);
        assert_eq!(fs::read(copy.join(OsStr::from_bytes(b"not\xffutf8"))).unwrap(), b"x");
        assert_eq!(fs::read(copy.join("n".repeat(200))).unwrap(), b"long");

        // Times between two seconds and before 1970 survive both directions, too.
        let time = |path: &Path| {
            let meta = path.symlink_metadata().unwrap();
            (meta.mtime(), meta.mtime_nsec())
        };
        let old = std::time::UNIX_EPOCH - std::time::Duration::new(86_400, 250_000_000);
        for path in ["sub/empty", "sub", "file"] {
            fs::File::open(tree.join(path)).unwrap().set_modified(old).unwrap();
        }
        let (_, again) = hosted.agent.request(Method::GET, &format!("/archive?path={}", tree.display()), "").await;
        put(&hosted, &to, again.to_vec()).await.unwrap();
        for path in ["sub/empty", "sub", "file", "sub/link", "."] {
            assert_eq!(time(&copy.join(path)), time(&tree.join(path)), "{path}");
        }
        assert_eq!(time(&copy.join("sub")), (-86_401, 750_000_000));

        // Unpacked over itself: everything is replaced.
        put(&hosted, &to, bytes.to_vec()).await.unwrap();
        assert_eq!(fs::read(copy.join("sub/same")).unwrap().len(), 300_000);
    });
}

#[test]
fn one_file_is_an_archive_of_one() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let file = hosted.dir.path().join("a b");
        fs::write(&file, "content").unwrap();
        let path = file.to_str().unwrap().replace(' ', "%20");
        let (_, bytes) = hosted.agent.request(Method::GET, &format!("/archive?path={path}"), "").await;
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entries = archive.entries().unwrap();
        let mut first = entries.next().unwrap().unwrap();
        assert_eq!(first.path().unwrap(), Path::new("a b"));
        let mut content = String::new();
        first.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        assert!(entries.next().is_none());
    });
}

#[test]
fn hostile_archives_stay_inside() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let outside = hosted.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "untouched").unwrap();
        let file = EntryType::Regular;
        let (link, hard, dir) = (EntryType::Symlink, EntryType::Link, EntryType::Directory);
        let absolute = format!("{}/evil", outside.display());
        let cases: Vec<(&str, Vec<Vec<u8>>, Code)> = vec![
            ("climbs", vec![entry(file, b"../outside/evil", b"", b"x")], Code::Denied),
            ("climbs in the middle", vec![entry(file, b"a/../../outside/evil", b"", b"x")], Code::Denied),
            ("absolute", vec![entry(file, absolute.as_bytes(), b"", b"x")], Code::Denied),
            (
                "through a link",
                vec![entry(link, b"l", b"../outside", b""), entry(file, b"l/evil", b"", b"x")],
                Code::Denied,
            ),
            (
                "through an absolute link",
                vec![entry(link, b"l", outside.as_os_str().as_bytes(), b""), entry(file, b"l/evil", b"", b"x")],
                Code::Denied,
            ),
            (
                "a directory through a link",
                vec![entry(link, b"l", b"../outside", b""), entry(dir, b"l/evil", b"", b"")],
                Code::Denied,
            ),
            ("a hard link out", vec![entry(hard, b"h", b"../outside/victim", b"")], Code::Denied),
            (
                "a hard link through a link",
                vec![entry(link, b"l", b"../outside", b""), entry(hard, b"h", b"l/victim", b"")],
                Code::Denied,
            ),
            ("a device", vec![entry(EntryType::Char, b"d", b"", b"")], Code::Unsupported),
            ("no name", vec![entry(file, b"", b"", b"x")], Code::Invalid),
        ];
        for (what, entries, code) in cases {
            let to = hosted.dir.path().join("to");
            fs::create_dir(&to).unwrap();
            match put(&hosted, &to, archive(&entries)).await {
                Err(failure) => assert_eq!(failure.code, code, "{what}: {failure}"),
                // An empty archive is no error.
                Ok(()) => assert_eq!(what, "no name"),
            }
            let names: Vec<PathBuf> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(names, [outside.join("victim")], "{what}");
            assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched", "{what}");
            fs::remove_dir_all(&to).unwrap();
        }
    });
}

#[test]
fn an_entry_replaces_a_link_and_does_not_follow_it() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let (to, victim) = (hosted.dir.path().join("to"), hosted.dir.path().join("victim"));
        fs::create_dir(&to).unwrap();
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, to.join("name")).unwrap();
        put(&hosted, &to, archive(&[entry(EntryType::Regular, b"name", b"", b"new")])).await.unwrap();
        assert_eq!(fs::read(to.join("name")).unwrap(), b"new");
        assert!(!to.join("name").is_symlink());
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    });
}

#[test]
fn a_directory_replaces_nothing() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let to = hosted.dir.path().join("to");
        fs::create_dir_all(to.join("real")).unwrap();
        fs::write(to.join("file"), "kept").unwrap();
        symlink("real", to.join("link")).unwrap();
        for name in ["file", "link"] {
            let inside = format!("{name}/new");
            let entries = [
                entry(EntryType::Directory, name.as_bytes(), b"", b""),
                entry(EntryType::Regular, inside.as_bytes(), b"", b"new"),
            ];
            let failure = put(&hosted, &to, archive(&entries)).await.unwrap_err();
            assert_eq!(failure.code, Code::Invalid, "{name}: {failure}");
            assert!(failure.to_string().contains("Not a directory"), "{name}: {failure}");
        }
        assert_eq!(fs::read(to.join("file")).unwrap(), b"kept");
        assert!(to.join("link").is_symlink());
        assert_eq!(fs::read_dir(to.join("real")).unwrap().count(), 0);
    });
}

#[test]
fn broken_archives_are_refused_in_bounded_memory() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let to = hosted.dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let cut = archive(&[entry(EntryType::Regular, b"f", b"", &[1; 5000])])[..2000].to_vec();
        assert_eq!(put(&hosted, &to, cut).await.unwrap_err().code, Code::Invalid);
        assert_eq!(put(&hosted, &to, vec![0xff; 4096]).await.unwrap_err().code, Code::Invalid);
        // A name of 20 MB, which a reader would have to hold.
        let long = entry(EntryType::GNULongName, b"././@LongLink", b"", &vec![b'n'; 20 << 20]);
        let failure = put(&hosted, &to, archive(&[long, entry(EntryType::Regular, b"f", b"", b"")])).await.unwrap_err();
        assert!(failure.to_string().contains("headers over the size limit"), "{failure}");
        let mut big = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(8 << 20);
        header.set_mode(0o600);
        big.append_data(&mut header, "big", std::io::repeat(7).take(8 << 20)).unwrap();
        put(&hosted, &to, big.into_inner().unwrap()).await.unwrap();
        assert_eq!(fs::metadata(to.join("big")).unwrap().len(), 8 << 20);
    });
}
