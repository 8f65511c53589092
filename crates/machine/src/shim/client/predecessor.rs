//! Makes sure that the previous machine of a VM is gone before a new one starts.

use super::{CHANGE_TIMEOUT, ShimError};
use crate::{
    process::{ProvenProcess, host_boot_id},
    record,
    shim::control::{EXIT_FILE, ExitRecord, RUNTIME_FILE, RuntimeRecord},
};
use std::{path::Path, time::Duration};
use tokio::time::timeout;

/// Waits for a shim that has written its exit record to be gone, and for the VMM that dies with it. Refuses when either
/// keeps running: it uses the VM's disk, and the record is the only way to identify it.
pub(super) async fn await_end(state_dir: &Path) -> Result<(), ShimError> {
    await_end_within(CHANGE_TIMEOUT, state_dir).await
}

async fn await_end_within(limit: Duration, state_dir: &Path) -> Result<(), ShimError> {
    let Some(runtime) = record::read::<RuntimeRecord>(state_dir, RUNTIME_FILE)? else { return Ok(()) };
    if host_boot_id()? != runtime.host_boot_id {
        return Ok(());
    }
    if let Some(shim) = ProvenProcess::open(runtime.shim)? {
        let leaving = record::read::<ExitRecord>(state_dir, EXIT_FILE)?.is_some();
        if !leaving || timeout(limit, shim.ended()).await.is_err() {
            return Err(ShimError::AlreadyRunning(runtime.shim));
        }
    }
    if let Some(vmm) = runtime.vmm
        && let Some(process) = ProvenProcess::open(vmm)?
        && timeout(limit, process.ended()).await.is_err()
    {
        return Err(ShimError::Lingering(vmm));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ProcessIdentity;
    use std::process::{Child, Command, Stdio};

    fn process() -> (Child, ProcessIdentity) {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        (child, identity)
    }

    #[tokio::test]
    async fn nothing_is_started_beside_a_vmm_that_outlives_its_shim() {
        let dir = tempfile::tempdir().unwrap();
        let ((mut shim, shim_is), (mut vmm, vmm_is)) = (process(), process());
        let boot = host_boot_id().unwrap();
        let runtime = RuntimeRecord { host_boot_id: boot, shim: shim_is, vmm: Some(vmm_is) };
        record::write_volatile(dir.path(), RUNTIME_FILE, &runtime).unwrap();
        let ended = async || await_end_within(Duration::from_millis(50), dir.path()).await;
        assert!(matches!(ended().await, Err(ShimError::AlreadyRunning(is)) if is == shim_is));
        shim.kill().unwrap();
        shim.wait().unwrap();
        assert!(matches!(ended().await, Err(ShimError::Lingering(is)) if is == vmm_is));
        let before = RuntimeRecord { host_boot_id: "another".into(), ..runtime.clone() };
        record::write_volatile(dir.path(), RUNTIME_FILE, &before).unwrap();
        ended().await.expect("it is of another boot");
        record::write_volatile(dir.path(), RUNTIME_FILE, &runtime).unwrap();
        vmm.kill().unwrap();
        vmm.wait().unwrap();
        ended().await.unwrap();
    }
}
