//! Published ports: reserved for the VM while it runs. The shim listens; this capability checks beforehand that it can.

use super::{Capability, Depth, Hook, Launch};
use crate::{
    operation::Operation,
    store::{ResourceKind, Store, StoreError, VmRow, VmSpec},
};
use banger_machine::failpoint;
use banger_proto::{
    failure::{Code, Failure},
    name::VmId,
    network::Publish,
};
use std::{
    io,
    net::{SocketAddrV4, TcpListener},
};

pub(crate) struct PortsCapability {
    pub(crate) store: Store,
}

impl Capability for PortsCapability {
    fn name(&self) -> &'static str {
        "ports"
    }

    fn phase(&self) -> &'static str {
        "network"
    }

    fn preflight<'a>(&'a self, spec: &'a VmSpec, _operation: &'a Operation) -> Hook<'a> {
        Box::pin(async { spec.network.publish.iter().try_for_each(|publish| is_free(publish.host)) })
    }

    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, _operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            for publish in &vm.spec.network.publish {
                claim(&self.store, &vm.id, publish).await?;
                failpoint::hit("start.port").await;
                launch.ports.push(*publish);
            }
            Ok(())
        })
    }

    /// Only the reservations are left: the shim, which listened, is gone.
    fn release<'a>(&'a self, vm: &'a VmId, _depth: Depth) -> Hook<'a> {
        Box::pin(async {
            for resource in self.store.resources(vm).await? {
                if resource.kind == ResourceKind::Port {
                    self.store.unclaim(vm, ResourceKind::Port, &resource.value).await?;
                    failpoint::hit("release.port").await;
                }
            }
            Ok(())
        })
    }
}

/// Reserves a port for a VM. Port 0 stands for any free port and cannot conflict.
pub(crate) async fn claim(store: &Store, vm: &VmId, publish: &Publish) -> Result<(), Failure> {
    if publish.host.port() == 0 {
        return Ok(());
    }
    match store.claim(vm, ResourceKind::Port, &publish.host.to_string()).await {
        Err(StoreError::Taken(_)) => Err(taken(publish.host).cause("another VM has it published")),
        other => Ok(other?),
    }
}

/// Checks whether this host lets the user listen there.
pub(crate) fn is_free(host: SocketAddrV4) -> Result<(), Failure> {
    TcpListener::bind(host).map(drop).map_err(|error| refused(host, &error))
}

/// Failure and hints for a port nobody may listen on.
fn refused(host: SocketAddrV4, error: &io::Error) -> Failure {
    let failure = |code| Failure::new(code, format!("port {host} cannot be published"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure(Code::Denied)
            .cause(format!("{error}: ports below net.ipv4.ip_unprivileged_port_start are root's"))
            .hint("publish a higher one, such as -p 8080:80"),
        io::ErrorKind::AddrNotAvailable => failure(Code::Invalid)
            .cause(format!("{error}: no interface of this host has that address"))
            .hint("without an address (-p 8080:80) it is 127.0.0.1"),
        _ => taken(host).cause(error.to_string()),
    }
}

fn taken(host: SocketAddrV4) -> Failure {
    Failure::new(Code::Conflict, format!("port {host} cannot be published"))
        .hint(format!("publish another: -p {}:0:GUEST takes one that is free", host.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_refused_before_anything_starts() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(taken) = holder.local_addr().unwrap() else { unreachable!("it is IPv4") };
        assert_eq!(is_free(taken).unwrap_err().code, Code::Conflict);
        drop(holder);
        is_free(taken).unwrap();
    }

    #[test]
    fn what_is_not_taken_is_not_called_so() {
        // TEST-NET-1 is no address of a host.
        let elsewhere = is_free("192.0.2.1:8080".parse().unwrap()).unwrap_err();
        assert_eq!(elsewhere.code, Code::Invalid);
        assert!(!elsewhere.hints[0].contains(":0:"), "{elsewhere:?}");
        let low = refused("127.0.0.1:80".parse().unwrap(), &io::ErrorKind::PermissionDenied.into());
        assert_eq!(low.code, Code::Denied);
        assert!(low.hints[0].contains("8080:80"), "{low:?}");
    }
}
