//! Escapes untrusted text, of a guest or a repository, for a terminal.
//!
//! Nothing that moves the cursor, changes the terminal or reorders letters passes. [`escape`] is for one value on one
//! line, [`StreamEscaper`] for a console log that arrives in pieces.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Longest color sequence to wait for; a longer one is shown as text.
const LONGEST_SEQUENCE: usize = 64;

/// Whether a character may affect more than its own cell.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{feff}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}')
}

/// Escapes one line: every control and bidirectional character is written out (`\u{1b}`, `\n`).
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        push(&mut out, c);
    }
    Cow::Owned(out)
}

fn push(out: &mut String, c: char) {
    if is_unsafe(c) {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

/// Escapes JSON text: every control and bidirectional character in its strings is written out (`\u009b`), which leaves
/// the value unchanged. Characters below the space are already escaped, or stand between values.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let is_raw = |c: char| c >= ' ' && is_unsafe(c);
    if !text.contains(is_raw) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_raw(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Escapes a byte stream: line ends and tabs stay, colors are dropped, the rest is written out. A character, color or
/// carriage return that a piece leaves unfinished waits for the next piece.
#[derive(Debug, Default)]
pub(crate) struct StreamEscaper {
    pending: Vec<u8>,
}

impl StreamEscaper {
    /// Returns the text that can be shown after `bytes` arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        self.drain(false)
    }

    /// Returns the rest at the end of the stream.
    pub(crate) fn finish(mut self) -> String {
        self.drain(true)
    }

    fn drain(&mut self, last: bool) -> String {
        let bytes = std::mem::take(&mut self.pending);
        let mut out = String::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match rest[0] {
                b'\n' | b'\t' => {
                    out.push(char::from(rest[0]));
                    rest = &rest[1..];
                }
                b'\r' => match rest.get(1) {
                    None if !last => break,
                    Some(b'\r' | b'\n') | None => rest = &rest[1..],
                    Some(_) => {
                        out.push_str("\\r");
                        rest = &rest[1..];
                    }
                },
                0x1b => match colour(rest) {
                    Colour::Complete(length) => rest = &rest[length..],
                    Colour::Unfinished if !last => break,
                    Colour::Unfinished | Colour::Other => {
                        push(&mut out, '\u{1b}');
                        rest = &rest[1..];
                    }
                },
                _ => match first_char(rest) {
                    Ok(c) => {
                        push(&mut out, c);
                        rest = &rest[c.len_utf8()..];
                    }
                    Err(true) if !last => break,
                    Err(_) => {
                        let _ = write!(out, "\\x{:02x}", rest[0]);
                        rest = &rest[1..];
                    }
                },
            }
        }
        self.pending = rest.to_vec();
        out
    }
}

/// Decodes the first character of `bytes`; the error says whether more bytes could complete it.
fn first_char(bytes: &[u8]) -> Result<char, bool> {
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.valid_up_to() > 0 => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
        Err(error) => return Err(error.error_len().is_none()),
    };
    valid.chars().next().ok_or(false)
}

enum Colour {
    /// A color sequence of this many bytes.
    Complete(usize),
    /// A prefix of a possible color sequence.
    Unfinished,
    /// Another escape sequence.
    Other,
}

/// Whether `bytes`, which begin with ESC, begin with `ESC [ … m`. Bytes beyond the longest sequence are not considered,
/// so that the result does not depend on how the stream is split.
fn colour(bytes: &[u8]) -> Colour {
    let bytes = &bytes[..bytes.len().min(LONGEST_SEQUENCE)];
    match bytes.get(1) {
        None => return Colour::Unfinished,
        Some(b'[') => {}
        Some(_) => return Colour::Other,
    }
    let parameters = bytes[2..].iter().take_while(|b| b.is_ascii_digit() || matches!(b, b';' | b':')).count();
    match bytes.get(2 + parameters) {
        Some(b'm') => Colour::Complete(3 + parameters),
        None if bytes.len() < LONGEST_SEQUENCE => Colour::Unfinished,
        _ => Colour::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_not_copied() {
        assert!(matches!(escape("debian-6.1 — ünïcode ✓"), Cow::Borrowed(_)));
    }

    #[test]
    fn nothing_that_moves_a_cursor_gets_through() {
        assert_eq!(escape("a\x1b[2Jb\nc\u{9b}31m\u{202e}x\x07"), "a\\u{1b}[2Jb\\nc\\u{9b}31m\\u{202e}x\\u{7}");
    }

    #[test]
    fn json_that_moves_no_cursor_is_the_same_value() {
        let text = "a\x7f\u{9b}2J\u{202e}b\n\u{e0041}\u{1f600}\"\\";
        let written = serde_json::to_string_pretty(&[text]).unwrap();
        let shown = json(&written);
        assert_eq!(shown, "[\n  \"a\\u007f\\u009b2J\\u202eb\\n\\udb40\\udc41\u{1f600}\\\"\\\\\"\n]");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [text]);
        assert!(matches!(json("{\"a\":\t\"\u{e9}\"}\r\n"), Cow::Borrowed(_)));
    }

    fn stream(pieces: &[&[u8]]) -> String {
        let mut escaper = StreamEscaper::default();
        let mut out: String = pieces.iter().map(|piece| escaper.push(piece)).collect();
        out.push_str(&escaper.finish());
        out
    }

    #[test]
    fn a_console_keeps_its_lines_and_loses_its_colours() {
        assert_eq!(stream(&[b"[\x1b[0;32m  OK  \x1b[0m] \xc3\xa9\tx\r\nnext\r\r\n"]), "[  OK  ] é\tx\nnext\n");
        assert_eq!(stream(&[b"a\x1b]0;title\x07b\rc\xff\x1b[2J"]), "a\\u{1b}]0;title\\u{7}b\\rc\\xff\\u{1b}[2J");
    }

    #[test]
    fn pieces_do_not_matter() {
        let whole: &[u8] = b"\x1b[1;31mred\x1b[m \xe2\x82\xac \xf0\x9f\x98\x80\r\n\xe2\x82 \x1b[";
        let expected = stream(&[whole]);
        assert_eq!(expected, "red € 😀\n\\xe2\\x82 \\u{1b}[");
        for cut in 0..whole.len() {
            assert_eq!(stream(&[&whole[..cut], &whole[cut..]]), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(stream(&bytes), expected);
    }

    #[test]
    fn an_endless_colour_is_not_waited_for() {
        let mut escaper = StreamEscaper::default();
        let long = [b"\x1b[".as_slice(), &[b'1'; 100]].concat();
        assert!(escaper.push(&long).starts_with("\\u{1b}[111"));
    }
}
