//! Extended attributes in an image, according to `debugfs`: `stat` has their names and short values; each value is
//! requested.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::stacks::raw;
use crate::ext4::debugfs;
use std::path::Path;

/// Attribute: its name and its value.
pub(super) type Xattr = (String, Vec<u8>);

/// Returns the attribute names in the output of `stat`.
pub(super) fn listed(stat: &str) -> Vec<String> {
    let from = |line: &&str| line.starts_with("Extended attributes:");
    let lines = stat.lines().skip_while(|line| !from(line)).skip(1).take_while(|line| line.starts_with("  "));
    lines.filter_map(|line| Some(line.trim().split_once(" (")?.0.to_owned())).collect()
}

/// Returns the values of attributes, each given by path and name.
pub(super) fn values(image: &Path, asked: &[(&str, &str)]) -> Vec<Vec<u8>> {
    if asked.is_empty() {
        return Vec::new();
    }
    let requests = asked.iter().flat_map(|(path, name)| raw(&format!("ea_get -x \"/{path}\" {name}\n")));
    let said = debugfs(image, requests.collect());
    let answers = said.split("debugfs:  ea_get -x ").skip(1);
    let values: Vec<Vec<u8>> = answers
        .zip(asked)
        .map(|(answer, (_, name))| {
            let value = answer.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix(" ("));
            let (length, digits) = value.unwrap_or_else(|| panic!("{answer}")).split_once(')').unwrap();
            let digits = digits.strip_prefix(" = ").unwrap_or_default().split_whitespace();
            let bytes: Vec<u8> = digits.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
            assert_eq!(bytes.len().to_string(), length, "{answer}");
            bytes
        })
        .collect();
    assert_eq!(values.len(), asked.len(), "{said}");
    values
}
