//! Generated VM names: two words, such as `quiet-otter`.

use banger_proto::name::VmName;

/// Number of attempts before a number is appended to the words.
const PLAIN_TRIES: u32 = 8;

const FIRST: [&str; 48] = [
    "amber", "apt", "bold", "brave", "brisk", "calm", "candid", "clear", "cool", "crisp", "deft", "eager", "early",
    "even", "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad", "grand", "green", "happy", "hardy", "honest",
    "jolly", "keen", "kind", "light", "lively", "lucky", "mellow", "merry", "neat", "nimble", "noble", "plain",
    "proud", "quick", "quiet", "ready", "sharp", "silver", "steady", "sunny", "swift", "wise",
];
const SECOND: [&str; 48] = [
    "badger", "bear", "beaver", "bison", "crane", "curlew", "deer", "dove", "duck", "eagle", "egret", "elk", "falcon",
    "ferret", "finch", "fox", "gecko", "goose", "hare", "hawk", "heron", "ibex", "jay", "kestrel", "kite", "lark",
    "lynx", "magpie", "marten", "mole", "moose", "newt", "otter", "owl", "panda", "puffin", "quail", "raven", "robin",
    "seal", "stoat", "stork", "swan", "tern", "thrush", "toad", "wren", "yak",
];

/// Generates a name, a different one at each `attempt`. Whether it is free is decided by the store.
pub(super) fn generate(attempt: u32) -> VmName {
    name(crate::random::below, attempt)
}

fn name(mut below: impl FnMut(usize) -> usize, attempt: u32) -> VmName {
    let words = format!("{}-{}", FIRST[below(FIRST.len())], SECOND[below(SECOND.len())]);
    let text = if attempt < PLAIN_TRIES { words } else { format!("{words}-{}", below(10_000)) };
    text.parse().expect("two words make a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_words_is_a_valid_name() {
        for first in 0..FIRST.len() {
            for second in 0..SECOND.len() {
                let mut picks = [first, second, 9_999].into_iter();
                let name = name(|_| picks.next().unwrap(), PLAIN_TRIES);
                assert!(name.as_str().ends_with("-9999"), "{name}");
            }
        }
    }

    #[test]
    fn words_are_not_repeated() {
        for words in [FIRST, SECOND] {
            assert!(words.windows(2).all(|pair| pair[0] < pair[1]), "sorted, each once");
        }
    }
}
