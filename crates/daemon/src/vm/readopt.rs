//! Adopting a VM late: a starting daemon could not tell whether it runs, because its files could not be read for want
//! of a descriptor or a permission.
//!
//! The row then stays as it was. A command that ends or starts the VM looks for its machine again. One that is found is
//! ended like any other, or runs already. Until it can be told, the VM is neither ended nor reported as ended, and
//! nothing is started beside it.

use super::{
    owner::{Owner, outcome},
    reconcile::gone_reason,
    sockets,
};
use crate::failures::because;
use banger_machine::{
    failpoint,
    shim::{client::Adopted, control::ShimMessage, end_silent},
};
use banger_proto::{
    api::vm::VmState,
    failure::{Code, Failure},
};

/// Finds the machine of a live VM that has none in this daemon, for a command that ends it: a machine whose shim does
/// not answer is ended. If the machine has ended, that is recorded.
pub(super) async fn readopt(owner: &mut Owner) -> Result<(), Failure> {
    find(owner, IfSilent::End).await
}

/// Does the same for a command that ends no machine. A shim that does not answer is a failure then.
pub(super) async fn look(owner: &mut Owner) -> Result<(), Failure> {
    find(owner, IfSilent::Refuse).await
}

/// What becomes of a machine whose shim is alive and does not answer.
#[derive(Debug, Clone, Copy)]
enum IfSilent {
    End,
    Refuse,
}

async fn find(owner: &mut Owner, if_silent: IfSilent) -> Result<(), Failure> {
    if owner.shim.is_some() || !owner.row.state.is_live() {
        return Ok(());
    }
    let (layout, id) = (&owner.parts.layout, &owner.row.id);
    let (state_dir, run_dir) = (layout.vm(id), sockets::directory(layout, id));
    let untold = format!("whether VM {} runs cannot be told", owner.row.name);
    let (state, reason) = match owner.parts.shims.adopt(&run_dir, &state_dir).await {
        Ok(Adopted::Running(shim)) => {
            tracing::info!(vm = %owner.row.name, "found again");
            owner.row.reason = None;
            // This tells whether there is an agent that can be asked to power off.
            owner.apply(ShimMessage::Status(shim.status()));
            owner.follow(shim);
            return Ok(());
        }
        Ok(Adopted::Ended(record)) => outcome(&record),
        Ok(Adopted::Gone(_)) => (VmState::Stopped, Some(gone_reason())),
        Ok(Adopted::Silent { shim, waited }) => match if_silent {
            IfSilent::End => {
                let ended = end_silent(shim, waited, &state_dir).await;
                failpoint::hit("look.silenced").await;
                match ended {
                    Ok((record, words)) => {
                        let (state, reason) = outcome(&record);
                        (state, reason.or(Some(words)))
                    }
                    Err(words) => (VmState::Failed, Some(words)),
                }
            }
            IfSilent::Refuse => {
                return Err(Failure::new(Code::Unavailable, untold)
                    .cause(format!("its shim (pid {}) did not answer for {} s", shim.pid, waited.as_secs()))
                    .hint(format!("`banger vm stop {}` ends what runs of it", owner.row.name)));
            }
        },
        Err(error) => {
            return Err(because(Code::Unavailable, untold, &error)
                .hint(format!("see to {}, then the same command again", state_dir.display())));
        }
    };
    owner.down(state, reason).await
}
