//! `vm cp` against a fake agent's archives.

use crate::fake::{Background, Daemon, Reply};
use banger_link::vsock::{server_accept, server_port};
use banger_testkit::TestEnv;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tar::{Builder, EntryType, Header};
use tokio::net::UnixListener;

type Puts = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A VM `demo` whose agent has `/dir`, `/dir/file`, `/evil`, links (`/in` to `/dir`, `/alias` to a file, `/dangling`),
/// and accepts any archive.
struct World {
    daemon: Daemon,
    puts: Puts,
    _server: Background,
}

fn world() -> World {
    let env_socket: Arc<Mutex<PathBuf>> = Arc::default();
    let at = Arc::clone(&env_socket);
    let daemon = Daemon::answering(move |line, _| {
        (line == "GET /v1/vms/demo/guest").then(|| {
            Reply::Json(json!({
                "id": "dddddddddddd", "name": "demo", "socket": *at.lock().unwrap(), "agent_api_version": 1
            }))
        })
    });
    let socket = daemon.env.home().join("vsock");
    env_socket.lock().unwrap().clone_from(&socket);
    let puts = Puts::default();
    let kept = Arc::clone(&puts);
    let server = Background::at(&socket, |listener| serve(listener, kept));
    World { daemon, puts, _server: server }
}

async fn serve(listener: UnixListener, puts: Puts) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let puts = Arc::clone(&puts);
        tokio::spawn(async move {
            assert_eq!(server_port(&mut stream).await.unwrap(), Some(1024));
            server_accept(&mut stream, 1).await.unwrap();
            let service = service_fn(move |request| archive(request, Arc::clone(&puts)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn archive(request: Request<Incoming>, puts: Puts) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    let reply =
        |status: u16, body: Vec<u8>| Ok(Response::builder().status(status).body(Full::new(body.into())).unwrap());
    if line.starts_with("PUT ") {
        let Ok(body) = request.into_body().collect().await else { return reply(400, Vec::new()) };
        puts.lock().unwrap().push((line, body.to_bytes().to_vec()));
        return reply(200, b"{}".to_vec());
    }
    match line.as_str() {
        "GET /archive?path=%2F" | "GET /archive?path=%2Fin%2F.." => reply(200, tar(&[(".", EntryType::Directory, "")])),
        "GET /archive?path=%2Fdir" => {
            reply(200, tar(&[("dir", EntryType::Directory, ""), ("dir/file", EntryType::Regular, "in")]))
        }
        "GET /archive?path=%2Fdir%2Ffile" => reply(200, tar(&[("file", EntryType::Regular, "in")])),
        "GET /archive?path=%2Fevil" => {
            reply(200, tar(&[("evil", EntryType::Directory, ""), ("evil/../../out", EntryType::Regular, "x")]))
        }
        "GET /archive?path=%2Fin" => reply(200, tar(&[("in", EntryType::Symlink, "dir")])),
        "GET /archive?path=%2Falias" => reply(200, tar(&[("alias", EntryType::Symlink, "dir/file")])),
        "GET /archive?path=%2Fdangling" => reply(200, tar(&[("dangling", EntryType::Symlink, "nowhere")])),
        "GET /archive?path=%2Falias%2F.." => reply(
            400,
            json!({ "code": "invalid", "message": "cannot open it", "causes": ["Not a directory"] }).to_string().into(),
        ),
        _ => reply(404, json!({ "code": "not_found", "message": "there is no such file" }).to_string().into()),
    }
}

/// Builds an archive of entries with their contents or link targets.
fn tar(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let (link, content) = if *kind == EntryType::Symlink { (*content, "") } else { ("", *content) };
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
}

fn here(env: &TestEnv) -> PathBuf {
    env.home().join("home")
}

fn tree(dir: &Path) -> Vec<String> {
    let mut found: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    found
}

#[test]
fn into_a_vm_under_the_right_name() {
    let world = world();
    let here = here(&world.daemon.env);
    fs::create_dir(here.join("src")).unwrap();
    fs::write(here.join("src/a"), "1").unwrap();
    fs::write(here.join("one"), "1").unwrap();
    for (source, destination, request, names_there) in [
        ("src", "demo:/dir", "PUT /archive?path=%2Fdir", ["src", "src/a"].as_slice()),
        ("src", "demo:/new", "PUT /archive?path=%2F", &["new", "new/a"]),
        ("src", "demo:/", "PUT /archive?path=%2F", &["src", "src/a"]),
        ("src", "demo:/in", "PUT /archive?path=%2Fin", &["src", "src/a"]),
        ("one", "demo:/in/", "PUT /archive?path=%2Fin", &["one"]),
        ("one", "demo:/dir/file", "PUT /archive?path=%2Fdir", &["file"]),
        ("one", "demo:/alias", "PUT /archive?path=%2F", &["alias"]),
        ("one", "demo:/dangling", "PUT /archive?path=%2F", &["dangling"]),
    ] {
        world.daemon.banger(["cp", source, destination]).run().expect(0);
        let (line, archive) = world.puts.lock().unwrap().pop().unwrap();
        assert_eq!(line, request, "{source} to {destination}");
        assert_eq!(names(&archive), names_there, "{source} to {destination}");
    }
    for (source, destination) in [
        ("src", "demo:/dir/file"),
        ("src", "demo:/alias"),
        ("src", "demo:/dangling"),
        ("one", "demo:/dir/file/"),
        ("one", "demo:/alias/."),
    ] {
        let refused = world.daemon.banger(["cp", source, destination]).run().expect(1);
        assert!(refused.err().contains("in VM demo is not a directory"), "{source} to {destination}: {refused}");
        assert!(world.puts.lock().unwrap().is_empty(), "{source} to {destination}");
    }
    let gone = world.daemon.banger(["cp", "nothing", "demo:/dir"]).run().expect(1);
    assert!(gone.err().starts_with("error: cannot read nothing\n"), "{gone}");
    let no_directory = world.daemon.banger(["cp", "src", "demo:/new/"]).run().expect(1);
    assert!(no_directory.err().contains("has no directory /new/"), "{no_directory}");
}

#[test]
fn out_of_a_vm_under_the_right_name() {
    let world = world();
    let here = here(&world.daemon.env);
    world.daemon.banger(["vm", "cp", "demo:/dir", "."]).run().expect(0);
    world.daemon.banger(["vm", "cp", "demo:/dir", "other"]).run().expect(0);
    world.daemon.banger(["vm", "cp", "demo:/dir/file", "dir/file"]).run().expect(0);
    assert_eq!(tree(&here), ["dir", "other"]);
    assert_eq!(fs::read_to_string(here.join("other/file")).unwrap(), "in");
    let missing = world.daemon.banger(["cp", "demo:/nothing", "."]).run().expect(1);
    assert_eq!(missing.err(), "error: the VM's agent refused\n  caused by: there is no such file\n");
}

#[test]
fn a_hostile_archive_stays_inside() {
    let world = world();
    let here = here(&world.daemon.env);
    let run = world.daemon.banger(["cp", "demo:/evil", "into", "--json"]).run().expect(1);
    assert_eq!(run.json()["code"], "guest");
    assert_eq!(tree(&here), ["into"]);
    assert_eq!(tree(&here.join("into")), Vec::<String>::new());
    assert!(!world.daemon.env.home().join("out").exists());
}
