//! DNS messages (RFC 1035), as far as a forwarding resolver needs them: the question, short answers of its own, and the
//! addresses in other servers' answers.
//!
//! Nothing is read past the end of the message, no name is followed beyond the longest a name can be, and a message
//! that cannot be parsed is dropped.
//!
//! Own code instead of `hickory-proto`, because the resolver mostly forwards. A query is passed on byte by byte under
//! another id, and an answer with nothing but its TTLs lowered in place: options and record types unknown here survive
//! without being decoded and encoded again. Compressed names are skipped and never expanded, so no pointer of a hostile
//! peer is followed. Answers of its own have only A and PTR records. What a guest can make the daemon parse is this
//! file, and it is fuzzed.

use std::net::Ipv4Addr;

const HEADER: usize = 12;
/// Longest name, in bytes of text.
const MAX_NAME: usize = 255;
/// Most records of an answer that are examined.
const MAX_RECORDS: usize = 256;

/// Type of a record or question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u16);

impl Kind {
    pub(super) const A: Self = Self(1);
    pub(super) const PTR: Self = Self(12);
}

/// Class of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class(u16);

impl Class {
    pub(super) const INTERNET: Self = Self(1);
}

/// Response code (RCODE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rcode {
    NoError = 0,
    ServerFailure = 2,
    NoSuchName = 3,
    Refused = 5,
}

/// Message with one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query<'a> {
    id: [u8; 2],
    flags: u16,
    /// The question section, as in the message.
    question: &'a [u8],
    /// The queried name: lower case, without a final dot. A byte that no host name has is replaced by a character that
    /// no name known here has.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) class: Class,
}

impl<'a> Query<'a> {
    /// Parses a message; `None` unless it is well-formed with exactly one question.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if word(bytes, 4)? != 1 {
            return None;
        }
        let (name, end) = name(bytes, HEADER)?;
        let (kind, class) = (Kind(word(bytes, end)?), Class(word(bytes, end + 2)?));
        Some(Self {
            id: [bytes[0], bytes[1]],
            flags: word(bytes, 2)?,
            question: bytes.get(HEADER..end + 4)?,
            name,
            kind,
            class,
        })
    }

    /// Whether it is a standard query and not a response.
    pub(super) fn is_query(&self) -> bool {
        self.flags & 0xf800 == 0
    }

    /// Whether `other` is a response to this question.
    pub(super) fn is_answered_by(&self, other: &Self) -> bool {
        other.flags & 0x8000 != 0 && self.question.eq_ignore_ascii_case(other.question)
    }

    /// Builds an answer: authoritative where it says what exists and what does not.
    pub(super) fn answer(&self, rcode: Rcode, records: &[Record]) -> Vec<u8> {
        const AUTHORITATIVE: u16 = 0x0400;
        let authority = if matches!(rcode, Rcode::NoError | Rcode::NoSuchName) { AUTHORITATIVE } else { 0 };
        self.message(authority | rcode as u16, records)
    }

    /// Builds a truncated answer, which makes the client ask again over TCP.
    pub(super) fn cut(&self) -> Vec<u8> {
        const TRUNCATED: u16 = 0x0200;
        self.message(TRUNCATED | Rcode::NoError as u16, &[])
    }

    fn message(&self, flags: u16, records: &[Record]) -> Vec<u8> {
        const RESPONSE: u16 = 0x8000;
        const RECURSION_DESIRED: u16 = 0x0100;
        const RECURSION_AVAILABLE: u16 = 0x0080;
        let flags = RESPONSE | flags | (self.flags & RECURSION_DESIRED) | RECURSION_AVAILABLE;
        let count = u16::try_from(records.len()).expect("few records");
        let mut bytes = self.id.to_vec();
        for field in [flags, 1, count, 0, 0] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend_from_slice(self.question);
        for record in records {
            // The name is a compression pointer to the question's.
            bytes.extend([0xc0, 12]);
            bytes.extend(record.kind.0.to_be_bytes());
            bytes.extend(Class::INTERNET.0.to_be_bytes());
            bytes.extend(record.ttl.to_be_bytes());
            bytes.extend(u16::try_from(record.data.len()).expect("short records").to_be_bytes());
            bytes.extend_from_slice(&record.data);
        }
        bytes
    }
}

