//! Elements of nftables' sets and maps: listed, added and removed without writing a rule and without running a program.

use crate::{Attribute, Message, NLM_F_CREATE, NLM_F_DUMP, Reply, Socket, attributes};
use rustix::io::Errno;
use std::{io, time::Duration};

const NEW_ELEMENT: u16 = kind(12);
const GET_ELEMENT: u16 = kind(13);
const DELETE_ELEMENT: u16 = kind(14);

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const ELEMENT_USERDATA: u16 = 6;
const ELEMENT_EXPRESSION: u16 = 7;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;
/// Verdict code `NFT_GOTO`.
const GOTO: i32 = -4;
/// Type of a comment in an element's user data, as the `nft` program stores it: type, length, text.
const COMMENT: u8 = 0;
/// Length of `struct nfgenmsg`, in bytes.
const FIXED: usize = 4;

/// Most elements removed with one message.
const MAX_REMOVED: usize = 256;
/// Most attempts to remove elements of a set that changes meanwhile.
const REMOVE_TRIES: u32 = 10;

const fn kind(message: u16) -> u16 {
    const NFTABLES: u16 = 10;
    NFTABLES << 8 | message
}

/// Family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6 packets.
    Inet = 1,
    /// Frames on bridges.
    Bridge = 7,
}

/// Set or map, identified by its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Family of its table.
    pub family: Family,
    /// Name of its table.
    pub table: String,
    /// Name of the set.
    pub name: String,
}

/// Element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// Key, as made by [`key`].
    pub key: Vec<u8>,
    /// In a map of verdicts, the chain to go to.
    pub goto: Option<String>,
    /// Comment of at most 127 bytes.
    pub comment: Option<String>,
    /// Timeout after it is added, if it differs from the set's.
    pub timeout: Option<Duration>,
    /// Remaining time: read, never written.
    pub left: Option<Duration>,
    /// Packets counted: read, never written.
    pub packets: u64,
}

/// Change of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Set to change.
    pub set: Set,
    /// Action on the set.
    pub act: Act,
}

/// Action on a set. Few elements at a time: a message is limited to 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Adds elements. An existing one must lead to the same chain; its timeout is unchanged.
    Add(Vec<Element>),
    /// Removes elements by their keys; each must exist.
    Remove(Vec<Vec<u8>>),
}

/// Joins the parts of a key; each part is as long as its type and padded to a multiple of four bytes.
pub fn key(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend_from_slice(part);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

/// Name of an interface as part of a key: 16 bytes.
pub fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// Makes changes in order, in one transaction.
pub fn edit(socket: &mut Socket, edits: &[Edit]) -> io::Result<()> {
    socket.transaction(edits.iter().map(Edit::message).collect())
}

impl Edit {
    fn message(&self) -> Message {
        match &self.act {
            Act::Add(elements) => self.set.request(NEW_ELEMENT, NLM_F_CREATE, elements),
            Act::Remove(keys) => {
                let bare = keys.iter().map(|key| Element { key: key.clone(), ..Element::default() });
                self.set.request(DELETE_ELEMENT, 0, &bare.collect::<Vec<_>>())
            }
        }
    }
}

impl Set {
    /// Change that adds elements.
    pub fn add(&self, elements: Vec<Element>) -> Edit {
        Edit { set: self.clone(), act: Act::Add(elements) }
    }

    /// Change that removes elements.
    pub fn remove(&self, keys: Vec<Vec<u8>>) -> Edit {
        Edit { set: self.clone(), act: Act::Remove(keys) }
    }

    /// Changes that remove an element whether or not it exists.
    pub fn remove_any(&self, key: Vec<u8>) -> [Edit; 2] {
        [self.add(vec![Element { key: key.clone(), ..Element::default() }]), self.remove(vec![key])]
    }

    /// Returns the element with this key.
    pub fn get(&self, socket: &mut Socket, key: Vec<u8>) -> io::Result<Option<Element>> {
        let wanted = [Element { key, ..Element::default() }];
        match socket.ask(self.request(GET_ELEMENT, 0, &wanted)) {
            Ok(reply) => Ok(read(&reply).pop()),
            Err(error) => missing(error).map(|()| None),
        }
    }

    /// Lists all elements; empty when the set does not exist.
    pub fn list(&self, socket: &mut Socket) -> io::Result<Vec<Element>> {
        match socket.dump(&self.request(GET_ELEMENT, NLM_F_DUMP, &[])) {
            Ok(replies) => Ok(replies.iter().flat_map(read).collect()),
            Err(error) => missing(error).map(|()| Vec::new()),
        }
    }

    /// Removes the elements whose keys match, even if elements come and go meanwhile.
    pub fn remove_where(&self, socket: &mut Socket, meant: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        for attempt in 0.. {
            let keys = self.list(socket)?.into_iter().map(|element| element.key);
            let keys: Vec<_> = keys.filter(|key| meant(key)).collect();
            let edits: Vec<_> = keys.chunks(MAX_REMOVED).map(|keys| self.remove(keys.to_vec())).collect();
            match edit(socket, &edits) {
                // An element expired between the listing and the removal.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < REMOVE_TRIES => {}
                other => return other,
            }
        }
        unreachable!("the loop returns")
    }

    fn request(&self, kind: u16, flags: u16, elements: &[Element]) -> Message {
        let message = Message::new(kind, flags)
            .fixed(&[self.family as u8, 0, 0, 0])
            .text(LIST_TABLE, &self.table)
            .text(LIST_SET, &self.name);
        if elements.is_empty() {
            return message;
        }
        message.nest(LIST_ELEMENTS, |list| elements.iter().fold(list, write))
    }
}

fn missing(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) { Ok(()) } else { Err(error) }
}

