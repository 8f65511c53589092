//! Published ports that change while a machine runs.

use super::{machine::FakeShim, *};
use banger_machine::shim::control::{Opened, Refused, ShimMessage, ShimRequest};
use banger_proto::{failure::Failure, network::Publish};
use std::{net::SocketAddrV4, sync::Mutex};

/// A port that the fake shim cannot open.
const TAKEN: u16 = 9;
/// Free ports are chosen from above this number.
const GIVEN: u16 = 40_000;

/// Ports of a fake shim. As with a real one, an open port stays as it is, and a request of any free port gets another
/// one each time.
#[derive(Default)]
pub(super) struct FakePorts(Mutex<(Vec<Opened>, u16)>);

impl FakePorts {
    pub(super) fn all(&self) -> Vec<Opened> {
        self.0.lock().unwrap().0.clone()
    }

    pub(super) fn open(&self, asked: Publish) -> ShimMessage {
        let mut ports = self.0.lock().unwrap();
        let (open, given) = &mut *ports;
        let mut refused = None;
        if asked.host.port() == TAKEN {
            refused = Some(Refused { asked, reason: "it is somebody else's".into() });
        } else if open.iter().all(|open| open.asked != asked) {
            let mut host = asked.host;
            if host.port() == 0 {
                *given += 1;
                host.set_port(GIVEN + *given);
            }
            open.push(Opened { asked, at: Publish { host, ..asked } });
        }
        ShimMessage::Published { published: open.clone(), refused }
    }

    pub(super) fn close(&self, asked: Publish) -> ShimMessage {
        let open = &mut self.0.lock().unwrap().0;
        open.retain(|open| open.asked != asked);
        ShimMessage::Published { published: open.clone(), refused: None }
    }
}

fn port(host: u16, guest: u16) -> Publish {
    Publish { host: SocketAddrV4::new([127, 0, 0, 1].into(), host), guest }
}

/// Makes a running VM that publishes these ports.
async fn publishing(world: &World, publish: &[Publish]) -> (VmRow, FakeShim) {
    let mut row = world.vm("v", VmState::Running).await;
    row.spec.network.publish = publish.to_vec();
    world.store.update_vm(&row).await.unwrap();
    let mut fake = FakeShim::of(world, &row);
    world.vms().reconcile().await.unwrap();
    for port in publish {
        assert_eq!(fake.requests.recv().await, Some(ShimRequest::Publish { port: *port }));
    }
    (row, fake)
}

async fn change(world: &World, unpublish: &[Publish], publish: &[Publish]) -> Result<(), Failure> {
    let set = SetVm { publish: publish.to_vec(), unpublish: unpublish.to_vec(), ..SetVm::default() };
    world.vms().change("v", Op::Set(set), &Operation::unwatched()).await.map(drop)
}

/// Returns the requests so far: whether a port is opened (or closed), and the port.
fn asked(fake: &mut FakeShim) -> Vec<(bool, Publish)> {
    std::iter::from_fn(|| fake.requests.try_recv().ok())
        .map(|request| match request {
            ShimRequest::Publish { port } => (true, port),
            ShimRequest::Unpublish { port } => (false, port),
            other => panic!("{other:?}"),
        })
        .collect()
}

async fn published(world: &World, row: &VmRow) -> (Vec<Publish>, Vec<Publish>) {
    let now = world.row(row).await.unwrap();
    (now.spec.network.publish, now.run.published)
}

#[tokio::test]
async fn a_port_that_is_closed_can_be_opened_for_another_by_the_same_request() {
    let world = World::new();
    let (closed, opened) = (port(8080, 80), port(8080, 81));
    let (row, mut fake) = publishing(&world, &[closed]).await;
    change(&world, &[closed], &[opened]).await.unwrap();
    assert_eq!(asked(&mut fake), [(false, closed), (true, opened)]);
    assert_eq!(published(&world, &row).await, (vec![opened], vec![opened]));
}

#[tokio::test]
async fn any_port_that_is_taken_back_and_asked_for_by_one_request_is_another_one() {
    let world = World::new();
    let any = port(0, 80);
    let (row, mut fake) = publishing(&world, &[any]).await;
    assert_eq!(published(&world, &row).await, (vec![any], vec![port(GIVEN + 1, 80)]));
    change(&world, &[port(GIVEN + 1, 80)], &[any]).await.unwrap();
    assert_eq!(asked(&mut fake), [(false, any), (true, any)]);
    assert_eq!(published(&world, &row).await, (vec![any], vec![port(GIVEN + 2, 80)]));
}

#[tokio::test]
async fn what_is_to_be_closed_stays_open_where_what_is_to_be_opened_is_refused() {
    let world = World::new();
    let (any, fixed, taken) = (port(0, 80), port(8080, 81), port(TAKEN, 82));
    let (row, mut fake) = publishing(&world, &[any, fixed]).await;
    let before = published(&world, &row).await;
    // Ports that conflict with another one of the same request stay open as well.
    for (unpublish, publish) in
        [(vec![fixed], vec![port(8081, 81), taken]), (vec![any, fixed], vec![any, port(8080, 83), taken])]
    {
        let refused = change(&world, &unpublish, &publish).await.unwrap_err();
        assert!(refused.message.contains("127.0.0.1:9 cannot be published"), "{refused}");
        let closed: Vec<_> = asked(&mut fake).into_iter().filter(|(opened, _)| !opened).collect();
        assert!(closed.iter().all(|(_, closed)| ![any, fixed].contains(closed)), "{closed:?}");
        assert_eq!(published(&world, &row).await, before);
    }
    // At the end, ports that are no longer wanted are closed, and not before.
    change(&world, &[fixed], &[port(8081, 81)]).await.unwrap();
    let mut asked = asked(&mut fake);
    // The refused port is closed as well, but nothing waits for that.
    asked.retain(|(_, port)| *port != taken);
    assert_eq!(asked, [(true, port(8081, 81)), (false, fixed)]);
}
