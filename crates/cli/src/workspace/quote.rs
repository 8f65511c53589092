//! Paths as git writes them in listings and patches: as they are, or in double quotes with C's escapes.

use std::fmt::Write as _;

/// Formats `path` as `git ls-files` does with `core.quotePath=false`: one line, from which the same bytes can be read
/// back.
pub(crate) fn quoted(path: &[u8]) -> String {
    let plain = std::str::from_utf8(path)
        .ok()
        .filter(|text| !text.chars().any(|char| char.is_control() || char == '"' || char == '\\'));
    if let Some(plain) = plain {
        return plain.to_owned();
    }
    let mut out = String::from("\"");
    for chunk in path.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' | '\\' => out.extend(['\\', char]),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                char if char.is_control() => octal(&mut out, char.encode_utf8(&mut [0; 4]).as_bytes()),
                char => out.push(char),
            }
        }
        octal(&mut out, chunk.invalid());
    }
    out.push('"');
    out
}

fn octal(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "\\{byte:03o}");
    }
}

/// Parses a quoted path (without its opening quote); returns it and what follows the closing quote.
pub(crate) fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        match byte {
            b'"' => return Some((out, rest)),
            b'\\' => {
                let (escape, tail) = rest.split_first()?;
                rest = tail;
                out.push(match escape {
                    b'a' => 7,
                    b'b' => 8,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 11,
                    b'f' => 12,
                    b'r' => b'\r',
                    b'"' | b'\\' => *escape,
                    b'0'..=b'3' => {
                        let (digits, tail) = rest.split_at_checked(2)?;
                        rest = tail;
                        let digit = |byte: u8| (b'0'..=b'7').contains(&byte).then(|| byte - b'0');
                        (escape - b'0') * 64 + digit(digits[0])? * 8 + digit(digits[1])?
                    }
                    _ => return None,
                });
            }
            b'\n' | 0 => return None,
            byte => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_reads_back() {
        for path in [b"a b\xc3\xa9".as_slice(), b"a\"b\\c\nd\te", b"\xff\x01x\xc3", b"\xc2\x9b31m"] {
            let text = quoted(path);
            assert!(!text.chars().any(char::is_control), "{text}");
            match text.strip_prefix('"') {
                Some(inner) => assert_eq!(unquote(inner.as_bytes()), Some((path.to_vec(), b"".as_slice()))),
                None => assert_eq!(text.as_bytes(), path),
            }
        }
        assert_eq!(quoted(b"plain"), "plain");
    }

    #[test]
    fn nonsense_does_not_read() {
        for bad in [b"abc".as_slice(), b"a\\", b"a\\q\"", b"\\400\"", b"\\19\"", b"a\nb\"", b""] {
            assert_eq!(unquote(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
