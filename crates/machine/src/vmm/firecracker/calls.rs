//! Renders a launch plan as Firecracker's API calls: a pure function, with the reason for every value.

use super::{
    api::{
        Action, BootSource, CacheType, Call, Drive, EntropyDevice, InstanceActionInfo, IoEngine, MachineConfiguration,
        NetworkInterface, Vsock,
    },
    sockets,
};
use crate::vmm::{
    PlanError,
    confine::View,
    plan::{Disk, LaunchPlan},
    qemu::argv::{MAX_COMMAND_LINE, is_word},
};
use banger_proto::api::vm::{Accelerator, Vmm};
use std::path::Path;

/// The guest's vsock address (CID). The host's is 2, and the device has no other guest.
const GUEST_CID: u32 = 3;
/// Upper bound for what Firecracker itself adds to a command line: one word per device.
const ADDED_WORDS: usize = 512;
/// Limited by the interrupt lines for devices; vsock, entropy and NIC take three of them.
const MAX_DISKS: usize = 6;

/// Checks that these calls could start a machine.
pub fn check(plan: &LaunchPlan) -> Result<(), PlanError> {
    if plan.vmm != Vmm::Firecracker {
        return Err(PlanError::OtherVmm(plan.vmm));
    }
    if plan.accelerator != Accelerator::Kvm {
        return Err(PlanError::NeedsKvm);
    }
    if !plan.kernel.acpi && !plan.kernel.mmio_cmdline {
        return Err(PlanError::NoDeviceDiscovery);
    }
    if !plan.kernel.vsock {
        return Err(PlanError::NoVsock);
    }
    if plan.memory.bytes() == 0 || !plan.memory.bytes().is_multiple_of(1 << 20) {
        return Err(PlanError::OddMemory(plan.memory.bytes()));
    }
    if plan.disks.len() > MAX_DISKS {
        return Err(PlanError::TooManyDisks { count: plan.disks.len(), limit: MAX_DISKS });
    }
    if let Some(word) = plan.kernel_args.iter().find(|word| !is_word(word)) {
        return Err(PlanError::KernelWord(word.clone()));
    }
    match (command_line(plan).len(), MAX_COMMAND_LINE - ADDED_WORDS) {
        (length, limit) if length > limit => Err(PlanError::CommandLineTooLong { length, limit }),
        _ => Ok(()),
    }
}

/// The calls up to the guest's start, in order. `view` has the names by which Firecracker finds files; `sockets` is its
/// name of the directory for sockets.
pub fn configuration(plan: &LaunchPlan, view: &View, sockets: &Path) -> Vec<Call> {
    let mut calls = vec![
        Call::Machine(MachineConfiguration { vcpu_count: plan.vcpu, mem_size_mib: plan.memory.as_mib(), smt: false }),
        Call::Boot(BootSource {
            kernel_image_path: view.path(&plan.kernel.path),
            initrd_path: view.path(&plan.initramfs),
            boot_args: command_line(plan),
        }),
    ];
    calls.extend(plan.disks.iter().enumerate().map(|(index, disk)| Call::Drive(drive(index, disk, view))));
    if let Some(network) = &plan.network {
        calls.push(Call::Network(NetworkInterface {
            iface_id: "eth0".into(),
            host_dev_name: network.tap.clone(),
            guest_mac: network.mac.to_string(),
        }));
    }
    calls.push(Call::Vsock(Vsock { guest_cid: GUEST_CID, uds_path: sockets.join(sockets::VSOCK) }));
    calls.push(Call::Entropy(EntropyDevice {}));
    calls.push(Call::Act(InstanceActionInfo { action_type: Action::InstanceStart }));
    calls
}

fn drive(index: usize, disk: &Disk, view: &View) -> Drive {
    Drive {
        drive_id: format!("disk{index}"),
        is_root_device: false,
        is_read_only: disk.read_only,
        path_on_host: view.path(&disk.path),
        // Data that the guest believes to be on the disk must be on the disk.
        cache_type: if disk.read_only { CacheType::Unsafe } else { CacheType::Writeback },
        // The alternative is io_uring, which the seccomp filter refuses.
        io_engine: IoEngine::Sync,
    }
}

/// The kernel's command line. The plan's own arguments come last, so they override.
pub fn command_line(plan: &LaunchPlan) -> String {
    let words = [
        // The log that the host keeps. `quiet`, since every byte on the emulated port costs a VM exit; warnings still
        // appear.
        "console=ttyS0",
        "quiet",
        // There is no PCI; looking for it costs time.
        "pci=off",
        "cryptomgr.notests",
        // The keyboard controller exists for its reset line, which ends Firecracker; probing it for keyboards costs
        // time.
        "reboot=k",
        "i8042.noaux",
        "i8042.nomux",
        "i8042.dumbkbd",
        // A panic resets at once, which ends Firecracker; the console has the reason.
        "panic=-1",
    ];
    let own = plan.kernel_args.iter().map(String::as_str);
    words.into_iter().chain(own).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::plan::KernelFile;
    use banger_proto::size::ByteSize;

    fn plan() -> LaunchPlan {
        let plan = crate::vmm::qemu::argv::tests::plan();
        LaunchPlan {
            vmm: Vmm::Firecracker,
            accelerator: Accelerator::Kvm,
            program: "/usr/bin/firecracker".into(),
            ..plan
        }
    }

    #[test]
    fn a_machine() {
        let calls = configuration(&plan(), &View::default(), "/run".as_ref());
        let lines = calls.iter().map(|call| {
            let (method, path) = call.target();
            format!("{method} {path} {}", call.body())
        });
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn what_could_not_start_is_refused() {
        let refused = |plan: LaunchPlan| check(&plan).unwrap_err();
        assert_eq!(check(&plan()), Ok(()));
        assert_eq!(refused(LaunchPlan { vmm: Vmm::Qemu, ..plan() }), PlanError::OtherVmm(Vmm::Qemu));
        assert_eq!(refused(LaunchPlan { accelerator: Accelerator::Tcg, ..plan() }), PlanError::NeedsKvm);
        let blind = KernelFile { acpi: false, ..plan().kernel };
        assert_eq!(refused(LaunchPlan { kernel: blind, ..plan() }), PlanError::NoDeviceDiscovery);
        let mute = KernelFile { vsock: false, ..plan().kernel };
        assert_eq!(refused(LaunchPlan { kernel: mute, ..plan() }), PlanError::NoVsock);
        assert_eq!(refused(LaunchPlan { memory: ByteSize(1 << 19), ..plan() }), PlanError::OddMemory(1 << 19));
        let disks = vec![plan().disks[0].clone(); MAX_DISKS + 1];
        assert!(matches!(refused(LaunchPlan { disks, ..plan() }), PlanError::TooManyDisks { .. }));
        let kernel_args = vec!["a b".to_owned()];
        assert_eq!(refused(LaunchPlan { kernel_args, ..plan() }), PlanError::KernelWord("a b".into()));
        let kernel_args = vec!["x".repeat(MAX_COMMAND_LINE - ADDED_WORDS)];
        assert!(matches!(refused(LaunchPlan { kernel_args, ..plan() }), PlanError::CommandLineTooLong { .. }));
    }
}
