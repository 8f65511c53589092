//! Location of the sockets of a VM's machine: below the run directory of the daemon that started it. A later daemon may
//! have another run directory, because its environment names it: a login's differs from that of `su` or of cron.

use banger_machine::{private_dir::is_ours_alone, record, shim::control::PLAN_FILE};
use banger_proto::{layout::Layout, name::VmId};
use rustix::process::geteuid;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The part of a launch plan, of any version, that is needed here.
#[derive(Deserialize)]
struct Planned {
    run_dir: PathBuf,
}

/// Returns the directory of the sockets.
pub(super) fn directory(layout: &Layout, vm: &VmId) -> PathBuf {
    match record::read(&layout.vm(vm), PLAN_FILE) {
        Ok(Some(Planned { run_dir })) if is_closed(&run_dir) => run_dir,
        _ => layout.vm_run(vm),
    }
}

/// Whether the directory is still as a daemon made it: it, the directory of all VMs and the run directory belong to
/// this user alone. In a directory that everybody may write to it could have been replaced by another user's.
fn is_closed(vm_run: &Path) -> bool {
    let fallback = Layout::fallback_run(geteuid().as_raw());
    let above = vm_run.ancestors().skip(3).filter(|above| above.starts_with(&fallback));
    vm_run.is_absolute() && vm_run.ancestors().take(3).chain(above).all(is_ours_alone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, symlink},
    };

    #[test]
    fn they_are_where_the_plan_says_as_long_as_nobody_else_can_be_there() {
        let temp = tempfile::tempdir().unwrap();
        let dir = |name: &str| temp.path().join(name);
        let layout = Layout { config: dir("c"), state: dir("s"), cache: dir("c"), run: dir("run") };
        let vm: VmId = "0123456789ab".parse().unwrap();
        fs::create_dir_all(layout.vm(&vm)).unwrap();
        let (here, there) = (layout.vm_run(&vm), dir("other/v").join(vm.as_str()));
        assert_eq!(directory(&layout, &vm), here, "without a plan");
        record::write(&layout.vm(&vm), PLAN_FILE, &serde_json::json!({ "run_dir": there, "more": 1 })).unwrap();
        assert_eq!(directory(&layout, &vm), here, "it is not there");
        fs::create_dir_all(&there).unwrap();
        let levels = [there.clone(), dir("other/v"), dir("other")];
        let close = |level: &PathBuf, mode| fs::set_permissions(level, Permissions::from_mode(mode)).unwrap();
        for level in &levels {
            close(level, 0o700);
        }
        assert_eq!(directory(&layout, &vm), there);
        for level in &levels {
            close(level, 0o750);
            assert_eq!(directory(&layout, &vm), here, "{} is open", level.display());
            close(level, 0o700);
        }
        fs::rename(dir("other"), dir("moved")).unwrap();
        symlink(dir("moved"), dir("other")).unwrap();
        assert_eq!(directory(&layout, &vm), here, "it is a link");
    }
}
