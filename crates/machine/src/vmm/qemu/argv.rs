//! Renders a launch plan as QEMU's command line: a pure function, with the reason for every option.

use crate::vmm::{
    PlanError, Start,
    confine::View,
    plan::{Disk, LaunchPlan},
};
use banger_proto::{
    agent::link::PORT_NAME,
    api::vm::{Accelerator, Vmm},
};
use std::{
    ffi::OsString,
    os::{
        fd::RawFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

/// Longest command line that the kernel reads (`COMMAND_LINE_SIZE`, x86), without the NUL.
pub(in crate::vmm) const MAX_COMMAND_LINE: usize = 2047;
/// Number of disks that are certain to find a slot: the machine has 8 for virtio devices without its second interrupt
/// controller; the guest channel and the NIC take one each.
const MAX_DISKS: usize = 6;
/// Memory for translated code, in MiB. QEMU's own limit is 1 GiB, all of which a long-lived guest fills; a full Debian
/// boot takes less than this, and code that does not fit is translated again.
const TRANSLATED_CODE_MIB: u32 = 256;

/// The descriptors QEMU inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// A stream socket: the QMP monitor.
    pub monitor: RawFd,
    /// A pipe: the output of the serial console.
    pub console: RawFd,
    /// A stream socket: the guest channel.
    pub channel: RawFd,
    /// The file with guest memory.
    pub memory: RawFd,
    /// The tap of the NIC.
    pub network: Option<RawFd>,
}

/// Checks that these arguments could start a machine.
pub fn check(plan: &LaunchPlan) -> Result<(), PlanError> {
    if plan.vmm != Vmm::Qemu {
        return Err(PlanError::OtherVmm(plan.vmm));
    }
    if !plan.kernel.pvh {
        return Err(PlanError::NoPvhEntry);
    }
    if !plan.kernel.acpi && !plan.kernel.mmio_cmdline {
        return Err(PlanError::NoDeviceDiscovery);
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
    match command_line(plan).len() {
        length if length > MAX_COMMAND_LINE => Err(PlanError::CommandLineTooLong { length, limit: MAX_COMMAND_LINE }),
        _ => Ok(()),
    }
}

/// Whether `word` is a single argument of a command line that is split at spaces and unquoted with double quotes.
pub(in crate::vmm) fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
}

/// QEMU's arguments, without the program name. `view` has the names by which QEMU finds files.
pub fn render(plan: &LaunchPlan, fds: &Descriptors, view: &View, start: Start, shared_memory: bool) -> Vec<OsString> {
    let mut args = Args::default();
    let mib = plan.memory.as_mib();
    let on = |yes: bool| if yes { "on" } else { "off" };

    args.pair("-name", format!("banger-{}", plan.name));
    // No defaults: no floppy, no NIC, no monitor, no configuration file of the host.
    args.flag("-nodefaults").flag("-no-user-config").pair("-display", "none");
    // A reset ends QEMU. The shim decides what it meant, and a reboot gets a fresh QEMU.
    args.flag("-no-reboot");
    // No new programs, no change of user, no raised priority, no obsolete system calls.
    args.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");

    // ACPI tells kernels without VIRTIO_MMIO_CMDLINE_DEVICES (Debian's) where the devices are.
    let acpi = on(plan.kernel.acpi);
    args.pair("-machine", format!("microvm,acpi={acpi},memory-backend=memory,dump-guest-core=off"));
    match plan.accelerator {
        Accelerator::Kvm => args.pair("-accel", "kvm").pair("-cpu", "host"),
        Accelerator::Tcg => {
            // One thread per vCPU. `max` is every feature of the emulation, except the promise that `rep movsb` is
            // fast: the kernel and libc would copy and clear with it, and emulated it goes byte by byte, up to fifty
            // times slower than the alternatives.
            let cpu = "max,erms=off,fsrm=off";
            args.pair("-accel", format!("tcg,thread=multi,tb-size={TRANSLATED_CODE_MIB}")).pair("-cpu", cpu)
        }
    };
    args.pair("-smp", plan.vcpu.to_string()).pair("-m", format!("{mib}M"));
    // A file the shim holds: guest memory can be kept, and mapped again by a restored machine.
    let memory = format!(
        "memory-backend-file,id=memory,size={mib}M,mem-path={},share={}",
        view.descriptor(fds.memory).display(),
        on(shared_memory)
    );
    args.pair("-object", memory);

    args.pair("-chardev", format!("socket,id=monitor,fd={}", fds.monitor));
    args.pair("-mon", "chardev=monitor,mode=control");
    // Output only. A file that is already a descriptor is named by its fd set; without `append` QEMU would truncate it,
    // which fails for a pipe.
    args.pair("-add-fd", format!("fd={},set=0", fds.console));
    args.pair("-chardev", "file,id=console,path=/dev/fdset/0,append=on").pair("-serial", "chardev:console");

    for (index, disk) in plan.disks.iter().enumerate() {
        args.disk(index, disk, view);
    }
    if let (Some(network), Some(tap)) = (&plan.network, fds.network) {
        // The tap is already open. `vhost` would let the host's kernel process packets, and requires a device on which
        // the guest then depends.
        args.pair("-netdev", format!("tap,id=network,fd={tap},vhost=off"));
        args.pair("-device", format!("virtio-net-device,netdev=network,mac={}", network.mac));
    }
    // Port 0 is reserved for a console, so the channel is port 1 of two; each further port costs the guest two queues.
    args.pair("-device", "virtio-serial-device,max_ports=2");
    args.pair("-chardev", format!("socket,id=channel,fd={}", fds.channel));
    args.pair("-device", format!("virtserialport,chardev=channel,name={PORT_NAME}"));

    args.pair("-kernel", view.path(&plan.kernel.path)).pair("-initrd", view.path(&plan.initramfs));
    args.pair("-append", command_line(plan));
    if start == Start::Restored {
        args.pair("-incoming", "defer").flag("-S");
    }
    args.0
}

/// The kernel's command line. The plan's own arguments come last, so they override.
pub fn command_line(plan: &LaunchPlan) -> String {
    let mut words = vec![
        // The log that the host keeps. `quiet`, since every byte on the emulated port costs a VM exit; warnings still
        // appear.
        "console=ttyS0".to_owned(),
        "quiet".to_owned(),
        // There is no PCI, so the kernel need not try the ways of accessing it. It still prints a "Fatal" message about
        // the absence, which is harmless.
        "pci=off".to_owned(),
        // Skips the self-tests of the ciphers: half a second of a boot in software emulation.
        "cryptomgr.notests".to_owned(),
        // A triple fault ends QEMU at once; the other ways to reset do not exist on this machine.
        "reboot=t".to_owned(),
        // A panic resets at once, which ends QEMU; the console has the reason.
        "panic=-1".to_owned(),
    ];
    if let (Accelerator::Tcg, Some(khz)) = (plan.accelerator, plan.tsc_khz) {
        // Without these a kernel measures the counter against an emulated timer, gets a wrong result when the host is
        // busy, and hangs.
        words.push(format!("tsc_early_khz={khz}"));
        words.push("tsc=reliable".to_owned());
    }
    if let (Accelerator::Tcg, Some(khz), Some(hz)) = (plan.accelerator, plan.tsc_khz, plan.kernel.hz) {
        // The delay loop of the first CPU is derived from the counter's frequency. Each further CPU would measure its
        // own, which takes two seconds in software; this is the same number.
        words.push(format!("lpj={}", u64::from(khz) * 1000 / u64::from(hz)));
    }
    if plan.accelerator == Accelerator::Tcg {
        // A kernel on one CPU would patch its atomic instructions to be cheaper. In emulation that costs a twelfth of
        // the boot and makes nothing cheaper.
        words.push("noreplace-smp".to_owned());
    }
    words.extend(plan.kernel_args.iter().cloned());
    words.join(" ")
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.push(option.into());
        self.0.push(value.into());
        self
    }

    fn disk(&mut self, index: usize, disk: &Disk, view: &View) -> &mut Self {
        // Many machines read one image, and readers need no lock; a writable disk has a single writer.
        let (read_only, locking) = if disk.read_only { ("on", "off") } else { ("off", "auto") };
        let mut node = OsString::from(format!(
            "driver=raw,node-name=disk{index},read-only={read_only},discard=unmap,file.driver=file,\
             file.locking={locking},file.filename="
        ));
        node.push(escape(&view.path(&disk.path)));
        self.pair("-blockdev", node).pair("-device", format!("virtio-blk-device,drive=disk{index}"))
    }
}

