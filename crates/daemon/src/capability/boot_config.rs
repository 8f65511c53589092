//! The guest's boot configuration: names, mounts, defaults of execs; appended to the initramfs.

use super::{Capability, Depth, Hook, Launch, VmFiles};
use crate::{
    failures::{self, because},
    operation::Operation,
    store::VmRow,
    workspace::WorkspaceService,
};
use banger_artifacts::initramfs::append_config;
use banger_proto::{
    agent::boot::{BootConfig, CONFIG_VERSION, Mount},
    failure::{Code, Failure},
    layout::Layout,
    name::VmId,
};
use std::sync::Arc;

/// Without this, systemd would start a login prompt on the serial console and wait for its device, which needs udev.
const NO_SERIAL_LOGIN: &str = "systemd.getty_auto=0";

pub(crate) struct BootConfigCapability {
    pub(crate) layout: Layout,
    pub(crate) workspaces: Arc<WorkspaceService>,
}

impl Capability for BootConfigCapability {
    fn name(&self) -> &'static str {
        "boot-config"
    }

    fn phase(&self) -> &'static str {
        "kernel-files"
    }

    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, _operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            let config = serde_json::to_vec(&self.render(vm, launch)?).expect("a configuration serializes");
            let base = launch.shared_initramfs.clone().ok_or_else(|| incomplete("an initramfs"))?;
            let path = VmFiles::initramfs(&self.layout, &vm.id);
            let out = path.clone();
            let appended = tokio::task::spawn_blocking(move || append_config(&base, &config, &out)).await;
            appended
                .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
                .map_err(|error| because(Code::Internal, "cannot write the VM's initramfs", &error))?;
            launch.initramfs = Some(path);
            launch.kernel_args.push(NO_SERIAL_LOGIN.to_owned());
            Ok(())
        })
    }

    /// The file contains the values of `--env`, and no other start uses it.
    fn release<'a>(&'a self, vm: &'a VmId, _depth: Depth) -> Hook<'a> {
        Box::pin(async {
            let path = VmFiles::initramfs(&self.layout, vm);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(failures::io("remove", &path, &error))
                }
                _ => Ok(()),
            }
        })
    }
}

impl BootConfigCapability {
    fn render(&self, vm: &VmRow, launch: &Launch) -> Result<BootConfig, Failure> {
        let names = launch.names.clone().ok_or_else(|| incomplete("the guest's names"))?;
        let root = Mount::Root {
            image: launch.image.clone().ok_or_else(|| incomplete("a root image"))?,
            work: launch.work.clone().ok_or_else(|| incomplete("a work disk"))?,
            binds: self.workspaces.own_directories(),
        };
        Ok(BootConfig {
            version: CONFIG_VERSION,
            hostname: names.hostname,
            init: vm.spec.init,
            mounts: std::iter::once(root).chain(launch.mounts.iter().cloned()).collect(),
            machine_id: vm.machine_id.clone(),
            resolv_conf: Some(names.resolv_conf),
            image: launch.image_defaults.clone(),
            env: vm.spec.env.clone(),
            workdir: vm.spec.workdir.clone(),
            user: vm.spec.user.clone(),
            network: launch.nic.as_ref().map(|nic| nic.guest.clone()),
        })
    }
}

/// Failure of a wrong order of capabilities, which is a bug.
fn incomplete(what: &str) -> Failure {
    Failure::new(Code::Internal, format!("no capability contributed {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{network::GuestNames, store::tests::sample};

    #[test]
    fn the_guest_is_told_all_it_needs() {
        let root = std::path::PathBuf::from("/r");
        let layout = Layout { config: root.clone(), state: root.clone(), cache: root.clone(), run: root };
        let capability = BootConfigCapability { layout, workspaces: Arc::default() };
        let vm = sample("demo");
        let mut launch = Launch {
            names: Some(GuestNames { hostname: "demo".into(), resolv_conf: "# none\n".into() }),
            image: Some("/dev/vda".into()),
            work: Some("/dev/vdb".into()),
            mounts: vec![Mount::Modules { device: "/dev/vdc".into(), release: "6.1.0".into() }],
            ..Launch::default()
        };
        let config = capability.render(&vm, &launch).unwrap();
        assert_eq!((config.hostname.as_str(), config.machine_id.len()), ("demo", 32));
        assert!(matches!(&config.mounts[0], Mount::Root { image, binds, .. }
            if image == "/dev/vda" && binds.contains(&"/root".to_owned())));
        assert_eq!(config.mounts.len(), 2);
        assert!(config.resolv_conf.unwrap().starts_with('#'));
        launch.work = None;
        assert_eq!(capability.render(&vm, &launch).unwrap_err().code, Code::Internal);
    }
}
