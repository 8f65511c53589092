//! `banger vm logs`.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    output::escape::StreamEscaper,
};
use banger_proto::{
    failure::{Code, Failure},
    name::VmName,
};
use clap::Args;
use http_body_util::BodyExt as _;
use std::fmt::Write as _;

/// `banger vm logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(add = complete::vms())]
    vm: VmName,
    /// Keep printing until the VM goes down (also for a restart) or you interrupt it
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// Print the guest's bytes unfiltered; they can do anything to a terminal
    #[arg(long)]
    raw: bool,
}

/// Prints the console, with control characters escaped unless `--raw`.
pub(crate) async fn run(context: &Context, args: &LogsArgs) -> Result {
    let mut path = format!("/v1/vms/{}/logs?follow={}", segment(args.vm.as_str()), args.follow);
    if let Some(tail) = args.tail {
        let _ = write!(path, "&tail={tail}");
    }
    let mut daemon = context.daemon().await?;
    let mut body = daemon.stream(&path).await?;
    let mut escaper = StreamEscaper::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::caused_by(Code::Unavailable, "the daemon went away while it sent the console", &error)
        })?;
        let Some(bytes) = frame.data_ref() else { continue };
        if args.raw {
            context.printer.bytes(bytes)?;
        } else {
            context.printer.bytes(escaper.push(bytes).as_bytes())?;
        }
    }
    context.printer.bytes(escaper.finish().as_bytes())?;
    Ok(Status::Done)
}