fn write(list: Message, element: &Element) -> Message {
    list.nest(LIST_ITEM, |mut item| {
        item = item.nest(ELEMENT_KEY, |key| key.put(DATA_VALUE, &element.key));
        if let Some(chain) = &element.goto {
            item = item.nest(ELEMENT_DATA, |data| {
                data.nest(DATA_VERDICT, |verdict| {
                    verdict.put(VERDICT_CODE, &GOTO.to_be_bytes()).text(VERDICT_CHAIN, chain)
                })
            });
        }
        if let Some(timeout) = element.timeout {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            item = item.put(ELEMENT_TIMEOUT, &milliseconds.to_be_bytes());
        }
        if let Some(comment) = &element.comment {
            let length = u8::try_from(comment.len() + 1).expect("a comment of ours is short");
            item = item.put(ELEMENT_USERDATA, &[&[COMMENT, length], comment.as_bytes(), b"\0"].concat());
        }
        item
    })
}

/// Parses the elements of a reply; what cannot be parsed is left out.
fn read(reply: &Reply) -> Vec<Element> {
    if reply.kind != NEW_ELEMENT {
        return Vec::new();
    }
    let inside = |bytes, kind| attributes(bytes).find(move |attribute: &Attribute<'_>| attribute.kind == kind);
    let Some(list) = reply.body.get(FIXED..).and_then(|body| inside(body, LIST_ELEMENTS)) else { return Vec::new() };
    attributes(list.value).filter(|item| item.kind == LIST_ITEM).filter_map(|item| parse(item.value)).collect()
}

fn parse(item: &[u8]) -> Option<Element> {
    let mut element = Element::default();
    for part in attributes(item) {
        let mut inside = attributes(part.value);
        match part.kind {
            ELEMENT_KEY => element.key = inside.find(|it| it.kind == DATA_VALUE)?.value.to_vec(),
            ELEMENT_DATA => {
                let verdict = inside.find(|it| it.kind == DATA_VERDICT);
                let chain = verdict.and_then(|it| attributes(it.value).find(|it| it.kind == VERDICT_CHAIN));
                element.goto = chain.and_then(|chain| chain.as_text().map(str::to_owned));
            }
            ELEMENT_TIMEOUT => element.timeout = milliseconds(part.value),
            ELEMENT_EXPIRATION => element.left = milliseconds(part.value),
            ELEMENT_USERDATA => element.comment = comment(part.value),
            ELEMENT_EXPRESSION => element.packets = packets(part.value).unwrap_or(0),
            _ => {}
        }
    }
    (!element.key.is_empty()).then_some(element)
}

fn milliseconds(bytes: &[u8]) -> Option<Duration> {
    Some(Duration::from_millis(u64::from_be_bytes(bytes.try_into().ok()?)))
}

fn comment(mut data: &[u8]) -> Option<String> {
    loop {
        let [kind, length, rest @ ..] = data else { return None };
        let text = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return String::from_utf8(text.split(|byte| *byte == 0).next()?.to_vec()).ok();
        }
        data = &rest[usize::from(*length)..];
    }
}

fn packets(expression: &[u8]) -> Option<u64> {
    let part = |kind| attributes(expression).find(|it| it.kind == kind);
    part(EXPRESSION_NAME).filter(|name| name.as_text() == Some("counter"))?;
    let count = attributes(part(EXPRESSION_DATA)?.value).find(|it| it.kind == COUNTER_PACKETS)?;
    Some(u64::from_be_bytes(count.value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set() -> Set {
        Set { family: Family::Inet, table: "t".into(), name: "vms".into() }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let element = Element {
            key: key(&[&[10, 1, 2, 4], &443_u16.to_be_bytes()]),
            goto: Some("internet".into()),
            comment: Some("banger 0 vm 000".into()),
            timeout: Some(Duration::from_secs(60)),
            ..Element::default()
        };
        assert_eq!(element.key, [10, 1, 2, 4, 1, 187, 0, 0]);
        let bytes = set().request(NEW_ELEMENT, 0, &[element.clone(), element.clone()]).finish(1, 0);
        let reply = Reply { kind: NEW_ELEMENT, body: bytes[16..].to_vec() };
        assert_eq!(read(&reply), [element.clone(), element]);
    }

    /// Same bytes as `nft --debug=mnl` shows for this element.
    #[test]
    fn an_element_is_written_as_nft_writes_it() {
        let element = Element {
            key: vec![10, 1, 2, 4],
            goto: Some("internet".into()),
            comment: Some("banger 0 vm 000".into()),
            ..Element::default()
        };
        let bytes = set().request(NEW_ELEMENT, 0, &[element]).finish(1, 0);
        let verdict = [12, 0, 1, 128, 8, 0, 1, 0, 10, 1, 2, 4, 32, 0, 2, 128, 28, 0, 2, 128];
        let chain = [&[8, 0, 1, 0, 255, 255, 255, 252, 13, 0, 2, 0][..], b"internet\0\0\0\0"].concat();
        let comment = [&[22, 0, 6, 0, 0, 16][..], b"banger 0 vm 000\0\0\0"].concat();
        let list = [&[76, 0, 3, 128, 72, 0, 1, 128][..], &verdict, &chain, &comment].concat();
        assert!(bytes.ends_with(&list), "{bytes:?}");
    }

    #[test]
    fn names_are_cut_to_what_an_interface_may_have() {
        assert_eq!(interface("eth0")[..5], *b"eth0\0");
        assert_eq!(interface("a-name-that-is-too-long")[15], 0);
    }

    proptest! {
        #[test]
        fn garbage_is_no_element(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&Reply { kind: NEW_ELEMENT, body: bytes.clone() });
            let _ = parse(&bytes);
            let _ = comment(&bytes);
        }
    }
}
