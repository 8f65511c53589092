//! `banger daemon`.

use crate::{
    cli::GROUP_HELP,
    context::Context,
    exit::{Result, Status},
    output::table::facts,
};
use banger_proto::{
    api::host::DaemonStatus,
    failure::{Code, Failure},
};
use clap::{Args, Subcommand};
use hyper::Method;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Time limit for a stopped daemon to exit.
const END_DEADLINE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// `banger daemon …`.
#[derive(Debug, Args)]
#[command(
    help_template = GROUP_HELP,
    after_help = "Most people want:\n  banger daemon status    whether it runs, since when, which version\n\n\
                  It starts by itself with the first command that needs it.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct DaemonGroup {
    #[command(subcommand)]
    pub(crate) command: DaemonCommand,
}

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Print the daemon's pid, version, socket and uptime
    Status,
    /// End the daemon; VMs keep running, and the next command starts it again
    Stop,
}

pub(crate) async fn dispatch(context: &Context, command: DaemonCommand) -> Result {
    match command {
        DaemonCommand::Status => status(context).await,
        DaemonCommand::Stop => stop(context).await,
    }
}

async fn status(context: &Context) -> Result {
    let Some(mut daemon) = context.running_daemon().await? else {
        return Err(Failure::new(Code::Unavailable, "the daemon is not running")
            .hint("it starts by itself with the first command that needs it, such as 'banger ps'")
            .into());
    };
    let status: DaemonStatus = daemon.get("/v1/daemon").await?;
    context.printer.data(&status, |status| {
        facts(&[
            ("pid", Some(status.pid.to_string())),
            ("version", Some(format!("{} (API {})", status.version, status.api_version))),
            ("socket", Some(status.socket.display().to_string())),
            ("uptime", Some(format!("{} s", status.uptime_s))),
            ("running VMs", Some(status.running_vms.to_string())),
        ])
    })?;
    Ok(Status::Done)
}

/// Stops the daemon and returns once its process is gone, so that the next command starts a new one.
async fn stop(context: &Context) -> Result {
    let Some(mut daemon) = context.running_daemon().await? else {
        context.printer.note("the daemon is not running");
        return Ok(Status::Done);
    };
    let before: DaemonStatus = daemon.get("/v1/daemon").await?;
    let process = i32::try_from(before.pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let status: DaemonStatus = daemon.request(Method::POST, "/v1/daemon/stop").await?;
    drop(daemon);
    if let Some(process) = process {
        let ended =
            tokio::task::spawn_blocking(move || poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&END_DEADLINE)))
                .await;
        if !matches!(ended, Ok(Ok(1))) {
            let message = format!("the daemon (pid {}) was asked to stop and still runs", status.pid);
            return Err(Failure::new(Code::Timeout, message)
                .hint(format!("its log is {}", context.layout.daemon_log().display()))
                .into());
        }
    }
    context.printer.note(&format!("stopped the daemon (pid {}); {} VMs keep running", status.pid, status.running_vms));
    if context.printer.json() {
        context.printer.value(&status)?;
    }
    Ok(Status::Done)
}
