//! Checks that processes, sockets, files, rows and mounts of a test's environment match the states of its VMs.

use crate::{TestEnv, process::marked_processes, wait_until};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Time for the environment to settle: a shim that sent its last message still has to end.
const SETTLING: Duration = Duration::from_secs(60);

/// A VM as listed by `vm list`.
struct Listed {
    id: String,
    state: String,
    shim: Option<u64>,
    vmm: Option<u64>,
    /// Host addresses of its ports.
    published: Vec<String>,
    /// Whether it has an address.
    has_address: bool,
    network: Option<String>,
}

impl Listed {
    fn of(vm: &Value) -> Self {
        let text = |key: &str| vm[key].as_str().unwrap_or_default().to_owned();
        Self {
            id: text("id"),
            state: text("state"),
            shim: vm["shim_pid"].as_u64(),
            vmm: vm["vmm_pid"].as_u64(),
            published: texts(&vm["published"]),
            has_address: vm["ip"].is_string(),
            network: vm["network"].as_str().map(str::to_owned),
        }
    }

    fn is_live(&self) -> bool {
        self.state == "running"
    }
}

impl TestEnv {
    /// Waits until no VM is changing state and everything matches the states; `vmm` is the program VMs run in.
    ///
    /// A live VM has a shim, a VMM, two sockets, a plan and a runtime record, and nothing else has any of them. Every
    /// VM has a disk, and no file that its state does not have. Rows, resources, leases, published ports and addresses
    /// agree. Nothing else has a tap. No mount of this environment is left on the host; the namespaces of its processes
    /// hold no mount of a VM that does not run; and no process holds guest memory of a VM that is not live.
    #[track_caller]
    pub fn assert_consistent(&self, vmm: &str) {
        wait_until(SETTLING, "everything to be what the VMs' states say", || self.inconsistency(vmm));
    }

    fn inconsistency(&self, vmm: &str) -> Result<(), String> {
        let listed = self.banger(["vm", "list", "--json"]).run().expect(0).json();
        let vms: Vec<Listed> = listed.as_array().expect("a list").iter().map(Listed::of).collect();
        if let Some(vm) = vms.iter().find(|vm| matches!(vm.state.as_str(), "starting" | "stopping")) {
            return Err(format!("VM {} is {}", vm.id, vm.state));
        }
        let live: Vec<&Listed> = vms.iter().filter(|vm| vm.is_live()).collect();
        let pids = |of: fn(&Listed) -> Option<u64>| live.iter().filter_map(|vm| of(vm)).collect::<BTreeSet<u64>>();
        self.same("shims", &self.pids_of("banger-shim", ""), &pids(|vm| vm.shim))?;
        self.same("VMMs", &self.pids_of(vmm, "--guest"), &pids(|vm| vm.vmm))?;
        if let Some(vm) = vms.iter().find(|vm| !vm.is_live() && (vm.shim.is_some() || vm.vmm.is_some())) {
            return Err(format!("VM {} is {} and has processes", vm.id, vm.state));
        }
        let ids = |vms: &mut dyn Iterator<Item = &Listed>| vms.map(|vm| vm.id.clone()).collect::<BTreeSet<String>>();
        let (all, live_ids) = (ids(&mut vms.iter()), ids(&mut live.iter().copied()));
        self.same("directories", &names(&self.layout().vms()), &all)?;
        self.same("directories of sockets", &names(&self.layout().run.join("v")), &live_ids)?;
        for id in &all {
            self.check_files(id, live_ids.contains(id))?;
        }
        self.check_rows(&vms)?;
        self.check_taps(&live_ids)?;
        self.check_processes(&live_ids)?;
        self.check_roots(&live)?;
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        match mounts.lines().find(|line| line.contains(&*self.home().to_string_lossy())) {
            Some(line) => Err(format!("a mount: {line}")),
            None => Ok(()),
        }
    }

    /// Checks that a VM has the files its state requires, and no file its state does not allow.
    fn check_files(&self, id: &str, live: bool) -> Result<(), String> {
        let files = names(&self.layout().vms().join(id));
        let always = ["work.ext4"];
        let while_live = ["runtime.json", "launch.json"];
        let keys = ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"];
        let perhaps = ["console.log", "console.log.1", "shim.log"].into_iter().chain(keys);
        let perhaps_now = if live { ["initramfs.cpio"] } else { ["exit.json"] };
        let wanted = || always.into_iter().chain(while_live.into_iter().filter(|_| live));
        let missing: Vec<_> = wanted().filter(|name| !files.contains(*name)).collect();
        let allowed: BTreeSet<_> = wanted().chain(perhaps).chain(perhaps_now).collect();
        let stray: Vec<_> = files.iter().filter(|name| !allowed.contains(name.as_str())).collect();
        if !missing.is_empty() || !stray.is_empty() {
            return Err(format!("files of VM {id} (live: {live}): {missing:?} missing, {stray:?} stray"));
        }
        let sockets = names(&self.layout().run.join("v").join(id));
        // Firecracker's sockets are in a directory of their own.
        let of_banger: Vec<&String> = sockets.iter().filter(|name| *name != "vmm").collect();
        if live && of_banger != ["agent.sock", "control.sock", "vsock.sock"] {
            return Err(format!("sockets of VM {id}: {sockets:?}"));
        }
        Ok(())
    }

