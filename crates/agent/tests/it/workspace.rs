//! A repository that is sent and checked out of its packs; git itself verifies the result.

use crate::{Hosted, on_one_thread, wait_until};
use banger_proto::{
    agent::link::AGENT_PORT,
    failure::{Code, Failure},
};
use hyper::{Method, StatusCode};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tar::Builder;
use tokio::io::AsyncWriteExt as _;

#[track_caller]
fn git(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .output()
        .unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Creates a repository whose objects are in packs without deltas.
fn repository(dir: &Path, format: &str) -> PathBuf {
    let repo = dir.join("repo");
    fs::create_dir_all(repo.join("a/b")).unwrap();
    git(&repo, &["init", "-q", "-b", "main", "--object-format", format]);
    for n in 0..900 {
        let dir = repo.join(format!("many/{}", n / 30));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{n}")), format!("{n}\n{}", "the same line\n".repeat(n))).unwrap();
    }
    fs::write(repo.join("a/b/large"), vec![b'l'; 3 << 20]).unwrap();
    fs::write(repo.join("empty"), "").unwrap();
    fs::write(repo.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(repo.join("run"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("a/b/large", repo.join("link")).unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-q", "-m", "x"]);
    repo
}

/// Builds the stream: the git directory, its objects packed whole, and these files.
fn stream(repo: &Path, scratch: &[(&str, &str)]) -> Vec<u8> {
    let pack = repo.join(".git/objects/pack");
    let listed = git(repo, &["rev-list", "--all", "--objects", "--no-object-names"]);
    let mut packing = Command::new("git")
        .args(["pack-objects", "-q", "--window=0"])
        .arg(pack.join("pack"))
        .current_dir(repo)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut packing.stdin.take().unwrap(), listed.as_bytes()).unwrap();
    assert!(packing.wait().unwrap().success());
    let mut tar = Builder::new(Vec::new());
    for name in ["HEAD", "config", "index"] {
        tar.append_path_with_name(repo.join(".git").join(name), format!(".git/{name}")).unwrap();
    }
    tar.append_dir(".git/refs", repo.join(".git/refs")).unwrap();
    tar.append_dir_all(".git/refs/heads", repo.join(".git/refs/heads")).unwrap();
    tar.append_dir_all(".git/objects/pack", &pack).unwrap();
    for (name, content) in scratch {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

async fn put(hosted: &Hosted, query: &str, bytes: Vec<u8>) -> Result<PathBuf, Failure> {
    let (status, body) = hosted.agent.request(Method::PUT, &format!("/workspace?{query}"), bytes).await;
    if status != StatusCode::OK {
        return Err(serde_json::from_slice(&body).unwrap());
    }
    let arrived: banger_proto::agent::workspace::Arrived = serde_json::from_slice(&body).unwrap();
    Ok(arrived.path.into())
}

async fn occupied(hosted: &Hosted, path: &Path) -> bool {
    workspace_status(hosted, path).await.occupied
}

async fn workspace_status(hosted: &Hosted, path: &Path) -> banger_proto::agent::workspace::WorkspaceStatus {
    let (_, body) = hosted.agent.request(Method::GET, &format!("/workspace?path={}", path.display()), "").await;
    let status: banger_proto::agent::workspace::WorkspaceStatus = serde_json::from_slice(&body).unwrap();
    assert_eq!(Path::new(&status.path), path);
    status
}

#[test]
fn git_finds_the_tree_as_it_was_committed() {
    for format in ["sha1", "sha256"] {
        on_one_thread(async {
            let hosted = Hosted::start().await;
            let repo = repository(hosted.dir.path(), format);
            let to = hosted.dir.path().join("deep/er");
            let query = format!("path={}&checkout={format}", to.display());
            assert!(!occupied(&hosted, &to).await);
            assert_eq!(put(&hosted, &query, stream(&repo, &[])).await.unwrap(), to);
            assert!(occupied(&hosted, &to).await);
            // Neither reads a file whose times and size match the index.
            assert_eq!(git(&to, &["diff-files", "--raw"]), "");
            assert_eq!(git(&to, &["status", "--porcelain"]), "");
            git(&to, &["fsck"]);
            assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("a/b/large"));
            assert_eq!(fs::metadata(to.join("run")).unwrap().mode() & 0o7777, 0o755);
            assert!(!to.join(".git/banger").exists());

            // Again over it, with everything that can be in the way.
            fs::remove_dir_all(to.join("a")).unwrap();
            symlink("/nowhere", to.join("a")).unwrap();
            fs::remove_file(to.join("run")).unwrap();
            fs::create_dir_all(to.join("run/is/a/directory")).unwrap();
            fs::write(
                to.join("old/file")
                    .parent()
                    .map(|dir| {
                        fs::create_dir_all(dir).unwrap();
                        to.join("old/file")
                    })
                    .unwrap(),
                "x",
            )
            .unwrap();
            fs::write(to.join("gone"), "x").unwrap();
            fs::write(to.join("stays"), "x").unwrap();
            put(&hosted, &query, stream(&repo, &[(".git/banger/removed", "old/file\0gone\0never/there\0")]))
                .await
                .unwrap();
            assert_eq!(git(&to, &["status", "--porcelain"]), "?? stays\n");
            assert!(!to.join("old").exists());
        });
    }
}

#[test]
fn lists_say_what_is_written_and_what_travelled() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let repo = repository(hosted.dir.path(), "sha1");
        let to = hosted.dir.path().join("to");
        let query = format!("path={}&checkout=sha1", to.display());
        let lists =
            [(".git/banger/written", "empty\0many/1/30\0"), ("run", "#!/bin/sh\n"), (".git/banger/fresh", "run\0")];
        put(&hosted, &query, stream(&repo, &lists)).await.unwrap();
        let mut there: Vec<_> =
            git(&to, &["ls-files"]).lines().filter(|path| to.join(path).exists()).map(str::to_owned).collect();
        there.sort_unstable();
        assert_eq!(there, ["empty", "many/1/30", "run"]);
        assert!(!git(&to, &["diff-files", "--name-only"]).contains("empty"));
        // Without a checkout it is a plain archive.
        let plain = hosted.dir.path().join("plain");
        put(&hosted, &format!("path={}", plain.display()), stream(&repo, &[])).await.unwrap();
        assert!(plain.join(".git/index").exists() && !plain.join("empty").exists());
    });
}

/// Changes in the guest, and leftovers of an earlier import, are not in the way.
#[test]
fn it_arrives_again_over_whatever_stands_there() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let repo = repository(hosted.dir.path(), "sha1");
        let to = hosted.dir.path().join("to");
        let query = format!("path={}&checkout=sha1", to.display());
        put(&hosted, &query, stream(&repo, &[])).await.unwrap();
        let files = |hash: &str| format!("/workspace/files?path={}&hash={hash}", to.display());
        let (status, body) = hosted.agent.request(Method::GET, &files("sha1"), "").await;
        assert_eq!((status, &body[..]), (StatusCode::OK, git(&repo, &["ls-files", "-z"]).as_bytes()));
        let (status, _) = hosted.agent.request(Method::GET, &files("md5"), "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);

        // git stores objects as deltas.
        git(&to, &["gc", "-q", "--aggressive", "--prune=now"]);
        let described = git(&to, &["cat-file", "--batch-all-objects", "--batch-check=%(deltabase)"]);
        assert!(described.lines().any(|base| base.bytes().any(|byte| byte != b'0')), "no object is a delta");
        // Leftovers of an interrupted import.
        fs::create_dir(to.join(".git/banger")).unwrap();
        for (list, names) in [("written", "empty\0"), ("fresh", "run\0"), ("removed", "kept\0")] {
            fs::write(to.join(".git/banger").join(list), names).unwrap();
        }
        assert!(workspace_status(&hosted, &to).await.unfinished);
        fs::write(to.join("kept"), "x").unwrap();
        fs::remove_dir_all(to.join("many")).unwrap();
        fs::write(to.join("run"), "changed").unwrap();
        put(&hosted, &query, stream(&repo, &[])).await.unwrap();
        assert_eq!(git(&to, &["status", "--porcelain"]), "?? kept\n");
        assert!(!workspace_status(&hosted, &to).await.unfinished);

        // Files in place of directories, directories in place of files, and links to files that must stay unchanged.
        fs::create_dir_all(to.join("real/deep")).unwrap();
        for name in ["real/file", "real/deep/file"] {
            fs::write(to.join(name), "stays").unwrap();
        }
        symlink("real", to.join("moved")).unwrap();
        symlink("real", to.join("entered")).unwrap();
        fs::write(to.join("was-file"), "x").unwrap();
        fs::create_dir_all(to.join("was-dir/in")).unwrap();
        fs::write(to.join("was-dir/in/it"), "x").unwrap();
        let arriving = [
            (".git/banger/removed", "moved/file\0moved/deep/file\0was-dir/in/it\0was-file\0"),
            ("entered/file", "its own"),
            ("was-file/in", "a file in it"),
            ("was-dir", "a file"),
        ];
        put(&hosted, &query, stream(&repo, &arriving)).await.unwrap();
        for (name, content) in [
            ("real/file", "stays"),
            ("real/deep/file", "stays"),
            ("entered/file", "its own"),
            ("was-file/in", "a file in it"),
            ("was-dir", "a file"),
        ] {
            assert_eq!(fs::read_to_string(to.join(name)).unwrap(), content, "{name}");
        }
        assert!(!to.join("entered").is_symlink());
    });
}

