//! Installs the tools a repository asks for, by the guest's own mise. The host's mise is never used.

use super::{guest_git::exec_spec, plan::Plan};
use crate::{
    exec::{
        capture::{self, Captured, capture},
        session::Session,
    },
    exit::Result,
    output::{printer::Printer, progress::Progress},
};
use banger_proto::{
    api::{host::Setting, vm::GuestEndpoint, workspace::Workspace},
    failure::{Code, Failure},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

/// Files that name tools, at the root of a repository, in the order in which mise looks for them.
const FILES: [&str; 3] = ["mise.toml", ".mise.toml", ".tool-versions"];
/// Most bytes of a script's output: the end of a log.
const MAX_OUTPUT: usize = 64 << 10;

/// Installs the tools. `$1`: the workspace; `$2`: `wait` when somebody waits for it. The output goes into a log that
/// git does not list.
const INSTALL: &str = r#"
command -v mise >/dev/null 2>&1 || exit 127
cd "$1"
log=.git/banger-bootstrap.log
export MISE_YES=1 MISE_TRUSTED_CONFIG_PATHS="$1"
if [ "$2" = wait ]; then
    mise install > $log 2>&1 < /dev/null && exit 0
    s=$?
    tail -n 20 $log
    [ $s -ne 127 ] || s=1
    exit $s
fi
trap '' HUP
{ mise install; echo "mise install ended with status $?"; } > $log 2>&1 < /dev/null &
"#;

/// Whether and how tools are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bootstrap {
    /// Not at all.
    No,
    /// Before the command returns.
    Foreground,
    /// In the background of a shell.
    Background,
}

/// Returns the file that asks for tools, among those that arrive.
pub(crate) fn tools_file(plan: &Plan) -> Option<&'static str> {
    let files = plan.changes.files();
    FILES.into_iter().find(|name| files.binary_search_by(|file| file.as_slice().cmp(name.as_bytes())).is_ok())
}

/// Whether a VM reaches the internet: as asked for, else as the daemon is configured. The daemon may have no uplink at
/// all.
pub(crate) fn has_network(requested: Option<bool>, settings: &[Setting]) -> bool {
    let value = |key: &str| Some(&settings.iter().find(|setting| setting.key == key)?.value);
    let closed = value("network.uplink").and_then(|uplink| uplink.as_str()).is_some_and(|uplink| uplink != "auto");
    let default = || value("vm_defaults.nat")?.as_bool();
    !closed && requested.or_else(default).unwrap_or(true)
}

/// Makes the refusal for a VM without a network.
pub(crate) fn no_network(file: &str) -> Failure {
    Failure::new(Code::Unsupported, format!("{file} asks for tools from the internet, and the VM has no network"))
        .hint("a VM has one without --no-nat, where network.uplink is auto: banger config show says")
        .hint("--no-bootstrap brings the repository without them")
}

/// Has the guest install the tools that `file` asks for.
pub(crate) async fn install(
    printer: &Printer,
    endpoint: &GuestEndpoint,
    workspace: &Workspace,
    file: &str,
    how: Bootstrap,
) -> Result<()> {
    let mode = match how {
        Bootstrap::No => return Ok(()),
        Bootstrap::Foreground => "wait",
        Bootstrap::Background => "go on",
    };
    let done = {
        let mut progress = Progress::new(printer);
        progress.phase(&format!("installing the tools of {file}"));
        capture(endpoint, &exec_spec(INSTALL, &[&workspace.guest_path, mode]), MAX_OUTPUT).await?
    };
    if !is_installing(done, endpoint.name.as_str(), file)? {
        printer.note(&format!("VM {} has no mise: the tools of {file} are not installed", endpoint.name));
    } else if how == Bootstrap::Background {
        printer.note(&format!(
            "mise installs the tools of {file} meanwhile: .git/banger-bootstrap.log says how far it is"
        ));
    }
    Ok(())
}

/// Whether the script in the VM `name` found a mise, and that installs or has installed the tools.
fn is_installing(done: Captured, name: &str, file: &str) -> std::result::Result<bool, Failure> {
    if done.is_missing() {
        return Ok(false);
    }
    if done.outcome.code() == 0 {
        return Ok(true);
    }
    let failure = Failure::new(Code::Guest, format!("mise in VM {name} cannot install the tools of {file}"));
    let output = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    let output = if output.is_empty() { done.stderr } else { output };
    let failure = failure.cause(if output.is_empty() { "it failed without a word".into() } else { output });
    let failure = failure.hint(format!("banger vm exec {name} -- mise install tries again in the VM"));
    Err(failure.hint("--no-bootstrap brings a repository without them"))
}

/// Reads a session's bytes as the output of the script, for [`crate::fuzzing`]; checks that what is kept of it is
/// bounded.
pub(crate) async fn fuzz_read<S: AsyncRead + AsyncWrite + Unpin>(session: Session<S>) -> Result<bool> {
    let (_, stdin) = mpsc::channel(1);
    let done = capture::capture_session(session, stdin, MAX_OUTPUT, None, async || false).await?;
    // Bytes that are not UTF-8 become longer as text.
    assert!(done.stdout.len() <= MAX_OUTPUT && done.stderr.len() <= 3 * MAX_OUTPUT, "more than is kept");
    Ok(is_installing(done, "demo", FILES[0])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_proto::api::host::SettingSource;

    #[test]
    fn what_was_asked_for_wins_over_the_configuration() {
        let setting =
            |value: bool| Setting { key: "vm_defaults.nat".into(), value: value.into(), source: SettingSource::File };
        for (requested, default, has) in [
            (None, None, true),
            (None, Some(false), false),
            (Some(true), Some(false), true),
            (Some(false), Some(true), false),
        ] {
            let mut settings: Vec<Setting> = default.map(setting).into_iter().collect();
            assert_eq!(has_network(requested, &settings), has, "{requested:?} {default:?}");
            for (uplink, open) in [("auto", true), ("none", false), ("off", false)] {
                let key = "network.uplink".into();
                settings.push(Setting { key, value: uplink.into(), source: SettingSource::Env });
                assert_eq!(has_network(requested, &settings), has && open, "{requested:?} {default:?} {uplink}");
                settings.pop();
            }
        }
    }
}