/// Doubles commas: a single one ends a value in QEMU's options.
fn escape(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes();
    OsString::from_vec(bytes.iter().flat_map(|byte| [*byte].repeat(1 + usize::from(*byte == b','))).collect())
}

#[cfg(test)]
pub(in crate::vmm) mod tests {
    use super::*;
    use crate::vmm::plan::{Console, KernelFile};
    use banger_proto::size::ByteSize;

    pub(in crate::vmm) fn plan() -> LaunchPlan {
        LaunchPlan {
            id: "0123456789ab".parse().unwrap(),
            name: "demo".parse().unwrap(),
            vmm: Vmm::Qemu,
            accelerator: Accelerator::Tcg,
            program: "/usr/bin/qemu-system-x86_64".into(),
            vcpu: 2,
            memory: ByteSize::mib(512),
            kernel: KernelFile {
                path: "/k/vmlinux".into(),
                pvh: true,
                acpi: true,
                mmio_cmdline: false,
                hz: Some(250),
                vsock: true,
            },
            initramfs: "/s/initramfs".into(),
            kernel_args: vec!["extra=1".into()],
            tsc_khz: Some(2_445_432),
            disks: vec![
                Disk { path: "/i/root.ext4".into(), read_only: true },
                Disk { path: "/s/a,b/work.ext4".into(), read_only: false },
            ],
            console: Console { path: "/s/console.log".into(), cap: ByteSize::mib(8) },
            state_dir: "/s".into(),
            run_dir: "/r".into(),
            network: None,
            ports: Vec::new(),
        }
    }

