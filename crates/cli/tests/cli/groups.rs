//! Help: every group shows the common case first; no test here needs a daemon.

use crate::fake::banger;
use banger_testkit::TestEnv;

fn help(args: &[&str]) -> String {
    let env = TestEnv::empty();
    let run = banger(&env, args).env("COLUMNS", "110").run().expect(0);
    assert!(run.err().is_empty(), "{run}");
    assert!(!env.layout().state.exists(), "help made files");
    run.out()
}

#[test]
fn a_group_without_a_verb_shows_how_it_is_used() {
    for group in [vec![], vec!["vm"], vec!["image"], vec!["kernel"], vec!["config"], vec!["daemon"]] {
        let text = help(&group);
        assert!(text.contains("Most people want:\n  banger "), "{text}");
        let name = if group.is_empty() { "banger" } else { group[0] };
        insta::assert_snapshot!(format!("help-{name}"), text);
    }
}

#[test]
fn the_verbs_with_examples() {
    for verb in ["run", "create", "exec", "cp", "delete", "logs", "stop", "kill", "list"] {
        insta::assert_snapshot!(format!("help-vm-{verb}"), help(&["vm", verb, "--help"]));
    }
}

#[test]
fn long_help_says_what_statuses_and_failures_look_like() {
    let text = help(&["--help"]);
    assert!(
        text.contains("125 when banger failed") && text.contains("{code, message, causes, hints, operation}"),
        "{text}"
    );
}

#[test]
fn the_definition_is_consistent() {
    banger_cli::command().debug_assert();
}
