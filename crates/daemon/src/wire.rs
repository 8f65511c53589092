//! Composition: builds the services, gives each what it may use, and lists the capabilities that a VM's start goes
//! through.

use crate::{
    capability::{
        BootConfigCapability, Capabilities, Capability, DnsCapability, FileSyncCapability, KernelFilesCapability,
        NatCapability, PortsCapability, RootImageCapability, SshCapability, Syncing, WorkDiskCapability,
    },
    config::Config,
    failures::Explain,
    images::ImageService,
    network::HostNetwork,
    ssh::SshKeys,
    store::Store,
    vm::{Parts, VmService},
    workspace::WorkspaceService,
};
use banger_artifacts::disk::WorkDisks;
use banger_machine::{shim::client::Shims, vmm::host::Probe};
use banger_proto::{failure::Failure, layout::Layout};
use rustix::fs::{Access, access};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Banger's own programs that the daemon runs or passes on.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) shim: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) root_helper: PathBuf,
}

impl Programs {
    /// Finds each beside this program, where they are installed together, or else in `PATH`. A missing program fails
    /// only when it is run: a daemon without it can still stop and delete VMs.
    pub(crate) fn find() -> Self {
        Self { shim: find("banger-shim"), agent: find("banger-vsock-agent"), root_helper: find("bangerd-root") }
    }
}

fn find(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name));
    let found = beside.iter().cloned().chain(in_path).find(|program| is_executable(program));
    found.or(beside).unwrap_or_else(|| name.into())
}

/// Whether this user may run the file. Any other file of that name must not hide the program.
fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// The services behind the API.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) images: Arc<ImageService>,
    pub(crate) vms: Arc<VmService>,
    pub(crate) network: HostNetwork,
    pub(crate) ssh: Arc<SshKeys>,
}

/// Builds every service and the list of capabilities. No lower layer keeps a reference to the result.
pub(crate) fn wire_services(
    layout: &Layout,
    config: &Config,
    store: &Store,
    programs: Programs,
) -> Result<Services, Failure> {
    let network = HostNetwork::new(
        config.network(),
        store.clone(),
        layout.state.clone(),
        layout.vms(),
        programs.root_helper.clone(),
    );
    let workspaces = Arc::new(WorkspaceService);
    let images = Arc::new(ImageService::open(
        layout,
        store.clone(),
        programs.agent,
        config.kernel_catalog.value.clone(),
        config.image_catalog.value.clone(),
        config.oci_limits(),
    )?);
    let ssh = Arc::new(SshKeys::new(layout.clone(), store.clone()));
    let disks = WorkDisks::open(layout.cache.join("disks")).map_err(Explain::explain)?;

    let layout_of = || layout.clone();
    let capabilities: Capabilities = Arc::new([
        Box::new(RootImageCapability { images: images.clone() }) as Box<dyn Capability>,
        Box::new(WorkDiskCapability { layout: layout_of(), disks, syncing: Syncing::default() }),
        Box::new(KernelFilesCapability { images: images.clone() }),
        Box::new(NatCapability { network: network.clone() }),
        Box::new(DnsCapability { network: network.clone() }),
        Box::new(PortsCapability { store: store.clone() }),
        Box::new(BootConfigCapability { layout: layout_of(), workspaces: workspaces.clone() }),
        Box::new(SshCapability { keys: ssh.clone() }),
        Box::new(FileSyncCapability {
            layout: layout_of(),
            home: std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
            files: config.file_sync.value.clone(),
        }),
    ]);
    let vms = VmService::new(Parts {
        layout: layout_of(),
        config: config.clone(),
        store: store.clone(),
        images: images.clone(),
        workspaces,
        network: network.clone(),
        probe: Probe {
            shim: programs.shim.clone(),
            qemu: config.qemu_bin.value.clone(),
            firecracker: config.firecracker_bin.value.clone(),
            cache: Some(layout.cache.clone()),
        },
        shims: Shims::new(programs.shim),
        capabilities,
        reported_software: false.into(),
    });
    Ok(Services { images, vms, network, ssh })
}