/// The directory is locked in the guest, and the sender leaves meanwhile.
#[test]
fn nothing_is_begun_for_a_sender_that_is_gone() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let to = hosted.dir.path().join("to");
        fs::create_dir(&to).unwrap();
        fs::write(to.join("file"), "the guest's\n").unwrap();
        let lock = fs::File::open(&to).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let mut tar = Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(7);
        tar.append_data(&mut header, "file", &b"theirs\n"[..]).unwrap();
        let body = tar.into_inner().unwrap();
        let tasks = PathBuf::from(format!("/proc/{}/task", hosted.child.id()));
        let at_work = || {
            let names =
                fs::read_dir(&tasks).unwrap().flatten().map(|task| fs::read_to_string(task.path().join("comm")));
            names.flatten().any(|name| name.trim() == "workspace")
        };
        // The whole body, and a part.
        for length in [body.len(), body.len() / 2] {
            let head = format!("PUT /workspace?path={} HTTP/1.1\r\nhost: agent\r\n", to.display());
            let head = format!("{head}content-length: {}\r\n\r\n", body.len());
            let mut stream = hosted.agent.dialer.dial(AGENT_PORT).await.unwrap();
            stream.write_all(&[head.as_bytes(), &body[..length]].concat()).await.unwrap();
            stream.flush().await.unwrap();
            wait_until("the repository to be received", || at_work().then_some(())).await;
            let dropped = Instant::now();
            drop(stream);
            wait_until("the agent to see that its sender is gone", || (!at_work()).then_some(())).await;
            assert!(dropped.elapsed() < Duration::from_secs(25), "it was the end of the agent's patience");
        }
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock).unwrap();
        assert_eq!(fs::read(to.join("file")).unwrap(), b"the guest's\n");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    });
}

