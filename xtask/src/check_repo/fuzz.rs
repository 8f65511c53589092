//! Rule on fuzz targets, which no build compiles: what they call exists, and their corpora are replayed.

use super::SourceFile;

const TARGETS: &str = "fuzz/src/bin/";
/// Module with a crate's fuzz entry points, unless it is a module in another file.
const FUZZING: &str = "fuzzing.rs";

/// Checks that each target is in the manifest, calls functions its crate has, and has a corpus that a test of that
/// crate replays.
pub(crate) fn targets(files: &[SourceFile]) -> Vec<String> {
    let manifest = files.iter().find(|file| file.path == "fuzz/Cargo.toml").map_or("", |file| &file.text);
    let mut faults = Vec::new();
    for target in files.iter().filter(|file| file.path.starts_with(TARGETS)) {
        let name = target.path[TARGETS.len()..].trim_end_matches(".rs");
        let mut fault = |what: String| faults.push(format!("{} {what}", target.path));
        if !manifest.contains(&format!("name = \"{name}\"\npath = \"src/bin/{name}.rs\"")) {
            fault("is no target in fuzz/Cargo.toml".into());
        }
        let corpus = format!("/tests/corpus/{name}/");
        let its_crate = files.iter().find_map(|file| file.path.split_once(&corpus)).map(|(its_crate, _)| its_crate);
        let reads_it = |file: &SourceFile| !file.path.contains("/corpus/") && replays(&file.text, name);
        if !its_crate.is_some_and(|its_crate| below(files, &format!("{its_crate}/tests/")).any(reads_it)) {
            fault("has no corpus that a test replays".into());
        }
        for (place, item) in used(&target.text) {
            let (dir, name) = place.rsplit_once('/').unwrap_or_default();
            let is_there =
                |it: &SourceFile| it.path.ends_with(name) || name == FUZZING && it.text.contains("pub mod fuzzing {");
            if !below(files, dir).any(|it| is_there(it) && declares(&it.text, item)) {
                fault(format!("uses {item}, which {place} does not have"));
            }
        }
    }
    faults
}

fn below<'a>(files: &'a [SourceFile], dir: &str) -> impl Iterator<Item = &'a SourceFile> {
    files.iter().filter(move |file| file.path.starts_with(dir))
}

/// Whether a test replays a corpus: the name is in a call that does so, or at the end of a path that the file lists. A
/// mention elsewhere is not enough.
fn replays(text: &str, name: &str) -> bool {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let quoted = format!("\"{name}\"");
    let in_a_call = |call: &str| code.split(call).skip(1).any(|rest| arguments(rest).contains(&quoted));
    let lists_it = code.contains("read_dir(") && code.contains(&format!("/corpus/{name}\""));
    in_a_call("replay(") || in_a_call("replayed(") || in_a_call("read_dir(") || lists_it
}

/// Returns the text before the parenthesis that closes a call.
fn arguments(rest: &str) -> &str {
    let mut depth = 1;
    let end = rest.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    &rest[..end.unwrap_or(rest.len())]
}

/// Returns the items a target imports: the end of the path of the file that has each, the directory it is below, and
/// its name.
fn used(text: &str) -> Vec<(String, &str)> {
    let mut used = Vec::new();
    let mut fuzzing = String::new();
    for import in text.split("use banger_").skip(1) {
        let (its_crate, rest) = import.split_once("::").unwrap_or_default();
        let src = format!("crates/{}/src/", its_crate.replace('_', "-"));
        let rest = rest.split(';').next().unwrap_or_default();
        for item in rest.split(|c: char| matches!(c, '{' | '}' | ',') || c.is_whitespace()) {
            match item.rsplit("::").next().unwrap_or_default() {
                "" => {}
                "fuzzing" => fuzzing = format!("{src}{FUZZING}"),
                item => used.push((format!("{src}.rs"), item)),
            }
        }
    }
    let called = |module: &str| {
        let before = format!("{module}::");
        let calls = text.split(before.as_str()).skip(1);
        calls.map(|call| call.split(|c: char| !is_word(c)).next().unwrap_or_default()).collect::<Vec<_>>()
    };
    used.extend(called("fuzzing").into_iter().map(|item| (fuzzing.clone(), item)));
    for module in text.split("#[path = \"../../../").skip(1) {
        let (path, rest) = module.split_once('"').unwrap_or_default();
        let name = rest.split_once("mod ").and_then(|(_, rest)| rest.split_once(';')).map_or("", |(name, _)| name);
        used.extend(called(name).into_iter().map(|item| (path.to_owned(), item)));
    }
    used
}