/// Record about the queried name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    kind: Kind,
    ttl: u32,
    data: Vec<u8>,
}

impl Record {
    pub(super) fn a(address: Ipv4Addr, ttl: u32) -> Self {
        Self { kind: Kind::A, ttl, data: address.octets().to_vec() }
    }

    /// Record with a name as its data; `name` has labels of at most 63 bytes.
    pub(super) fn ptr(name: &str, ttl: u32) -> Self {
        let mut data = Vec::new();
        for label in name.split('.') {
            data.push(u8::try_from(label.len()).expect("a label is short"));
            data.extend(label.bytes());
        }
        data.push(0);
        Self { kind: Kind::PTR, ttl, data }
    }
}

/// Parses a message as a question and as an answer, for fuzzing.
pub(crate) fn read_as_any(bytes: &[u8]) {
    if let Some(query) = Query::parse(bytes) {
        let answer = query.answer(Rcode::NoSuchName, &[]);
        let read = Query::parse(&answer).expect("what is written can be read");
        assert!(query.is_answered_by(&read), "{query:?}");
        let _ = reverse(&query.name);
    }
    assert!(addresses(bytes).len() <= MAX_RECORDS);
}

/// IPv4 addresses in the answers of a message, with their TTLs in seconds.
pub(super) fn addresses(bytes: &[u8]) -> Vec<(Ipv4Addr, u32)> {
    let of = |answer: Answer| {
        let octets = <[u8; 4]>::try_from(bytes.get(answer.data())?).ok()?;
        ((answer.kind, answer.class) == (Kind::A, Class::INTERNET)).then_some((octets.into(), answer.ttl))
    };
    answers(bytes).into_iter().filter_map(of).collect()
}

/// Whether all answers of a message were examined.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    word(bytes, 6).is_some_and(|count| answers(bytes).len() == usize::from(count))
}

/// Lowers the TTL of every answer to at most `most` seconds.
pub(super) fn limit_ttl(bytes: &mut [u8], most: u32) {
    for answer in answers(bytes).into_iter().filter(|answer| answer.ttl > most) {
        bytes[answer.at + 4..answer.at + 8].copy_from_slice(&most.to_be_bytes());
    }
}

/// Position and header fields of one answer record; `at` is where its name ends.
struct Answer {
    at: usize,
    kind: Kind,
    class: Class,
    ttl: u32,
    length: usize,
}

impl Answer {
    fn data(&self) -> std::ops::Range<usize> {
        self.at + 10..self.at + 10 + self.length
    }
}

/// Answers of a message, up to the first that cannot be read.
fn answers(bytes: &[u8]) -> Vec<Answer> {
    let mut found = Vec::new();
    let _ = collect(bytes, &mut found);
    found
}

fn collect(bytes: &[u8], found: &mut Vec<Answer>) -> Option<()> {
    let (questions, answers) = (word(bytes, 4)?, word(bytes, 6)?);
    let mut at = HEADER;
    for _ in 0..questions.min(1) {
        at = skip_name(bytes, at)? + 4;
    }
    for _ in 0..usize::from(answers).min(MAX_RECORDS) {
        at = skip_name(bytes, at)?;
        let (kind, class, length) = (word(bytes, at)?, word(bytes, at + 2)?, usize::from(word(bytes, at + 8)?));
        let ttl = u32::from_be_bytes(bytes.get(at + 4..at + 8)?.try_into().ok()?);
        let answer = Answer { at, kind: Kind(kind), class: Class(class), ttl, length };
        bytes.get(answer.data())?;
        at = answer.data().end;
        found.push(answer);
    }
    Some(())
}

