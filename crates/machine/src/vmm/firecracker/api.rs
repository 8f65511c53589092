//! The part of Firecracker's API that banger uses: one enum contains every request.
//!
//! The names are those of Firecracker's public OpenAPI document; a test compares them with facts taken from it
//! (`api-facts.json`).

use hyper::Method;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A request that changes something. Those before `Act` are for a machine that does not run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Sets the vCPUs and memory.
    Machine(MachineConfiguration),
    /// Sets the kernel, initramfs and command line.
    Boot(BootSource),
    /// Adds a disk; the guest sees disks in the order of these calls.
    Drive(Drive),
    /// Adds the NIC.
    Network(NetworkInterface),
    /// Adds the vsock device.
    Vsock(Vsock),
    /// Adds an entropy device.
    Entropy(EntropyDevice),
    /// Starts the guest.
    Act(InstanceActionInfo),
    /// Pauses or resumes the vCPUs of a running guest.
    Vm(Vm),
    /// Writes the state and memory of a paused machine.
    CreateSnapshot(SnapshotCreateParams),
    /// Loads state and memory, in place of all configuration.
    LoadSnapshot(SnapshotLoadParams),
}

impl Call {
    /// Method and path of the request.
    pub fn target(&self) -> (Method, String) {
        match self {
            Self::Machine(_) => (Method::PUT, "/machine-config".into()),
            Self::Boot(_) => (Method::PUT, "/boot-source".into()),
            Self::Drive(drive) => (Method::PUT, format!("/drives/{}", drive.drive_id)),
            Self::Network(nic) => (Method::PUT, format!("/network-interfaces/{}", nic.iface_id)),
            Self::Vsock(_) => (Method::PUT, "/vsock".into()),
            Self::Entropy(_) => (Method::PUT, "/entropy".into()),
            Self::Act(_) => (Method::PUT, "/actions".into()),
            Self::Vm(_) => (Method::PATCH, "/vm".into()),
            Self::CreateSnapshot(_) => (Method::PUT, "/snapshot/create".into()),
            Self::LoadSnapshot(_) => (Method::PUT, "/snapshot/load".into()),
        }
    }

    /// Body of the request.
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
    /// Number of vCPUs, 1 to 32.
    pub vcpu_count: u32,
    /// Guest memory in MiB.
    pub mem_size_mib: u64,
    /// Whether two vCPUs are presented as threads of one core.
    pub smt: bool,
}

/// Body of [`Call::Boot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSource {
    /// The ELF image.
    pub kernel_image_path: PathBuf,
    /// The initramfs.
    pub initrd_path: PathBuf,
    /// The kernel's command line.
    pub boot_args: String,
}

/// Body of [`Call::Drive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Id of the disk in the API.
    pub drive_id: String,
    /// Whether Firecracker adds `root=` to the command line; banger's initramfs finds the root by itself.
    pub is_root_device: bool,
    /// Whether the guest has read access only.
    pub is_read_only: bool,
    /// The file.
    pub path_on_host: PathBuf,
    /// Effect of a flush in the guest.
    pub cache_type: CacheType,
    /// How the file is read and written.
    pub io_engine: IoEngine,
}

/// Effect of a flush in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CacheType {
    /// A flush has no effect.
    Unsafe,
    /// A flush writes to the host's disk.
    Writeback,
}

/// How a disk's file is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum IoEngine {
    /// Synchronous system calls.
    Sync,
}

/// Body of [`Call::Network`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    /// Id of the NIC in the API.
    pub iface_id: String,
    /// Name of the tap device.
    pub host_dev_name: String,
    /// MAC address.
    pub guest_mac: String,
}

/// Body of [`Call::Vsock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// The guest's vsock address (CID).
    pub guest_cid: u32,
    /// The socket for connections to the guest; those from the guest go to this name with the suffix `_<port>`.
    pub uds_path: PathBuf,
}

/// Body of [`Call::Entropy`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntropyDevice {}

/// Body of [`Call::Act`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceActionInfo {
    /// The action.
    pub action_type: Action,
}

/// Actions of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Starts the guest.
    InstanceStart,
}

/// Body of [`Call::Vm`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// The requested state of the vCPUs.
    pub state: VmState,
}

/// State of the vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum VmState {
    /// The vCPUs are stopped.
    Paused,
    /// The vCPUs run.
    Resumed,
}

/// Body of [`Call::CreateSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotCreateParams {
    /// Amount of memory to write.
    pub snapshot_type: SnapshotType,
    /// File for the device state.
    pub snapshot_path: PathBuf,
    /// File for the memory.
    pub mem_file_path: PathBuf,
}

/// Amount of memory to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SnapshotType {
    /// All memory.
    Full,
}

/// Body of [`Call::LoadSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotLoadParams {
    /// File with the device state.
    pub snapshot_path: PathBuf,
    /// Source of the memory.
    pub mem_backend: MemoryBackend,
    /// Whether the guest runs at once.
    pub resume_vm: bool,
}

/// Source of the memory of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryBackend {
    /// Kind of the source.
    pub backend_type: BackendType,
    /// Path of the source.
    pub backend_path: PathBuf,
}

/// Kinds of memory sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum BackendType {
    /// A file, mapped privately.
    File,
}

/// Response to `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    /// `Not started`, `Running` or `Paused`.
    pub state: String,
    /// Firecracker's version.
    pub vmm_version: String,
}

/// Response to a refused request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Error {
    /// The reason.
    pub fault_message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value};

    /// Facts from the public document about each body: names, which of them are required, and enumerated values.
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
