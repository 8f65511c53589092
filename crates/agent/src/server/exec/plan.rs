//! Derives what to run from a request: user, directory, environment and program. Reads only `/etc`.

use super::super::{Guest, RunsIn};
use crate::{
    accounts::{Account, Accounts},
    boot::BIN,
};
use banger_proto::agent::{
    boot::Init,
    exec::{ExecSpec, Outcome, TerminalSize},
};
use std::{collections::BTreeMap, path::Path};

/// Default PATH.
pub(in crate::server) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Program to look up and start.
    pub(super) program: String,
    /// `argv[0]` if it differs: that of a login shell begins with a hyphen.
    pub(super) arg0: Option<String>,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) cwd: Cwd,
    /// `None` keeps the agent's own user, as a hosted agent must.
    pub(super) account: Option<Account>,
    pub(super) tty: Option<TerminalSize>,
}

/// Working directory of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cwd {
    /// An explicit directory; the process does not start if it is missing.
    Named(String),
    /// A default directory; `/` is used if it is missing.
    Home(String),
}

/// Resolves `spec` for this guest.
pub(super) fn resolve(spec: ExecSpec, guest: &Guest) -> Result<Plan, Outcome> {
    let accounts = Accounts::read(Path::new("/etc"));
    with_accounts(spec, guest, &accounts, &|path| Path::new(path).is_file())
}

/// Same as [`resolve`], with these accounts and a predicate for existing files.
fn with_accounts(
    spec: ExecSpec,
    guest: &Guest,
    accounts: &Accounts,
    is_file: &dyn Fn(&str) -> bool,
) -> Result<Plan, Outcome> {
    let config = &guest.config;
    let account = guest
        .account_in(accounts, spec.user.as_deref())
        .map_err(|error| Outcome::NotStarted { code: 125, message: error.to_string() })?;
    let named = spec.user.is_some() || config.user.is_some() || config.image.user.is_some();
    let hosted = guest.runs_in == RunsIn::Hosted;
    let usable = shell_of(&account, is_file);
    let shell = usable.unwrap_or(&account.shell).to_owned();
    let mut env = defaults(&account, &shell, guest, spec.tty.is_some());
    env.extend(image_env(guest));
    env.extend(guest.config.env.clone());
    env.extend(spec.env);
    let cwd = match spec.cwd.or_else(|| guest.config.workdir.clone()) {
        Some(named) => Cwd::Named(named),
        None => match &config.image.workdir {
            Some(workdir) => {
                if !hosted {
                    // An image may name a directory that it lacks; container runtimes then create it. If that fails,
                    // the command starts in the root.
                    let _ = std::fs::create_dir_all(workdir);
                }
                Cwd::Home(workdir.clone())
            }
            None => Cwd::Home(account.home.clone()),
        },
    };
    let (program, arg0, args) = match choose_argv(spec.argv, &config.image.command, usable.is_some()) {
        Some((program, args)) => (program, None, args),
        None => (shell.clone(), Some(login_name(&shell)), Vec::new()),
    };
    let account = (!hosted || named).then_some(account);
    Ok(Plan { program, arg0, args, env, cwd, account, tty: spec.tty })
}

/// Returns the program and its arguments; `None` means a shell. Without a request it is a shell if there is one, else
/// the image's command.
fn choose_argv(asked: Vec<String>, image: &[String], shell: bool) -> Option<(String, Vec<String>)> {
    let argv = if asked.is_empty() && !shell { image.to_vec() } else { asked };
    let mut argv = argv.into_iter();
    argv.next().map(|program| (program, argv.collect()))
}

/// Returns the account's shell. If it is missing, or denies logins like a service account's, the default shell is used.
fn shell_of<'a>(account: &'a Account, is_file: &dyn Fn(&str) -> bool) -> Option<&'a str> {
    let turns_away = |shell: &str| matches!(shell.rsplit('/').next(), Some("nologin" | "false"));
    [account.shell.as_str(), "/bin/sh"].into_iter().find(|shell| is_file(shell) && !turns_away(shell))
}

