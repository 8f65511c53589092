//! Tests whether KVM runs guest code on this host, by running some.
//!
//! `/dev/kvm` may open, report version 12 and create vCPUs, and still only emulate kernel-mode code, one instruction at
//! a time, until it meets one it does not know. So the probe creates a VM in long mode (real mode is emulated on old
//! processors that are fine otherwise) and runs `popcnt eax, ebx; hlt` in it.
//!
//! The probe is the hidden subcommand `banger-shim kvm-probe`: a process of its own with an alarm, because a broken KVM
//! may also never return.

#![expect(unsafe_code, reason = "guest memory is mapped and given to the kernel by address")]

use kvm_bindings::{kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use serde::{Deserialize, Serialize};
use std::{ffi::c_void, path::Path, process::Stdio, ptr, time::Duration};
use tokio::process::Command;

/// Subcommand of `banger-shim` that runs [`probe_here`] and prints its finding as one line of JSON.
pub const SUBCOMMAND: &str = "kvm-probe";
/// The alarm ends the probe's process after this time. Where KVM works it takes some milliseconds.
const ALARM_SECONDS: u32 = 1;
/// The probe is abandoned after this time, alarm or not.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Result of the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kvm", rename_all = "snake_case")]
pub enum KvmFinding {
    /// Guest code ran.
    Usable,
    /// There is no `/dev/kvm`.
    Absent,
    /// `/dev/kvm` is there and this user may not open it.
    Denied,
    /// The device opens and does not run guest code. The probe saw what happens instead, so this stays true.
    Broken {
        /// What happened instead.
        reason: String,
    },
    /// The probe could not be carried out: the host lacks some resource, or another hypervisor has the processor. This
    /// may be over a moment later.
    Untried {
        /// What prevented it.
        reason: String,
    },
}

impl std::fmt::Display for KvmFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usable => f.write_str("KVM works"),
            Self::Absent => f.write_str("there is no /dev/kvm"),
            Self::Denied => f.write_str("this user may not open /dev/kvm"),
            Self::Broken { reason } => write!(f, "KVM does not run guest code here ({reason})"),
            Self::Untried { reason } => write!(f, "KVM could not be tried ({reason})"),
        }
    }
}

/// Runs the probe in a process of its own. `shim` is the `banger-shim` executable.
pub async fn probe(shim: &Path) -> KvmFinding {
    let mut command = Command::new(shim);
    command.arg(SUBCOMMAND).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let untried = |reason: String| KvmFinding::Untried { reason };
    match tokio::time::timeout(TIMEOUT, command.output()).await {
        Err(_) => untried("the probe does not return".into()),
        Ok(Err(error)) => untried(format!("the probe cannot be run: {error}")),
        Ok(Ok(output)) => serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| untried(format!("the probe ended with {}", output.status))),
    }
}

/// Runs the probe in this process. Sets an alarm that ends the process, so it must be one started for this.
pub fn probe_here() -> KvmFinding {
    // SAFETY: alarm(2) takes a number and has no memory effects.
    unsafe { libc::alarm(ALARM_SECONDS) };
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) if error.errno() == libc::ENOENT => return KvmFinding::Absent,
        Err(error) if matches!(error.errno(), libc::EACCES | libc::EPERM) => return KvmFinding::Denied,
        Err(error) => return KvmFinding::Untried { reason: format!("opening /dev/kvm: {error}") },
    };
    run_popcnt(&kvm).unwrap_or_else(|reason| KvmFinding::Untried { reason })
}

/// `popcnt eax, ebx; hlt`.
const CODE: [u8; 5] = [0xf3, 0x0f, 0xb8, 0xc3, 0xf4];
/// Value of EBX, and the number of bits set in it.
const OPERAND: (u64, u64) = (0xff, 8);

/// Size of guest memory, from physical address 0: three page tables that map its first 2 MiB one to one, and the code.
const MEMORY: usize = 64 << 10;
const PML4: usize = 0x1000;
const PDPT: usize = 0x2000;
const DIRECTORY: usize = 0x3000;
const ENTRY: usize = 0x8000;

const PRESENT_WRITABLE: u64 = 0b11;
const HUGE_PAGE: u64 = 1 << 7;
const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;

/// Runs the code and judges the result; an error when it could not be run.
#[cfg(target_arch = "x86_64")]
fn run_popcnt(kvm: &Kvm) -> Result<KvmFinding, String> {
    let failed = |what: &'static str| move |error| format!("{what}: {error}");
    let vm = kvm.create_vm().map_err(failed("making a machine"))?;
    let _memory = Memory::map_into(&vm)?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("making a processor"))?;
    enter_long_mode(&vcpu).map_err(failed("setting the processor's state"))?;
    let broken = |reason: String| Ok(KvmFinding::Broken { reason });
    match vcpu.run().map_err(failed("running"))? {
        VcpuExit::Hlt => {}
        VcpuExit::InternalError => return broken("KVM_EXIT_INTERNAL_ERROR: kernel-mode code is only emulated".into()),
        exit => return broken(format!("unexpected exit {exit:?}")),
    }
    match vcpu.get_regs().map_err(failed("reading registers"))?.rax {
        bits if bits == OPERAND.1 => Ok(KvmFinding::Usable),
        bits => broken(format!("popcnt of {:#x} gave {bits}", OPERAND.0)),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn run_popcnt(_: &Kvm) -> Result<KvmFinding, String> {
    Ok(KvmFinding::Broken { reason: "no probe for this architecture".into() })
}

#[cfg(target_arch = "x86_64")]
fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let flat = kvm_segment { limit: u32::MAX, g: 1, present: 1, s: 1, ..kvm_segment::default() };
    let data = kvm_segment { selector: 0x10, type_: 0b0011, db: 1, ..flat };
    sregs.cs = kvm_segment { selector: 0x8, type_: 0b1011, l: 1, ..flat };
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.cr3 = PML4 as u64;
    sregs.cr4 = CR4_PAE;
    sregs.cr0 = CR0_PE | CR0_PG;
    sregs.efer = EFER_LME_LMA;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = ENTRY as u64;
    regs.rbx = OPERAND.0;
    regs.rflags = 0b10;
    vcpu.set_regs(&regs)
}

/// The VM's memory. Unmapped when the probe's process ends, which is right after.
struct Memory;

impl Memory {
    fn map_into(vm: &VmFd) -> Result<Self, String> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), MEMORY, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }
                .map_err(|error| format!("mapping memory: {error}"))?;
        Self::fill(start);
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: start as u64,
        };
        // SAFETY: the region is the mapping above, which nothing unmaps while the machine exists.
        unsafe { vm.set_user_memory_region(region) }.map_err(|error| format!("giving it memory: {error}"))?;
        Ok(Self)
    }

    fn fill(start: *mut c_void) {
        // SAFETY: the mapping is MEMORY zeroed bytes, exclusively ours, and lives as long as the process.
        let memory = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), MEMORY) };
        let entries = [
            (PML4, PDPT as u64 | PRESENT_WRITABLE),
            (PDPT, DIRECTORY as u64 | PRESENT_WRITABLE),
            (DIRECTORY, PRESENT_WRITABLE | HUGE_PAGE),
        ];
        for (table, entry) in entries {
            memory[table..table + 8].copy_from_slice(&entry.to_le_bytes());
        }
        memory[ENTRY..ENTRY + CODE.len()].copy_from_slice(&CODE);
    }
}