    /// Checks that only running VMs have a tap in the network's namespace. How long the namespace lives is not checked.
    fn check_taps(&self, live: &BTreeSet<String>) -> Result<(), String> {
        let holds = |process: &crate::Identity| process.command.split(' ').any(|word| word == "hold");
        let Some(holder) = self.processes("bangerd-root").into_iter().find(holds) else { return Ok(()) };
        let devices = std::fs::read_to_string(format!("/proc/{}/net/dev", holder.pid)).unwrap_or_default();
        let names = devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
        let taps: BTreeSet<&str> = names.filter_map(|name| name.strip_prefix("bt")).collect();
        match taps.iter().find(|id| !live.contains(**id)) {
            Some(id) => Err(format!("VM {id} does not run and has a tap")),
            None => Ok(()),
        }
    }

    /// Checks mounts and guest memory held by processes: a VMM's mounts are in a namespace of its own, and guest memory
    /// has no name, so both last as long as somebody holds them.
    fn check_processes(&self, live: &BTreeSet<String>) -> Result<(), String> {
        let mut memory = BTreeSet::new();
        for process in marked_processes(self.home()) {
            // A process may end while it is inspected.
            if let Some(line) =
                mounts_of(process.pid.into()).lines().find(|line| vms_in(line).any(|id| !live.contains(id)))
            {
                return Err(format!("{process:?} has a mount of a VM that does not run: {line}"));
            }
            memory.extend(guest_memory(process.pid));
        }
        if memory.len() <= live.len() {
            return Ok(());
        }
        Err(format!("guest memory of {} VMs, and {} run", memory.len(), live.len()))
    }

    /// Checks that running VMMs have their VM's files mounted, which proves that the search for foreign mounts can see
    /// any; fakes run unconfined and have none.
    fn check_roots(&self, live: &[&Listed]) -> Result<(), String> {
        for vm in live.iter().filter(|_| !self.is_unconfined()) {
            let mounts = mounts_of(vm.vmm.unwrap_or_default());
            if !mounts.lines().any(|line| vms_in(line).any(|id| id == vm.id)) {
                return Err(format!("the VMM of VM {} has none of its files mounted: {mounts}", vm.id));
            }
        }
        Ok(())
    }

    fn check_rows(&self, vms: &[Listed]) -> Result<(), String> {
        let failed = |error: rusqlite::Error| format!("state.db: {error}");
        let database = Connection::open_with_flags(self.layout().database(), OpenFlags::SQLITE_OPEN_READ_ONLY);
        let database = database.map_err(failed)?;
        let rows = |query: &str| -> Result<BTreeSet<(String, String)>, String> {
            let mut query = database.prepare(query).map_err(failed)?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
            rows.collect::<Result<_, _>>().map_err(failed)
        };
        let states = vms.iter().map(|vm| (vm.id.clone(), vm.state.clone())).collect();
        self.same("rows", &rows("SELECT id, state FROM vms")?, &states)?;
        let held = rows("SELECT vm_id, kind FROM resources WHERE kind IN ('state_dir', 'run_dir', 'shim')")?;
        let wanted = vms
            .iter()
            .flat_map(|vm| {
                let kinds: &[&str] = if vm.is_live() { &["state_dir", "run_dir", "shim"] } else { &["state_dir"] };
                kinds.iter().map(|kind| (vm.id.clone(), (*kind).to_owned()))
            })
            .collect();
        self.same("resources", &held, &wanted)?;

        let leases = rows("SELECT vm_id, CAST(pid AS TEXT) FROM leases")?;
        check_leases(&leases, &vms.iter().filter(|vm| vm.is_live()).map(|vm| vm.id.clone()).collect())?;

        // A named port belongs to its VM while that runs; the port chosen for port 0 is not claimed.
        let mut published = BTreeSet::new();
        for (id, spec) in rows("SELECT id, spec FROM vms")? {
            let Some(vm) = vms.iter().find(|vm| vm.id == id && vm.is_live()) else { continue };
            let asked = asked_ports(&spec);
            let named = asked.iter().filter_map(|publish| Some((publish, publish.rsplit_once(':')?.0)));
            let named: Vec<_> = named.filter(|(_, place)| !place.ends_with(":0")).collect();
            if vm.published.len() != asked.len() || !named.iter().all(|(publish, _)| vm.published.contains(publish)) {
                return Err(format!("VM {id} is to publish {asked:?}, and publishes {:?}", vm.published));
            }
            published.extend(named.into_iter().map(|(_, place)| (id.clone(), place.to_owned())));
        }
        self.same("published ports", &rows("SELECT vm_id, value FROM resources WHERE kind = 'port'")?, &published)?;

        // A VM that runs without a NIC may have an address and a network for its next start.
        let cardless: Vec<&Listed> = vms.iter().filter(|vm| vm.is_live() && !vm.has_address).collect();
        let has_address = vms.iter().filter(|vm| vm.has_address).map(|vm| (vm.id.clone(), String::new())).collect();
        let mut addresses = rows("SELECT vm_id, '' FROM addresses")?;
        addresses.retain(|(id, _)| !cardless.iter().any(|vm| vm.id == *id));
        self.same("addresses", &addresses, &has_address)?;
        let named = vms.iter().filter(|vm| vm.has_address).filter_map(|vm| vm.network.clone());
        let wanted: BTreeSet<_> = named.map(|name| (name, String::new())).collect();
        let mut networks = rows("SELECT name, '' FROM networks")?;
        networks.retain(|network| {
            wanted.contains(network) || !cardless.iter().any(|vm| vm.network.as_ref() == Some(&network.0))
        });
        self.same("networks", &networks, &wanted)
    }