/// The address a name of `in-addr.arpa` stands for.
pub(super) fn reverse(name: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut labels = name.strip_suffix(".in-addr.arpa")?.split('.');
    for octet in octets.iter_mut().rev() {
        *octet = labels.next()?.parse().ok()?;
    }
    labels.next().is_none().then_some(octets.into())
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads an uncompressed name, as a question has it; returns where it ends.
fn name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut text = String::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((text, at));
        }
        let label = bytes.get(at..at + length).filter(|_| length <= 63)?;
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| match byte.to_ascii_lowercase() {
            plain @ (b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') => char::from(plain),
            _ => char::REPLACEMENT_CHARACTER,
        }));
        if text.len() > 4 * MAX_NAME {
            return None;
        }
        at += length;
    }
}

/// Skips a name that may end in a compression pointer; returns where it ends.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + length,
            0xc0.. => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at - start > MAX_NAME {
            return None;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::network) fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(Record::ptr(name, 0).data);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let bytes = question("Demo.VM", 1);
        let query = Query::parse(&bytes).unwrap();
        assert_eq!((query.name.as_str(), query.kind, query.is_query()), ("demo.vm", Kind::A, true));
        let answer = query.answer(Rcode::NoError, &[Record::a(Ipv4Addr::new(10, 213, 0, 2), 5)]);
        let read = Query::parse(&answer).unwrap();
        assert!(query.is_answered_by(&read) && !read.is_query());
        assert_eq!(addresses(&answer), [(Ipv4Addr::new(10, 213, 0, 2), 5)]);
        assert_eq!(query.answer(Rcode::Refused, &[])[3] & 15, 5);
    }

    #[test]
    fn an_answer_is_good_for_no_longer_than_its_rule_is_open() {
        let bytes = question("demo.example", 1);
        let records = [Record::a(Ipv4Addr::new(1, 2, 3, 4), 86_400), Record::a(Ipv4Addr::new(1, 2, 3, 5), 60)];
        let mut answer = Query::parse(&bytes).unwrap().answer(Rcode::NoError, &records);
        limit_ttl(&mut answer, 3600);
        let times: Vec<u32> = addresses(&answer).into_iter().map(|(_, ttl)| ttl).collect();
        assert_eq!(times, [3600, 60]);
    }

    #[test]
    fn an_answer_is_whole_when_all_of_it_was_looked_at() {
        let (bytes, record) = (question("demo.example", 1), Record::a(Ipv4Addr::new(1, 2, 3, 4), 60));
        let answer = |count| Query::parse(&bytes).unwrap().answer(Rcode::NoError, &vec![record.clone(); count]);
        assert!(is_whole(&answer(0)) && is_whole(&answer(MAX_RECORDS)));
        assert!(!is_whole(&answer(MAX_RECORDS + 1)), "one more");
        let short = answer(2);
        assert!(!is_whole(&short[..short.len() - 1]), "cut short");
    }

    #[test]
    fn a_label_with_a_dot_in_it_is_no_way_around_a_rule() {
        let mut bytes = question("x", 1);
        bytes.splice(12..14, *b"\x06a.exam");
        let query = Query::parse(&bytes).unwrap();
        assert!(!query.name.contains('.'), "{}", query.name);
    }

    #[test]
    fn reverse_names_are_addresses_backwards() {
        assert_eq!(reverse("2.0.213.10.in-addr.arpa"), Some(Ipv4Addr::new(10, 213, 0, 2)));
        for other in ["0.213.10.in-addr.arpa", "1.2.0.213.10.in-addr.arpa", "x.0.213.10.in-addr.arpa", "example.com"] {
            assert_eq!(reverse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn nothing_a_guest_sends_is_too_much(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some(query) = Query::parse(&bytes) {
                let answer = query.answer(Rcode::NoSuchName, &[]);
                prop_assert!(answer.len() <= bytes.len() + HEADER);
            }
            let before = addresses(&bytes);
            let mut limited = bytes.clone();
            limit_ttl(&mut limited, 5);
            prop_assert_eq!(limited.len(), bytes.len());
            prop_assert_eq!(addresses(&limited).len(), before.len());
        }

        #[test]
        fn a_question_with_bytes_changed_does_no_harm(at in 0_usize..40, byte: u8) {
            let mut bytes = question("some.longer.example.com", 1);
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = Query::parse(&bytes).map(|query| query.answer(Rcode::Refused, &[]));
            let _ = addresses(&bytes);
        }
    }
}
