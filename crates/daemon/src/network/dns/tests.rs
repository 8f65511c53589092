//! What a guest is told, and what was opened before it was.

use super::{
    message::{self, tests::question},
    *,
};
use crate::{
    network::{Egress, HostNetwork, Settings, guests, helper},
    store::tests::store,
};
use banger_proto::{
    framing::{self, HEADER},
    helper::{Answer, MAX_LEARNED, Request},
};
use std::sync::Mutex;
use tokio::net::UnixStream;

const ONE: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
const OTHER: Ipv4Addr = Ipv4Addr::new(9, 9, 8, 8);

struct World {
    _temp: tempfile::TempDir,
    network: HostNetwork,
    guest: Guest,
    upstream: Upstream,
    /// What the helper was asked for.
    asked: Arc<Mutex<Vec<Request>>>,
}

/// Names resolve to these records, for a guest that may reach what `www.example.com` resolves to and nothing else. The helper
/// does what it is asked for or refuses it.
async fn world(records: Vec<Record>, refused: bool) -> World {
    let (temp, store) = store();
    let settings = Settings {
        uplink: Uplink::Auto,
        block: "10.213.0.0/16".parse().unwrap(),
        dns: Vec::new(),
        deny: Vec::new(),
        allow: Vec::new(),
    };
    let place = temp.path().to_owned();
    let network = HostNetwork::new(settings, store, place.clone(), place, "/none".into());
    let (helper, stream) = helper::tests::silent();
    let asked = Arc::default();
    tokio::spawn(serve_helper(stream, Arc::clone(&asked), refused));
    *network.shared.live.lock().await = Some(life::tests::live(helper));
    let mut guest = guests::tests::guest("a", 0, 2);
    guest.egress = Egress::new(false, [], ["10.0.0.0/8", "www.example.com:80"].map(|rule| rule.parse().unwrap()));
    network.shared.guests.insert(guest.clone());
    let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::new(vec![resolver.local_addr().unwrap()]);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = resolver.recv_from(&mut buffer).await {
            let answer = Query::parse(&buffer[..length]).unwrap().answer(Rcode::NoError, &records);
            resolver.send_to(&answer, from).await.unwrap();
        }
    });
    World { _temp: temp, network, guest, upstream, asked }
}

async fn serve_helper(mut stream: UnixStream, asked: Arc<Mutex<Vec<Request>>>, refused: bool) {
    let answer = if refused { Answer::Failed { reason: "the set is full".into() } } else { Answer::Done };
    loop {
        let mut header = [0; HEADER];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let mut body = vec![0; framing::body_length(header).unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        asked.lock().unwrap().push(framing::decode(&body).unwrap());
        stream.write_all(&framing::encode(&answer).unwrap()).await.unwrap();
    }
}

impl World {
    /// The answer to a guest that asks for an address.
    async fn ask(&self, name: &str) -> Vec<u8> {
        let bytes = question(name, 1);
        match self.decide(&bytes) {
            Verdict::Answer(answer) => answer,
            Verdict::Forward(rules) => {
                let shared = Arc::downgrade(&self.network.shared);
                forward(&shared, &self.upstream, &self.guest, &bytes, &rules, false).await.unwrap()
            }
            Verdict::Nothing => panic!("it is a query"),
        }
    }

    fn decide(&self, bytes: &[u8]) -> Verdict {
        decide(&self.network.shared, &self.guest, &Query::parse(bytes).unwrap())
    }

    fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// The one way to open something: under the rule for the name, which is the policy's second.
    fn learn(&self, addresses: &[Ipv4Addr], ttl: u32) -> Request {
        Request::LearnAddresses { vm: self.guest.vm.clone(), rule: 1, addresses: addresses.to_vec(), ttl }
    }
}

/// How it went, and whether that was said with authority.
fn verdict(answer: &[u8]) -> (u8, bool) {
    (answer[3] & 15, answer[2] & 4 != 0)
}

#[tokio::test]
async fn what_a_name_resolves_to_is_open_as_long_as_the_answer_is_good() {
    let world = world(vec![Record::a(ONE, 90), Record::a(OTHER, 30)], false).await;
    let answer = world.ask("www.example.com").await;
    assert_eq!(world.asked(), [world.learn(&[ONE, OTHER], 30)]);
    assert_eq!(
        message::addresses(&answer),
        [(ONE, 30), (OTHER, 30)],
        "none of them is good for longer than it is open"
    );
}

#[tokio::test]
async fn nothing_is_open_for_long() {
    let world = world(vec![Record::a(ONE, 600_000)], false).await;
    let answer = world.ask("www.example.com").await;
    assert_eq!(world.asked(), [world.learn(&[ONE], 3600)]);
    assert_eq!(message::addresses(&answer), [(ONE, 3600)]);
}

#[tokio::test]
async fn all_of_many_addresses_are_opened() {
    let many: Vec<Ipv4Addr> = (0..40).map(|n| Ipv4Addr::new(9, 9, 9, n)).collect();
    let world = world(many.iter().map(|address| Record::a(*address, 60)).collect(), false).await;
    let answer = world.ask("www.example.com").await;
    assert_eq!(world.asked(), [world.learn(&many[..MAX_LEARNED], 60), world.learn(&many[MAX_LEARNED..], 60)]);
    assert_eq!(message::addresses(&answer).len(), many.len());
}

#[tokio::test]
async fn what_cannot_be_opened_is_not_told() {
    let refused = world(vec![Record::a(ONE, 60)], true).await;
    let answer = refused.ask("www.example.com").await;
    assert_eq!(refused.asked().len(), 1);
    assert_eq!((verdict(&answer), message::addresses(&answer)), ((2, false), Vec::new()));

    // Its policy is another one since it asked: the numbers of rules are others.
    let changed = world(vec![Record::a(ONE, 60)], false).await;
    let now = Guest { egress: Egress::new(false, [], ["x.org".parse().unwrap()]), ..changed.guest.clone() };
    changed.network.shared.guests.insert(now);
    assert_eq!(verdict(&changed.ask("www.example.com").await), (2, false));
    assert_eq!(changed.asked(), []);
}

#[tokio::test]
async fn names_are_answered_refused_or_asked_for_by_who_asks() {
    let mut world = world(vec![Record::a(ONE, 60)], false).await;
    let peer = guests::tests::guest("db", 1, 3);
    world.network.shared.guests.insert(peer.clone());
    assert_eq!(verdict(&world.ask("a.vm").await), (0, true), "itself");
    assert_eq!(verdict(&world.ask("db.vm").await), (3, true), "on another network");
    assert_eq!(verdict(&world.ask("other.example.org").await), (5, false), "not allowed");
    assert_eq!(world.asked(), []);

    // On a network with the other one, and with the internet open, where names have nothing to open.
    world.guest.seat.network = 1;
    world.guest.egress = Egress::new(true, [], []);
    let found = world.ask("db.vm").await;
    assert_eq!((verdict(&found), message::addresses(&found)), ((0, true), vec![(peer.address, TTL)]));
    assert_eq!(message::addresses(&world.ask("other.example.org").await), [(ONE, 60)]);
    assert_eq!(world.asked(), []);
}
