//! Published ports, and what a VM without a network card can do.

use crate::{delete, vms};
use banger_testkit::TestEnv;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

#[test]
fn a_taken_port_is_refused_before_anything_is_made() {
    let Some(env) = TestEnv::fake() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("its address");
    let publish = format!("{}:80", at.port());
    let run = |name: &str| env.banger(["vm", "run", "-d", "--quiet", "--name", name, "-p", &publish]).run();
    let words = format!("port {at} cannot be published");
    let refused = run("web").expect(125);
    assert!(refused.err().contains(&words) && refused.err().contains("takes one that is free"), "{refused}");
    assert_eq!(vms(&env), []);

    drop(taken);
    run("web").expect(0);
    // Another VM's is as taken as anybody's.
    assert!(run("other").expect(125).err().contains(&words));
    assert_eq!(vms(&env), [("web".to_owned(), "running".to_owned())]);

    // A VM that does not run has no port; one that cannot have it back does not start, and is as it was.
    env.banger(["vm", "stop", "web"]).run().expect(0);
    let taken = TcpListener::bind(at).expect("the port is free");
    assert!(env.banger(["vm", "start", "web"]).run().expect(1).err().contains(&words));
    assert_eq!(vms(&env), [("web".to_owned(), "stopped".to_owned())]);
    drop(taken);
    env.banger(["vm", "start", "web"]).run().expect(0);
    assert_eq!(env.vm("web")["published"][0], format!("127.0.0.1:{publish}"));
    delete(&env, "web");
}

#[test]
fn a_port_leads_into_a_vm_without_a_network_card() {
    let Some(env) = TestEnv::fake() else { return };
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = server.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let _ = stream.write_all(b"hello");
        }
    });
    let publish = format!("0:{port}");
    let ran = env.banger(["vm", "run", "-d", "--name", "web", "-p", &publish]).run().expect(0);
    let vm = env.vm("web");
    // The configuration says that VMs get no card, so nothing was started for one.
    assert!(vm["ip"].is_null(), "{vm:#}");
    for program in ["bangerd-root", "pasta"] {
        assert!(env.processes(program).is_empty(), "{program}");
    }
    let published = vm["published"][0].as_str().expect("a published port");
    let place = published.strip_suffix(&format!(":{port}")).expect("[ADDRESS:]HOST:GUEST");
    assert_eq!(ran.out(), "web\n");
    let which = format!("port {port} of VM web is published at {place}\n");
    assert!(ran.err().contains(&which), "{ran}");
    let mut said = String::new();
    TcpStream::connect(place).expect("the published port").read_to_string(&mut said).expect("what it says");
    assert_eq!(said, "hello");

    // On an address of its own, and what is printed is where it is.
    let publish = format!("127.0.0.3:0:{port}");
    let printed = env.banger(["vm", "publish", "web", "-p", &publish]).run().expect(0).out();
    let picked = printed.lines().find_map(|line| line.strip_prefix("127.0.0.3:")?.strip_suffix(&format!(":{port}")));
    let picked = picked.and_then(|picked| picked.parse::<u16>().ok()).unwrap_or_else(|| panic!("{printed}"));
    let mut said = String::new();
    TcpStream::connect(("127.0.0.3", picked)).expect("the port").read_to_string(&mut said).expect("what it says");
    assert_eq!(said, "hello");
    TcpListener::bind(("127.0.0.4", picked)).expect("it is free on other addresses");
    let ports = env.banger(["vm", "ports", "web", "--json"]).run().expect(0).json();
    let listed = ports.as_array().into_iter().flatten().find(|listed| listed["port"] == port);
    let listed = listed.unwrap_or_else(|| panic!("{port} in {ports:#}"));
    assert_eq!(listed["published"], serde_json::json!([place, format!("127.0.0.3:{picked}")]), "{listed:#}");
    assert_eq!(listed["listening"], true);
    assert_eq!(listed["pid"], std::process::id(), "{listed:#}");
    delete(&env, "web");
}
