//! Answers to a guest, and the addresses opened before each.

use super::{
    message::{self, tests::question},
    *,
};
use crate::network::{Egress, HostNetwork, guests, helper};
use banger_proto::helper::{Answer as HelperAnswer, MAX_LEARNED, Request};
use std::sync::Mutex;

const ONE: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
const OTHER: Ipv4Addr = Ipv4Addr::new(9, 9, 8, 8);

struct World {
    _temp: tempfile::TempDir,
    network: HostNetwork,
    guest: Guest,
    upstream: Upstream,
    /// Requests to the helper.
    asked: Arc<Mutex<Vec<Request>>>,
}

/// A resolver where names resolve to these records, for a guest that may reach what `www.example.com` resolves to and
/// nothing else. The helper carries out requests or refuses them.
/// does what it is asked for or refuses it.
async fn world(records: Vec<Record>, refused: bool) -> World {
    let (temp, network) = lifecycle::tests::network(Uplink::Auto);
    let (helper, stream) = helper::tests::silent();
    let asked = Arc::default();
    let helpers = if refused { HelperAnswer::Failed { reason: "the set is full".into() } } else { HelperAnswer::Done };
    tokio::spawn(helper::tests::serve(stream, Arc::clone(&asked), helpers));
    *network.shared.live.lock().await = Some(lifecycle::tests::live(helper));
    let mut guest = guests::tests::guest("a", 0, 2);
    guest.egress = Egress::new(false, [], ["10.0.0.0/8", "www.example.com:80"].map(|rule| rule.parse().unwrap()));
    network.shared.guests.insert(guest.clone());
    let (resolver, over_tcp) = resolver().await;
    let upstream = Upstream::new(vec![resolver.local_addr().unwrap()]);
    let answer = move |asked: &[u8]| Query::parse(asked).unwrap().answer(Rcode::NoError, &records);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            tokio::select! {
                Ok((length, from)) = resolver.recv_from(&mut buffer) => {
                    resolver.send_to(&answer(&buffer[..length]), from).await.unwrap();
                }
                Ok((mut stream, _)) = over_tcp.accept() => {
                    let mut asked = vec![0; usize::from(stream.read_u16().await.unwrap())];
                    stream.read_exact(&mut asked).await.unwrap();
                    let answer = answer(&asked);
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        }
    });
    World { _temp: temp, network, guest, upstream, asked }
}

/// Both sockets of a resolver, on a free port.
async fn resolver() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

impl World {
    /// Answer to a guest that asks for an address.
    async fn ask(&self, name: &str) -> Vec<u8> {
        self.ask_over(name, false).await
    }

    async fn ask_over(&self, name: &str, stream: bool) -> Vec<u8> {
        let bytes = question(name, 1);
        match self.decide(&bytes) {
            Verdict::Answer(answer) => answer,
            Verdict::Forward(rules) => {
                let shared = Arc::downgrade(&self.network.shared);
                forward(&shared, &self.upstream, &self.guest, &bytes, &rules, stream).await.unwrap()
            }
            Verdict::Drop => panic!("it is a query"),
        }
    }

    fn decide(&self, bytes: &[u8]) -> Verdict {
        decide(&self.network.shared, &self.guest, &Query::parse(bytes).unwrap())
    }

    fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// The only valid request to open an address: under the rule for the name, the policy's second.
    fn learn(&self, addresses: &[Ipv4Addr], ttl: u32) -> Request {
        Request::LearnAddresses { vm: self.guest.vm.clone(), rule: 1, addresses: addresses.to_vec(), ttl }
    }
}

/// Response code of an answer, and whether it is authoritative.
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
async fn an_answer_that_was_cut_is_asked_for_over_tcp() {
    let many: Vec<Ipv4Addr> = (0..=255).map(|n| Ipv4Addr::new(9, 9, 9, n)).collect();
    let world = world(many.iter().map(|address| Record::a(*address, 60)).collect(), false).await;
    let cut = world.ask("www.example.com").await;
    assert_eq!((verdict(&cut), cut[2] & 2, message::addresses(&cut)), ((0, false), 2, Vec::new()));
    assert_eq!(world.asked(), [], "a part of it would be open");
    let whole = world.ask_over("www.example.com", true).await;
    assert_eq!((verdict(&whole).0, whole[2] & 2, message::addresses(&whole).len()), (0, 0, many.len()));
    assert_eq!(world.asked(), many.chunks(MAX_LEARNED).map(|some| world.learn(some, 60)).collect::<Vec<_>>());

    // Half a message is refused also to a guest for whom names open nothing.
    let mut open = self::world(many.iter().map(|address| Record::a(*address, 60)).collect(), false).await;
    open.guest.egress = Egress::new(true, [], []);
    let cut = open.ask("www.example.com").await;
    assert_eq!((verdict(&cut).0, cut[2] & 2, message::addresses(&cut)), (0, 2, Vec::new()));

    // An answer with more records than are examined is refused either way.
    let more = self::world(vec![Record::a(ONE, 60); 300], false).await;
    assert_eq!(verdict(&more.ask_over("www.example.com", true).await), (2, false));
    assert_eq!(more.asked(), []);
}

#[tokio::test]
async fn what_cannot_be_opened_is_not_told() {
    let refused = world(vec![Record::a(ONE, 60)], true).await;
    let answer = refused.ask("www.example.com").await;
    assert_eq!(refused.asked().len(), 1);
    assert_eq!((verdict(&answer), message::addresses(&answer)), ((2, false), Vec::new()));

    // The policy changed after the query: its rules have other positions.
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

    // On the other VM's network, and with the internet open, where names open nothing.
    world.guest.slot.network = 1;
    world.guest.egress = Egress::new(true, [], []);
    let found = world.ask("db.vm").await;
    assert_eq!((verdict(&found), message::addresses(&found)), ((0, true), vec![(peer.address, TTL)]));
    assert_eq!(message::addresses(&world.ask("other.example.org").await), [(ONE, 60)]);
    assert_eq!(world.asked(), []);
}