/// Whether a file has a public item of that name.
fn declares(text: &str, item: &str) -> bool {
    // A file that a target includes as a whole shows it the same items as its crate.
    let shown = |line: &&str| ["pub ", "pub(crate) "].iter().any(|how| line.starts_with(how));
    text.lines().map(str::trim_start).filter(|line| shown(line)).filter_map(|line| line.split_once(' ')).any(
        |(_, line)| {
            let mut words = line.split(|c: char| !is_word(c)).skip_while(|word| matches!(*word, "async" | "const"));
            words.nth(1) == Some(item)
        },
    )
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), text: text.into() }
    }

    fn repository(target: &str) -> Vec<SourceFile> {
        vec![
            file("fuzz/Cargo.toml", "[[bin]]\nname = \"x-y\"\npath = \"src/bin/x-y.rs\"\n"),
            file("fuzz/src/bin/x-y.rs", target),
            file("crates/a-b/src/oci/fuzzing.rs", "pub fn read(data: &[u8]) {\n"),
            file("crates/a-b/src/names.rs", "pub mod fuzzing {\n    pub fn fuzz_read(data: &[u8]) {\n"),
            file("crates/a-b/src/job.rs", "pub struct Cancel;\n"),
            file("crates/a-b/tests/corpus/x-y/one", ""),
            file("crates/a-b/tests/it/judge.rs", "fn no() {}\npub(crate) fn bytes() {}\n"),
            file("crates/a-b/tests/it/corpora.rs", "replay(home(), &[(\"z\", z), (\"x-y\", read)]);"),
        ]
    }

    #[test]
    fn a_target_that_calls_what_is_gone_is_found() {
        let target = |call: &str, job: &str| {
            format!(
                "use banger_a_b::{{\n    job::{{{job}}},\n    oci::fuzzing,\n}};\nfuzz_target!(|data| fuzzing::{call}(data));"
            )
        };
        for call in ["read", "fuzz_read"] {
            assert_eq!(targets(&repository(&target(call, "Cancel"))), [""; 0]);
        }
        for (gone, item) in [(target("write", "Cancel"), "write"), (target("read", "Cancel, Job"), "Job")] {
            let faults = targets(&repository(&gone));
            assert!(faults.len() == 1 && faults[0].contains(&format!("uses {item}, ")), "{faults:?}");
        }
        let judge = |call: &str| {
            format!(
                "#[path = \"../../../crates/a-b/tests/it/judge.rs\"]\nmod judge;\nfuzz_target!(|data| judge::{call}(data));"
            )
        };
        assert_eq!(targets(&repository(&judge("bytes"))), [""; 0]);
        assert_eq!(targets(&repository(&judge("no"))).len(), 1);
    }

    #[test]
    fn a_target_without_a_manifest_or_a_corpus_is_found() {
        for without in ["fuzz/Cargo.toml", "crates/a-b/tests/corpus/x-y/one", "crates/a-b/tests/it/corpora.rs"] {
            let mut files = repository("");
            files.retain(|file| file.path != without);
            assert_eq!(targets(&files).len(), 1, "{without}");
        }
    }

    #[test]
    fn a_corpus_that_is_only_spoken_of_is_not_replayed() {
        for (text, is_read) in [
            ("replay(\"x-y\", read)", true),
            ("replay(\n    home(),\n    &[\n        (\"x-y\", read),\n    ],\n)", true),
            ("for entry in read_dir(corpus.join(\"x-y\"))", true),
            ("const CORPUS: &str = concat!(home!(), \"/tests/corpus/x-y\");\nread_dir(CORPUS)", true),
            ("const NAMES: [&str; 1] = [\"x-y\"];\nreplay(home(), &[(\"z\", read)]);", false),
            ("replay(home(), &[(\"z\", read)]); say(\"x-y\")", false),
            ("// replay(\"x-y\", read)", false),
            ("assert_ne!(name, \"tests/corpus/x-y\")", false),
        ] {
            let mut files = repository("");
            files.retain(|file| !file.path.ends_with("corpora.rs"));
            files.push(file("crates/a-b/tests/it/corpora.rs", text));
            assert_eq!(targets(&files).is_empty(), is_read, "{text}");
        }
    }
}
