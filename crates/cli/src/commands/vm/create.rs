//! `banger vm create`, and the arguments it shares with `run`.

use super::network::NewNetworkArgs;
use crate::{
    arguments::{self, Variable},
    complete,
    context::Context,
    exit::{Result, Status},
    signals::Signals,
};
use banger_proto::{
    agent::boot::Init,
    api::vm::{CreateVm, Start, Vm, VmmChoice, Wait},
    failure::Failure,
    name::{KernelName, VmName},
    size::ByteSize,
    span::Span,
};
use clap::Args;
use hyper::Method;

/// Message for an interrupted creation: the daemon notices that its client is gone.
pub(super) const INTERRUPTED: &str = "interrupted: the VM was not created; the daemon removes what it had made so far";

/// Arguments for a new VM.
#[derive(Debug, Default, Args)]
pub(crate) struct NewVmArgs {
    /// Name: 1 to 63 of a-z, 0-9 and '-' [default: generated]
    #[arg(long)]
    name: Option<VmName>,
    /// Image of the root file system; pulled if missing
    #[arg(long, value_parser = arguments::image, add = complete::images())]
    image: Option<String>,
    /// Kernel; pulled if missing
    #[arg(long, add = complete::available_kernels())]
    kernel: Option<KernelName>,
    /// auto (what works on this host), firecracker or qemu [default: as configured]
    #[arg(long)]
    vmm: Option<VmmChoice>,
    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = arguments::vcpu)]
    vcpu: Option<u32>,
    /// Memory, such as 512M or 4G (a bare number is MiB)
    #[arg(long, value_name = "SIZE", value_parser = arguments::memory)]
    memory: Option<ByteSize>,
    /// Work disk, such as 20G; takes space only as it is used
    #[arg(long, value_name = "SIZE", value_parser = arguments::disk_size)]
    disk_size: Option<ByteSize>,
    /// Environment variable of every command in the VM; K alone passes on your own value
    #[arg(short, long, value_name = "K[=V]")]
    env: Vec<Variable>,
    /// Working directory of commands
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User that commands run as: NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long)]
    user: Option<String>,
    /// PID 1: the image's init, the agent (fastest), or auto (the image's if it has one)
    #[arg(long, value_name = "auto|image|agent")]
    init: Option<Init>,
    /// When the VM counts as up: its agent answers, or the image's init has finished booting
    #[arg(long, value_name = "agent|boot", default_value_t = Wait::Agent)]
    wait: Wait,
    /// Delete the VM, disk and all, this long after its creation, such as 30m, 2h or 7d
    #[arg(long, value_name = "TIME")]
    ttl: Option<Span>,
    /// Start even if the host has too little free memory
    #[arg(long)]
    overcommit: bool,
    #[command(flatten)]
    network: NewNetworkArgs,
}

impl NewVmArgs {
    /// Whether the command waits for the services of the image.
    pub(super) fn waits_for_boot(&self) -> bool {
        self.wait == Wait::Boot
    }

    /// Builds the request; `default_init` is used without `--init`.
    pub(super) fn request(self, start: Start, default_init: Option<Init>) -> std::result::Result<CreateVm, Failure> {
        Ok(CreateVm {
            name: self.name,
            image: self.image.map(arguments::image_name).transpose()?,
            logins: arguments::logins(|key| std::env::var_os(key))?,
            kernel: self.kernel,
            vmm: self.vmm,
            vcpu: self.vcpu,
            memory: self.memory,
            disk_size: self.disk_size,
            init: self.init.or(default_init),
            env: arguments::environment(self.env, |key| std::env::var(key).ok()),
            workdir: self.workdir,
            user: self.user,
            overcommit: self.overcommit,
            nat: self.network.nat.setting(),
            allow: self.network.allow,
            deny: self.network.deny,
            network: self.network.network,
            publish: self.network.publish,
            ttl: self.ttl,
            start,
            wait: self.wait,
        })
    }
}

/// `banger vm create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger vm create --name demo
  banger vm create --memory 4G --disk-size 40G --no-start")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    vm: NewVmArgs,
    /// Do not start it
    #[arg(long)]
    no_start: bool,
}

/// Creates a VM and prints its name.
pub(crate) async fn run(context: &Context, args: CreateArgs) -> Result {
    let request = args.vm.request(if args.no_start { Start::No } else { Start::Yes }, None)?;
    let mut signals = Signals::install()?;
    let vm = signals
        .guard(INTERRUPTED, async {
            let path = "/v1/vms";
            context.daemon().await?.operate::<Vm>(Method::POST, path, Some(&request)).await
        })
        .await?
        .settle(&context.printer, &mut signals, INTERRUPTED)
        .await?;
    context.printer.data(&vm, |vm| vm.name.to_string())?;
    Ok(Status::Done)
}
