//! Firecracker's API as far as banger speaks it: one enum is the whole of what can be asked.
//!
//! The names are those of Firecracker's public OpenAPI document; a test compares them with the facts taken from it
//! (`api-facts.json`).

use hyper::Method;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One request that changes something. Those before `Start` are for a machine that does not run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Processors and memory.
    Machine(MachineConfiguration),
    /// Kernel, initramfs and command line.
    Boot(BootSource),
    /// One disk; the guest sees disks in the order of these calls.
    Drive(Drive),
    /// The network card.
    Network(NetworkInterface),
    /// The guest's sockets.
    Vsock(Vsock),
    /// A source of randomness.
    Entropy(EntropyDevice),
    /// Starts the guest.
    Act(InstanceActionInfo),
    /// Stops the processors of a guest that runs, or lets them run on.
    Vm(Vm),
    /// Writes a paused machine's state and memory.
    CreateSnapshot(SnapshotCreateParams),
    /// Reads them, instead of all configuration.
    LoadSnapshot(SnapshotLoadParams),
}

impl Call {
    /// Method and path.
    pub fn target(&self) -> (Method, String) {
        match self {
            Self::Machine(_) => (Method::PUT, "/machine-config".into()),
            Self::Boot(_) => (Method::PUT, "/boot-source".into()),
            Self::Drive(drive) => (Method::PUT, format!("/drives/{}", drive.drive_id)),
            Self::Network(card) => (Method::PUT, format!("/network-interfaces/{}", card.iface_id)),
            Self::Vsock(_) => (Method::PUT, "/vsock".into()),
            Self::Entropy(_) => (Method::PUT, "/entropy".into()),
            Self::Act(_) => (Method::PUT, "/actions".into()),
            Self::Vm(_) => (Method::PATCH, "/vm".into()),
            Self::CreateSnapshot(_) => (Method::PUT, "/snapshot/create".into()),
            Self::LoadSnapshot(_) => (Method::PUT, "/snapshot/load".into()),
        }
    }

    /// The body, in JSON.
    pub fn body(&self) -> serde_json::Value {
        let value = match self {
            Self::Machine(body) => serde_json::to_value(body),
            Self::Boot(body) => serde_json::to_value(body),
            Self::Drive(body) => serde_json::to_value(body),
            Self::Network(body) => serde_json::to_value(body),
            Self::Vsock(body) => serde_json::to_value(body),
            Self::Entropy(body) => serde_json::to_value(body),
            Self::Act(body) => serde_json::to_value(body),
            Self::Vm(body) => serde_json::to_value(body),
            Self::CreateSnapshot(body) => serde_json::to_value(body),
            Self::LoadSnapshot(body) => serde_json::to_value(body),
        };
        value.expect("a request is plain data")
    }
}

/// Body of [`Call::Machine`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineConfiguration {
    /// 1 to 32.
    pub vcpu_count: u32,
    /// Memory.
    pub mem_size_mib: u64,
    /// Whether two processors are one core's threads.
    pub smt: bool,
}

/// Body of [`Call::Boot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSource {
    /// The ELF file.
    pub kernel_image_path: PathBuf,
    /// The initramfs.
    pub initrd_path: PathBuf,
    /// The kernel's command line.
    pub boot_args: String,
}

/// Body of [`Call::Drive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Its name in the API.
    pub drive_id: String,
    /// Whether Firecracker tells the kernel that its root is there; banger's initramfs knows better.
    pub is_root_device: bool,
    /// Whether the guest may only read it.
    pub is_read_only: bool,
    /// The file.
    pub path_on_host: PathBuf,
    /// What a flush in the guest does.
    pub cache_type: CacheType,
    /// How the file is read and written.
    pub io_engine: IoEngine,
}

/// What a flush in the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CacheType {
    /// Nothing.
    Unsafe,
    /// What was written reaches the host's disk.
    Writeback,
}

/// How a disk's file is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum IoEngine {
    /// By ordinary calls.
    Sync,
}

/// Body of [`Call::Network`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    /// Its name in the API.
    pub iface_id: String,
    /// The tap.
    pub host_dev_name: String,
    /// Its hardware address.
    pub guest_mac: String,
}

/// Body of [`Call::Vsock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// The guest's address.
    pub guest_cid: u32,
    /// The socket for connections to the guest; those from it go to this name with `_<port>` at its end.
    pub uds_path: PathBuf,
}

/// Body of [`Call::Entropy`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntropyDevice {}

/// Body of [`Call::Act`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceActionInfo {
    /// What.
    pub action_type: Action,
}

/// What can be done once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Starts the guest.
    InstanceStart,
}