    #[expect(clippy::unused_self, reason = "reads as what it is part of")]
    fn same<T: Ord + std::fmt::Debug>(
        &self,
        what: &str,
        there: &BTreeSet<T>,
        wanted: &BTreeSet<T>,
    ) -> Result<(), String> {
        if there == wanted {
            return Ok(());
        }
        let (extra, missing): (Vec<_>, Vec<_>) =
            (there.difference(wanted).collect(), wanted.difference(there).collect());
        Err(format!("{what}: {extra:?} too many, {missing:?} missing"))
    }

    fn pids_of(&self, program: &str, without: &str) -> BTreeSet<u64> {
        let all = self.processes(program).into_iter();
        let wanted =
            all.filter(|process| without.is_empty() || !process.command.split(' ').any(|word| word == without));
        wanted.map(|process| u64::from(process.pid)).collect()
    }
}

/// Mounts of a process; empty if it has ended.
fn mounts_of(pid: u64) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default()
}

/// Ids of VMs whose files or sockets are named in a text.
fn vms_in(text: &str) -> impl Iterator<Item = &str> {
    let is_id = |id: &&str| id.len() == 12 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let after = ["/vms/", "/v/"].into_iter().flat_map(|dir| text.split(dir).skip(1));
    after.map(|rest| rest.split(['/', ' ']).next().unwrap_or_default()).filter(is_id)
}

/// Inodes of guest memory that a process has open or mapped.
fn guest_memory(pid: u32) -> BTreeSet<u64> {
    const NAME: &str = "/memfd:banger-memory";
    let entries = |dir: &str| std::fs::read_dir(format!("/proc/{pid}/{dir}")).into_iter().flatten().flatten();
    let links = entries("fd").map(|entry| entry.path());
    let is_memory = |link: &PathBuf| std::fs::read_link(link).is_ok_and(|to| to.to_string_lossy().starts_with(NAME));
    let open = links.filter(is_memory).filter_map(|link| Some(link.metadata().ok()?.ino()));
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mapped = maps.lines().filter(|line| line.contains(NAME));
    let mapped = mapped.filter_map(|line| line.split_whitespace().nth(4)?.parse().ok());
    open.chain(mapped.collect::<Vec<u64>>()).collect()
}

/// Checks that every lease belongs to a live VM and a live client.
fn check_leases(leases: &BTreeSet<(String, String)>, live: &BTreeSet<String>) -> Result<(), String> {
    for (vm, pid) in leases {
        let holder = pid.parse().ok().and_then(crate::Identity::of);
        if !live.contains(vm) || holder.is_none() {
            return Err(format!("a lease of VM {vm} (live: {}), held by {pid}: {holder:?}", live.contains(vm)));
        }
    }
    Ok(())
}

/// Ports requested in a VM's specification.
fn asked_ports(spec: &str) -> Vec<String> {
    let spec: Value = serde_json::from_str(spec).expect("a specification is JSON");
    texts(&spec["network"]["publish"])
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    #[test]
    fn mounts_of_vms_are_recognised() {
        let line = "36 35 8:1 /home/state/vms/0123456789ab/work.ext4 /disk rw - ext4 /dev/vda rw";
        assert_eq!(vms_in(line).collect::<Vec<_>>(), ["0123456789ab"]);
        assert_eq!(vms_in("1 2 0:3 / /run/v/fedcba987654 rw - tmpfs x rw").collect::<Vec<_>>(), ["fedcba987654"]);
        assert_eq!(vms_in("1 2 0:3 / /var/v/other rw - tmpfs /vms/0123456789abc rw").count(), 0);
    }

    #[test]
    fn guest_memory_is_found_in_whoever_holds_it() {
        let before = guest_memory(std::process::id());
        let held = memfd_create("banger-memory", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&held, 4096).unwrap();
        let after = guest_memory(std::process::id());
        assert_eq!(after.len(), before.len() + 1, "{after:?}");
        drop(held);
        assert_eq!(guest_memory(std::process::id()), before);
    }
}
