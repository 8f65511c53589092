//! Finds the VM that an ssh host name means, and the keys for it.

use crate::{context::Context, daemon::operation::is_not_found, exit::Result, http::segment};
use banger_proto::{api::ssh::SshAccess, failure::Code, failure::Failure};
use hyper::Method;

/// Suffix of every VM's host name.
pub(crate) const DOMAIN: &str = ".vm";

/// Returns the VM that a host name means.
pub(crate) fn vm_of(host: &str) -> &str {
    host.strip_suffix(DOMAIN).unwrap_or(host)
}

/// Fetches the keys for a VM; the daemon creates them on the first request.
pub(crate) async fn access(context: &Context, vm: &str) -> Result<SshAccess> {
    let path = format!("/v1/vms/{}/ssh", segment(vm));
    let answer = context.daemon().await?.request(Method::POST, &path).await;
    answer.map_err(|error| {
        if is_not_found(&error) {
            return Failure::new(Code::NotFound, format!("there is no VM {vm:?}"))
                .hint("banger vm list shows the VMs there are")
                .into();
        }
        error
    })
}