/// Returns the image's environment for every command.
fn image_env(guest: &Guest) -> BTreeMap<String, String> {
    let mut env = guest.config.image.env.clone();
    if (guest.runs_in, guest.init) == (RunsIn::Machine, Init::Agent)
        && let Some(path) = env.get_mut("PATH")
    {
        // An empty part would be the working directory, and so is an empty PATH.
        *path = if path.is_empty() { BIN.to_owned() } else { format!("{BIN}:{path}") };
    }
    env
}

/// Returns the variables that any program may expect.
fn defaults(account: &Account, shell: &str, guest: &Guest, tty: bool) -> BTreeMap<String, String> {
    let path = match (guest.runs_in, guest.init) {
        // The image's own power commands would need its init, which does not run.
        (RunsIn::Machine, Init::Agent) => format!("{BIN}:{DEFAULT_PATH}"),
        _ => DEFAULT_PATH.to_owned(),
    };
    let name = account.name.clone().unwrap_or_else(|| account.uid.to_string());
    let mut env = BTreeMap::from([
        ("HOME".to_owned(), account.home.clone()),
        ("HOSTNAME".to_owned(), guest.config.hostname.clone()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("LOGNAME".to_owned(), name.clone()),
        ("PATH".to_owned(), path),
        ("SHELL".to_owned(), shell.to_owned()),
        ("USER".to_owned(), name),
    ]);
    if tty {
        env.insert("TERM".to_owned(), "xterm-256color".to_owned());
    }
    env
}

fn login_name(shell: &str) -> String {
    format!("-{}", shell.rsplit('/').next().unwrap_or(shell))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::Phases;
    use banger_proto::agent::boot::BootConfig;

    fn guest(runs_in: RunsIn) -> Guest {
        let config = BootConfig {
            version: 1,
            image: banger_proto::agent::boot::ImageDefaults::default(),
            hostname: "box".into(),
            init: Init::Agent,
            mounts: vec![],
            machine_id: String::new(),
            resolv_conf: None,
            env: [("A".to_owned(), "vm".to_owned()), ("B".to_owned(), "vm".to_owned())].into(),
            workdir: None,
            user: None,
            network: None,
        };
        let acknowledgement = crate::server::ACKNOWLEDGEMENT;
        Guest {
            config,
            init: Init::Agent,
            phases: Phases::default(),
            work: None,
            troubles: vec![],
            runs_in,
            acknowledgement,
        }
    }

    /// Resolves `spec` in a guest that has only `files`.
    fn planned(spec: ExecSpec, guest: &Guest, accounts: &Accounts, files: &[&str]) -> Plan {
        with_accounts(spec, guest, accounts, &|path| files.contains(&path)).unwrap()
    }

    fn spec(argv: &[&str]) -> ExecSpec {
        let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
        ExecSpec { argv, env: BTreeMap::new(), cwd: None, user: None, tty: None }
    }

    #[test]
    fn the_spec_wins_over_the_vm_and_the_vm_over_the_defaults() {
        let mut spec = spec(&["env"]);
        spec.env = [("B".to_owned(), "spec".to_owned()), ("HOME".to_owned(), "/h".to_owned())].into();
        let plan = planned(spec, &guest(RunsIn::Machine), &Accounts::default(), &[]);
        let value = |key: &str| plan.env.get(key).map(String::as_str);
        assert_eq!((value("A"), value("B"), value("HOME")), (Some("vm"), Some("spec"), Some("/h")));
        assert_eq!(value("PATH"), Some(format!("{BIN}:{DEFAULT_PATH}").as_str()));
        assert_eq!((value("TERM"), value("HOSTNAME")), (None, Some("box")));
        assert_eq!(plan.cwd, Cwd::Home("/root".into()));
    }

    #[test]
    fn no_command_is_a_login_shell() {
        let plan = planned(spec(&[]), &guest(RunsIn::Machine), &Accounts::default(), &["/bin/sh"]);
        assert_eq!((plan.program.as_str(), plan.arg0.as_deref()), ("/bin/sh", Some("-sh")));
    }

    #[test]
    fn the_image_comes_before_the_defaults_and_after_the_vm() {
        let mut guest = guest(RunsIn::Machine);
        guest.config.image = banger_proto::agent::boot::ImageDefaults {
            env: [("A".to_owned(), "image".to_owned()), ("PATH".to_owned(), "/app".to_owned())].into(),
            workdir: Some("/srv".into()),
            user: Some("7:8".into()),
            command: vec!["/app/serve".into(), "-x".into()],
        };
        let plan = |spec| planned(spec, &guest, &Accounts::default(), &["/bin/sh"]);
        let named = plan(spec(&["env"]));
        assert_eq!((named.env["A"].as_str(), named.env["PATH"].as_str()), ("vm", format!("{BIN}:/app").as_str()));
        assert_eq!((named.cwd, named.program.as_str()), (Cwd::Home("/srv".into()), "env"));
        assert_eq!(named.account.map(|account| (account.uid, account.gid)), Some((7, 8)));
        // Without a command, the shell is run if there is one.
        assert_eq!((plan(spec(&[])).program.as_str(), plan(spec(&[])).args.len()), ("/bin/sh", 0));
        let plan = planned(spec(&[]), &guest, &Accounts::default(), &[]);
        assert_eq!((plan.program.as_str(), plan.args.as_slice()), ("/app/serve", ["-x".to_owned()].as_slice()));
        guest.config.image.env.insert("PATH".to_owned(), String::new());
        assert_eq!(planned(spec(&["env"]), &guest, &Accounts::default(), &[]).env["PATH"], BIN);
    }

    #[test]
    fn a_shell_that_is_missing_or_turns_everybody_away_is_no_shell() {
        let mut guest = guest(RunsIn::Machine);
        (guest.config.user, guest.config.image.command) = (Some("app".into()), vec!["/serve".into()]);
        let (sh, nologin) = ("/bin/sh", "/usr/sbin/nologin");
        for (shell, files, runs, arg0) in [
            ("/bin/bash", &["/bin/bash", sh][..], "/bin/bash", Some("-bash")),
            ("/bin/bash", &[sh], sh, Some("-sh")),
            (nologin, &[nologin, sh], sh, Some("-sh")),
            ("/bin/false", &["/bin/false", sh], sh, Some("-sh")),
            (nologin, &[nologin], "/serve", None),
            ("/bin/bash", &[], "/serve", None),
        ] {
            let accounts = Accounts::of(&format!("app:x:7:8::/:{shell}\n"));
            let plan = planned(spec(&[]), &guest, &accounts, files);
            assert_eq!((plan.program.as_str(), plan.arg0.as_deref()), (runs, arg0), "{shell} of {files:?}");
            assert_eq!(plan.env["SHELL"], if arg0.is_some() { runs } else { shell });
        }
        // If there is nothing else either, the error names that shell.
        guest.config.image.command.clear();
        let plan = planned(spec(&[]), &guest, &Accounts::of("app:x:7:8::/:/bin/bash\n"), &[]);
        assert_eq!(plan.program, "/bin/bash");
    }

    #[test]
    fn an_unknown_user_is_no_command() {
        let mut guest = guest(RunsIn::Machine);
        guest.config.user = Some("nobody-here".into());
        let outcome = resolve(spec(&["true"]), &guest).unwrap_err();
        assert_eq!(outcome.code(), 125);
    }

    #[test]
    fn a_hosted_agent_stays_who_it_is() {
        let plan = planned(spec(&["true"]), &guest(RunsIn::Hosted), &Accounts::default(), &[]);
        assert_eq!(plan.account, None);
        assert_eq!(plan.env.get("PATH").map(String::as_str), Some(DEFAULT_PATH));
    }
}