/// Body of [`Call::Vm`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// What its processors are to do.
    pub state: VmState,
}

/// What a guest's processors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum VmState {
    /// Nothing.
    Paused,
    /// Run on.
    Resumed,
}

/// Body of [`Call::CreateSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotCreateParams {
    /// All of memory, or what changed.
    pub snapshot_type: SnapshotType,
    /// Where the devices' state goes.
    pub snapshot_path: PathBuf,
    /// Where memory goes.
    pub mem_file_path: PathBuf,
}

/// How much of memory is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SnapshotType {
    /// All of it.
    Full,
}

/// Body of [`Call::LoadSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotLoadParams {
    /// Where the devices' state is.
    pub snapshot_path: PathBuf,
    /// Where memory is.
    pub mem_backend: MemoryBackend,
    /// Whether the guest runs on at once.
    pub resume_vm: bool,
}

/// Where memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryBackend {
    /// How.
    pub backend_type: BackendType,
    /// From where.
    pub backend_path: PathBuf,
}

/// How memory is brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum BackendType {
    /// A file that is mapped privately.
    File,
}

/// Answer of `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    /// `Not started`, `Running` or `Paused`.
    pub state: String,
    /// Firecracker's version.
    pub vmm_version: String,
}

/// Answer to what was refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Error {
    /// Why.
    pub fault_message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value};

    /// What the public document says of one body: names, which of them must be there, and values that are enumerated.
    fn facts() -> Map<String, Value> {
        serde_json::from_str(include_str!("api-facts.json")).unwrap()
    }

    #[track_caller]
    fn check(facts: &Map<String, Value>, name: &str, body: &Value) {
        let fact = &facts["bodies"][name];
        let known = fact["fields"].as_object().unwrap_or_else(|| panic!("no facts about {name}"));
        for (field, value) in body.as_object().unwrap() {
            let kind = known.get(field).unwrap_or_else(|| panic!("{name} has no field {field}"));
            match kind {
                Value::Array(values) => {
                    assert!(values.contains(value), "{name}.{field} is none of {values:?}: {value}");
                }
                kind if kind == "integer" => assert!(value.is_u64(), "{name}.{field}: {value}"),
                kind if kind == "boolean" => assert!(value.is_boolean(), "{name}.{field}: {value}"),
                kind if kind == "string" => assert!(value.is_string(), "{name}.{field}: {value}"),
                body => check(facts, body.as_str().unwrap(), value),
            }
        }
        for required in fact["required"].as_array().unwrap() {
            assert!(body.get(required.as_str().unwrap()).is_some(), "{name} must have {required}");
        }
    }

    #[test]
    fn every_request_has_the_names_of_the_public_document() {
        let facts = facts();
        let path = || PathBuf::from("/p");
        let drive = |cache_type| Drive {
            drive_id: "disk0".into(),
            is_root_device: false,
            is_read_only: true,
            path_on_host: path(),
            cache_type,
            io_engine: IoEngine::Sync,
        };
        let calls = [
            Call::Machine(MachineConfiguration { vcpu_count: 2, mem_size_mib: 512, smt: false }),
            Call::Boot(BootSource { kernel_image_path: path(), initrd_path: path(), boot_args: "quiet".into() }),
            Call::Drive(drive(CacheType::Unsafe)),
            Call::Drive(drive(CacheType::Writeback)),
            Call::Network(NetworkInterface {
                iface_id: "eth0".into(),
                host_dev_name: "tap0".into(),
                guest_mac: "02:00:00:00:00:01".into(),
            }),
            Call::Vsock(Vsock { guest_cid: 3, uds_path: path() }),
            Call::Entropy(EntropyDevice {}),
            Call::Act(InstanceActionInfo { action_type: Action::InstanceStart }),
            Call::Vm(Vm { state: VmState::Paused }),
            Call::Vm(Vm { state: VmState::Resumed }),
            Call::CreateSnapshot(SnapshotCreateParams {
                snapshot_type: SnapshotType::Full,
                snapshot_path: path(),
                mem_file_path: path(),
            }),
            Call::LoadSnapshot(SnapshotLoadParams {
                snapshot_path: path(),
                mem_backend: MemoryBackend { backend_type: BackendType::File, backend_path: path() },
                resume_vm: false,
            }),
        ];
        for call in calls {
            let (method, path) = call.target();
            let path = path.replace("/disk0", "/{drive_id}").replace("/eth0", "/{iface_id}");
            let body = facts["requests"][format!("{method} {path}")].as_str();
            check(&facts, body.unwrap_or_else(|| panic!("there is no {method} {path}")), &call.body());
        }
    }
}
