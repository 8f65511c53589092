//! From what was asked to what is run: user, directory, environment, program. Touches nothing but `/etc`.

use super::super::{Guest, Place};
use crate::{
    accounts::{Account, Accounts},
    boot::BIN,
};
use banger_proto::agent::{
    boot::Init,
    exec::{ExecSpec, Outcome, TerminalSize},
};
use std::{collections::BTreeMap, path::Path};

/// The PATH of a process nobody gave another.
pub(in crate::server) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that could be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// What is looked up and started.
    pub(super) program: String,
    /// `argv[0]` where it differs: a login shell's begins with a hyphen.
    pub(super) arg0: Option<String>,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) cwd: Cwd,
    /// `None` keeps the agent's own user, as a hosted agent must.
    pub(super) account: Option<Account>,
    pub(super) tty: Option<TerminalSize>,
}

/// Where the process starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cwd {
    /// There, or not at all.
    Named(String),
    /// There, or in `/` when it does not exist: nobody asked for it by name.
    Home(String),
}

/// Works out what `spec` means in this guest.
pub(super) fn resolve(spec: ExecSpec, guest: &Guest) -> Result<Plan, Outcome> {
    let accounts = Accounts::read(Path::new("/etc"));
    with_accounts(spec, guest, &accounts)
}

fn with_accounts(spec: ExecSpec, guest: &Guest, accounts: &Accounts) -> Result<Plan, Outcome> {
    let config = &guest.config;
    let account = guest
        .account_in(accounts, spec.user.as_deref())
        .map_err(|error| Outcome::NotStarted { code: 125, message: error.to_string() })?;
    let named = spec.user.is_some() || config.user.is_some() || config.image.user.is_some();
    let hosted = guest.place == Place::Hosted;
    let mut env = defaults(&account, guest, spec.tty.is_some());
    env.extend(image_env(guest));
    env.extend(guest.config.env.clone());
    env.extend(spec.env);
    let cwd = match spec.cwd.or_else(|| guest.config.workdir.clone()) {
        Some(named) => Cwd::Named(named),
        None => match &config.image.workdir {
            Some(workdir) => {
                if !hosted {
                    // An image may name a directory it does not hold; whatever runs containers makes it then. Where
                    // that fails, the command begins in the root.
                    let _ = std::fs::create_dir_all(workdir);
                }
                Cwd::Home(workdir.clone())
            }
            None => Cwd::Home(account.home.clone()),
        },
    };
    let (program, arg0, args) = match words(spec.argv, &config.image.command, &account.shell) {
        Some((program, args)) => (program, None, args),
        None => (account.shell.clone(), Some(login_name(&account.shell)), Vec::new()),
    };
    let account = (!hosted || named).then_some(account);
    Ok(Plan { program, arg0, args, env, cwd, account, tty: spec.tty })
}

/// The program and its arguments; `None` is a shell. Nothing was asked for: that is the shell where there is one, else
/// what the image is for.
fn words(asked: Vec<String>, image: &[String], shell: &str) -> Option<(String, Vec<String>)> {
    let words = if asked.is_empty() && !has_file(shell) { image.to_vec() } else { asked };
    let mut words = words.into_iter();
    words.next().map(|program| (program, words.collect()))
}

/// What the image wants in the environment of every command.
fn image_env(guest: &Guest) -> BTreeMap<String, String> {
    let mut env = guest.config.image.env.clone();
    if (guest.place, guest.init) == (Place::Machine, Init::Agent)
        && let Some(path) = env.get_mut("PATH")
    {
        *path = format!("{BIN}:{path}");
    }
    env
}

