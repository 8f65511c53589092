//! PAX records, and how they change the next entry.

use super::{Timestamp, Xattr};

/// Prefix of the keys of extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Upper bound of the extended attributes of one entry, in number and in bytes: more than any Linux file system stores.
const MAX_XATTRS: usize = 1024;
const MAX_XATTR_BYTES: usize = 128 << 10;
/// Prefix of the keys of a sparse file.
const SPARSE: &[u8] = b"GNU.sparse.";

/// Fields of the next entry that extension headers set.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<Xattr>,
    xattr_bytes: usize,
    pub(super) sparse: bool,
}

impl Overrides {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Parses the records of one header: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record and the value may
    /// hold any byte. Unneeded keys are ignored.
    pub(super) fn records(&mut self, mut rest: &[u8]) -> Result<(), &'static str> {
        while !rest.is_empty() {
            let space = rest.iter().take(20).position(|&byte| byte == b' ').ok_or("a PAX record has no length")?;
            let length: usize = number(&rest[..space]).ok_or("a PAX record's length is not a number")?;
            let record = rest.get(space + 1..length).ok_or("a PAX record is longer than its header")?;
            let record = record.strip_suffix(b"\n").ok_or("a PAX record does not end with a line feed")?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or("a PAX record has no value")?;
            self.record(&record[..equals], &record[equals + 1..])?;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            // An empty value cancels an earlier one.
            b"path" => self.path = some(value).map(<[u8]>::to_vec),
            b"linkpath" => self.link = some(value).map(<[u8]>::to_vec),
            b"size" => self.size = optional(value, length, "a PAX size is not a number")?,
            b"uid" => self.uid = optional(value, number, "a PAX owner is not a number")?,
            b"gid" => self.gid = optional(value, number, "a PAX group is not a number")?,
            b"mtime" => self.mtime = optional(value, time, "a PAX time is not a number")?,
            _ if key.starts_with(SPARSE) => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    // Counted over all headers of the entry, of which there may be several.
                    self.xattr_bytes += name.len() + value.len();
                    if self.xattrs.len() >= MAX_XATTRS || self.xattr_bytes > MAX_XATTR_BYTES {
                        return Err("an entry has more extended attributes than a file can have");
                    }
                    self.xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
                }
            }
        }
        Ok(())
    }
}

fn some(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty()).then_some(value)
}

/// Parses a value; `None` if it is empty. `what` is the error if it cannot be parsed.
fn optional<T>(value: &[u8], parse: fn(&[u8]) -> Option<T>, what: &'static str) -> Result<Option<T>, &'static str> {
    match some(value) {
        None => Ok(None),
        Some(value) => parse(value).map(Some).ok_or(what),
    }
}

/// Parses decimal digits and nothing else.
fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Parses a length that a file can have.
fn length(digits: &[u8]) -> Option<u64> {
    number(digits).filter(|length| i64::try_from(*length).is_ok())
}

/// Parses seconds with an optional fraction; before 1970 the fraction counts backwards, as the seconds do.
fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = dot.map_or((text, &[][..]), |dot| (&text[..dot], &text[dot + 1..]));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let secs: i64 = number(whole)?;
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, _) => Timestamp { secs, nanos },
        (true, 0) => Timestamp::from_secs(-secs),
        (true, _) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// Encodes one record as in an archive.
#[cfg(test)]
pub(super) fn written(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = 3 + key.len() + value.len();
    let length = (rest + 1..rest + 9).find(|length| rest + length.to_string().len() == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(records: &[(&str, &[u8])]) -> Result<Overrides, &'static str> {
        let mut overrides = Overrides::default();
        overrides.records(&records.iter().flat_map(|(key, value)| written(key, value)).collect::<Vec<_>>())?;
        Ok(overrides)
    }

    #[test]
    fn values_may_hold_any_byte() {
        let overrides = read(&[("SCHILY.xattr.u", b"a\n=\0"), ("path", b"x\n7 y=z"), ("other", b"")]).unwrap();
        assert_eq!(overrides.xattrs, [Xattr { name: b"u".to_vec(), value: b"a\n=\0".to_vec() }]);
        assert_eq!(overrides.path.unwrap(), b"x\n7 y=z");
    }

    #[test]
    fn an_empty_value_takes_back() {
        assert!(!read(&[("uid", b"5"), ("path", b"a")]).unwrap().is_empty());
        assert!(read(&[("uid", b"5"), ("path", b"a"), ("uid", b""), ("path", b"")]).unwrap().is_empty());
    }

    #[test]
    fn attributes_of_one_entry_have_an_end() {
        let few = written("SCHILY.xattr.user.a", &vec![7; 60 << 10]);
        let many: Vec<u8> = (0..600).flat_map(|n| written(&format!("SCHILY.xattr.user.{n}"), b"")).collect();
        for header in [few, many] {
            let mut overrides = Overrides::default();
            overrides.records(&header).unwrap();
            let error = (0..3).find_map(|_| overrides.records(&header).err());
            assert_eq!(error, Some("an entry has more extended attributes than a file can have"));
        }
    }

    #[test]
    fn damaged_records() {
        for bad in [
            &b"x"[..],
            b"99 a=b\n",
            b"0 a=b\n",
            b"1 ",
            b"+6 a=b\n",
            b"5 a=b\n",
            b"6 abc\n",
            b"99999999999999999999999 a=b\n",
        ] {
            assert!(Overrides::default().records(bad).is_err(), "{}", bad.escape_ascii());
        }
        for (key, bad) in
            [("uid", "-1"), ("size", "x"), ("size", "18446744073709551615"), ("gid", " 1"), ("mtime", "1e3")]
        {
            assert!(read(&[(key, bad.as_bytes())]).is_err(), "{key}={bad}");
        }
    }

    #[test]
    fn times() {
        for (text, secs, nanos) in
            [("0", 0, 0), ("12.5", 12, 500_000_000), ("1.0000000019", 1, 1), ("-3", -3, 0), ("-1.25", -2, 750_000_000)]
        {
            assert_eq!(time(text.as_bytes()), Some(Timestamp { secs, nanos }), "{text}");
        }
        for bad in ["", ".", "-", "1.x", "1e3", "--1", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }
}