    const FDS: Descriptors = Descriptors { monitor: 10, console: 11, channel: 12, memory: 13, network: Some(14) };

    fn lines(plan: &LaunchPlan, start: Start, shared: bool) -> String {
        let args = render(plan, &FDS, &View::default(), start, shared);
        let args = args.iter().map(|arg| arg.to_str().unwrap());
        args.fold(String::new(), |text, arg| text + if arg.starts_with('-') { "\n" } else { " " } + arg)
    }

    #[test]
    fn a_machine_in_software() {
        insta::assert_snapshot!(lines(&plan(), Start::Kernel, true));
    }

    #[test]
    fn a_machine_with_kvm_and_a_kernel_without_acpi() {
        let kernel = KernelFile { acpi: false, mmio_cmdline: true, ..plan().kernel };
        let plan = LaunchPlan { accelerator: Accelerator::Kvm, kernel, disks: Vec::new(), ..plan() };
        insta::assert_snapshot!(lines(&plan, Start::Kernel, true));
    }

    #[test]
    fn a_network_card_is_a_tap_that_is_open_already() {
        let holder = crate::process::ProcessIdentity { pid: 1, start_time: 1 };
        let nic = crate::vmm::plan::Network {
            tap: "bt0123456789ab".into(),
            mac: "02:62:0a:d5:00:02".parse().unwrap(),
            holder,
        };
        let plain = lines(&plan(), Start::Kernel, true);
        let with_nic = lines(&LaunchPlan { network: Some(nic), ..plan() }, Start::Kernel, true);
        let added: Vec<&str> = with_nic.lines().filter(|line| !plain.lines().any(|old| old == *line)).collect();
        insta::assert_snapshot!(added.join("\n"), @r"
        -netdev tap,id=network,fd=14,vhost=off
        -device virtio-net-device,netdev=network,mac=02:62:0a:d5:00:02
        ");
    }

    #[test]
    fn a_restored_machine_differs_in_its_memory_and_its_start_only() {
        let kernel = lines(&plan(), Start::Kernel, true);
        let restored = lines(&plan(), Start::Restored, false);
        let changed: Vec<&str> = restored.lines().filter(|line| !kernel.lines().any(|old| old == *line)).collect();
        insta::assert_snapshot!(changed.join("\n"));
    }

    #[test]
    fn what_could_not_start_is_refused() {
        let kernel = plan().kernel;
        let refused = |plan: LaunchPlan| check(&plan).unwrap_err();
        assert_eq!(check(&plan()), Ok(()));
        assert_eq!(refused(LaunchPlan { vmm: Vmm::Firecracker, ..plan() }), PlanError::OtherVmm(Vmm::Firecracker));
        let no_pvh = KernelFile { pvh: false, ..kernel.clone() };
        assert_eq!(refused(LaunchPlan { kernel: no_pvh, ..plan() }), PlanError::NoPvhEntry);
        let blind = KernelFile { acpi: false, ..kernel };
        assert_eq!(refused(LaunchPlan { kernel: blind, ..plan() }), PlanError::NoDeviceDiscovery);
        assert_eq!(refused(LaunchPlan { memory: ByteSize(1 << 19), ..plan() }), PlanError::OddMemory(1 << 19));
        let disks = vec![plan().disks[0].clone(); MAX_DISKS + 1];
        assert!(matches!(refused(LaunchPlan { disks, ..plan() }), PlanError::TooManyDisks { .. }));
        for word in ["", "a b", "a\nb", "a\"b", "ä"] {
            let kernel_args = vec![word.to_owned()];
            assert_eq!(refused(LaunchPlan { kernel_args, ..plan() }), PlanError::KernelWord(word.into()));
        }
        let kernel_args = vec!["x".repeat(MAX_COMMAND_LINE)];
        assert!(matches!(refused(LaunchPlan { kernel_args, ..plan() }), PlanError::CommandLineTooLong { .. }));
    }
}