/// What any program may expect to find.
fn defaults(account: &Account, guest: &Guest, tty: bool) -> BTreeMap<String, String> {
    let path = match (guest.place, guest.init) {
        // The image's own power commands would talk to an init that is not there.
        (Place::Machine, Init::Agent) => format!("{BIN}:{DEFAULT_PATH}"),
        _ => DEFAULT_PATH.to_owned(),
    };
    let name = account.name.clone().unwrap_or_else(|| account.uid.to_string());
    let mut env = BTreeMap::from([
        ("HOME".to_owned(), account.home.clone()),
        ("HOSTNAME".to_owned(), guest.config.hostname.clone()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("LOGNAME".to_owned(), name.clone()),
        ("PATH".to_owned(), path),
        ("SHELL".to_owned(), account.shell.clone()),
        ("USER".to_owned(), name),
    ]);
    if tty {
        env.insert("TERM".to_owned(), "xterm-256color".to_owned());
    }
    env
}

fn has_file(path: &str) -> bool {
    Path::new(path).is_file()
}

fn login_name(shell: &str) -> String {
    format!("-{}", shell.rsplit('/').next().unwrap_or(shell))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::Phases;
    use banger_proto::agent::boot::BootConfig;

    fn guest(place: Place) -> Guest {
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
            place,
            acknowledgement,
        }
    }

    fn spec(argv: &[&str]) -> ExecSpec {
        let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
        ExecSpec { argv, env: BTreeMap::new(), cwd: None, user: None, tty: None }
    }

    #[test]
    fn the_spec_wins_over_the_vm_and_the_vm_over_the_defaults() {
        let mut spec = spec(&["env"]);
        spec.env = [("B".to_owned(), "spec".to_owned()), ("HOME".to_owned(), "/h".to_owned())].into();
        let plan = with_accounts(spec, &guest(Place::Machine), &Accounts::default()).unwrap();
        let value = |key: &str| plan.env.get(key).map(String::as_str);
        assert_eq!((value("A"), value("B"), value("HOME")), (Some("vm"), Some("spec"), Some("/h")));
        assert_eq!(value("PATH"), Some(format!("{BIN}:{DEFAULT_PATH}").as_str()));
        assert_eq!((value("TERM"), value("HOSTNAME")), (None, Some("box")));
        assert_eq!(plan.cwd, Cwd::Home("/root".into()));
    }

    #[test]
    fn no_command_is_a_login_shell() {
        let plan = with_accounts(spec(&[]), &guest(Place::Machine), &Accounts::default()).unwrap();
        assert_eq!((plan.program.as_str(), plan.arg0.as_deref()), ("/bin/sh", Some("-sh")));
    }

    #[test]
    fn the_image_comes_before_the_defaults_and_after_the_vm() {
        let mut guest = guest(Place::Machine);
        guest.config.image = banger_proto::agent::boot::ImageDefaults {
            env: [("A".to_owned(), "image".to_owned()), ("PATH".to_owned(), "/app".to_owned())].into(),
            workdir: Some("/srv".into()),
            user: Some("7:8".into()),
            command: vec!["/app/serve".into(), "-x".into()],
        };
        let plan = |spec| with_accounts(spec, &guest, &Accounts::default()).unwrap();
        let named = plan(spec(&["env"]));
        assert_eq!((named.env["A"].as_str(), named.env["PATH"].as_str()), ("vm", format!("{BIN}:/app").as_str()));
        assert_eq!((named.cwd, named.program.as_str()), (Cwd::Home("/srv".into()), "env"));
        assert_eq!(named.account.map(|account| (account.uid, account.gid)), Some((7, 8)));
        // This host has a shell, so a command nobody gave is that.
        assert_eq!((plan(spec(&[])).program.as_str(), plan(spec(&[])).args.len()), ("/bin/sh", 0));
        let no_shell = Accounts::of("app:x:7:8::/:/no/shell\n");
        let plan = with_accounts(spec(&[]), &guest, &no_shell).unwrap();
        assert_eq!((plan.program.as_str(), plan.args.as_slice()), ("/app/serve", ["-x".to_owned()].as_slice()));
    }

    #[test]
    fn an_unknown_user_is_no_command() {
        let mut guest = guest(Place::Machine);
        guest.config.user = Some("nobody-here".into());
        let outcome = resolve(spec(&["true"]), &guest).unwrap_err();
        assert_eq!(outcome.code(), 125);
    }

    #[test]
    fn a_hosted_agent_stays_who_it_is() {
        let plan = with_accounts(spec(&["true"]), &guest(Place::Hosted), &Accounts::default()).unwrap();
        assert_eq!(plan.account, None);
        assert_eq!(plan.env.get("PATH").map(String::as_str), Some(DEFAULT_PATH));
    }
}