#[test]
fn what_cannot_be_is_refused() {
    on_one_thread(async {
        let hosted = Hosted::start().await;
        let repo = repository(hosted.dir.path(), "sha1");
        let to = hosted.dir.path().join("to");
        for query in ["", "path=repo", "path=/", "path=/a/../b", "path=~x/y", "path=/tmp/x&checkout=md5"] {
            assert_eq!(put(&hosted, query, Vec::new()).await.unwrap_err().code, Code::Invalid, "{query}");
        }
        let bytes = stream(&repo, &[]);
        let query = format!("path={}&checkout=sha1", to.display());
        for (what, at, said) in [("index", "DIRC", "index"), ("objects", "PACK", "")] {
            // The first kilobyte after the magic is overwritten.
            let mut broken = bytes.clone();
            let place = broken.windows(4).position(|window| window == at.as_bytes()).unwrap() + 12;
            broken[place..place + 1024].fill(0xee);
            let failure = put(&hosted, &query, broken).await.unwrap_err();
            assert!(failure.causes.iter().any(|cause| cause.contains(said)), "{what}: {failure:?}");
        }
        let short = put(&hosted, &query, bytes[..bytes.len() / 2].to_vec()).await.unwrap_err();
        assert_eq!(short.code, Code::Invalid, "{short:?}");
    });
}
