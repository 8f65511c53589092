//! Resolves a creation request into sizes. Everything is checked before anything is created.

use crate::{
    config::{Config, Sourced},
    store::Sizes,
};
use banger_proto::{
    agent::boot::Init,
    api::{
        host::SettingSource,
        vm::{CreateVm, MAX_DISK, MAX_VCPU, MIN_DISK, MIN_MEMORY},
    },
    failure::{Code, Failure},
    size::ByteSize,
};
use std::collections::BTreeMap;

/// Sizes of a VM and the rules that gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) vcpu: u32,
    pub(super) memory: ByteSize,
    pub(super) disk_size: ByteSize,
    pub(super) init: Init,
    pub(super) sources: BTreeMap<String, String>,
}

/// Resolves and checks the sizes of a request.
pub(super) fn shape(request: &CreateVm, config: &Config) -> Result<Shape, Failure> {
    let vcpu = config.vcpu.clone().overridden_by(request.vcpu);
    let memory = config.memory.clone().overridden_by(request.memory);
    let disk_size = config.disk_size.clone().overridden_by(request.disk_size);
    let init = config.init.clone().overridden_by(request.init);
    check(Sizes { vcpu: vcpu.value, memory: memory.value, disk_size: disk_size.value })?;
    let sources = BTreeMap::from([
        ("vcpu".to_owned(), said(vcpu.source)),
        ("memory".to_owned(), said(memory.source)),
        ("disk_size".to_owned(), said(disk_size.source)),
    ]);
    Ok(Shape { vcpu: vcpu.value, memory: memory.value, disk_size: disk_size.value, init: init.value, sources })
}

/// Refuses sizes that no VM can have.
pub(super) fn check(sizes: Sizes) -> Result<(), Failure> {
    let Sizes { vcpu, memory, disk_size } = sizes;
    if !(1..=MAX_VCPU).contains(&vcpu) {
        return Err(invalid(format!("a VM has 1 to {MAX_VCPU} virtual processors, not {vcpu}")));
    }
    whole_mebibytes("memory", memory)?;
    if memory < MIN_MEMORY {
        return Err(invalid(format!("a VM has at least {MIN_MEMORY} of memory, not {memory}")));
    }
    whole_mebibytes("work disk", disk_size)?;
    if !(MIN_DISK..=MAX_DISK).contains(&disk_size) {
        return Err(invalid(format!("a work disk has {MIN_DISK} to {MAX_DISK}, not {disk_size}")));
    }
    Ok(())
}

/// Returns the rule as `vm show` prints it: a configuration file is `config` there.
fn said(source: SettingSource) -> String {
    match source {
        SettingSource::File => "config".to_owned(),
        other => other.to_string(),
    }
}

fn whole_mebibytes(what: &str, size: ByteSize) -> Result<(), Failure> {
    if size == ByteSize::mib(size.as_mib()) {
        Ok(())
    } else {
        Err(invalid(format!("a VM's {what} is a whole number of MiB, not {} bytes", size.bytes())))
    }
}

fn invalid(message: String) -> Failure {
    Failure::new(Code::Invalid, message)
}

/// Returns the requested value, or else the default.
pub(super) fn chosen<T: Clone>(asked: Option<&T>, default: &Sourced<T>) -> T {
    asked.unwrap_or(&default.value).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{File, Host};

    fn config() -> Config {
        let host = Host { cpus: 16, memory: ByteSize::gib(32) };
        let file = File::parse("vm_defaults.disk_size = \"2G\"", "/c".as_ref()).unwrap();
        Config::resolve(file, |_| None, host).unwrap()
    }

    #[test]
    fn every_size_says_which_rule_gave_it() {
        let request = CreateVm { vcpu: Some(3), ..CreateVm::default() };
        let shape = shape(&request, &config()).unwrap();
        assert_eq!((shape.vcpu, shape.memory, shape.disk_size), (3, ByteSize::gib(4), ByteSize::gib(2)));
        let rules: Vec<_> = shape.sources.iter().map(|(key, rule)| format!("{key}={rule}")).collect();
        assert_eq!(rules, ["disk_size=config", "memory=host", "vcpu=flag"]);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        let mib = |n| Some(ByteSize::mib(n));
        for request in [
            CreateVm { vcpu: Some(0), ..CreateVm::default() },
            CreateVm { vcpu: Some(33), ..CreateVm::default() },
            CreateVm { memory: mib(127), ..CreateVm::default() },
            CreateVm { memory: Some(ByteSize((256 << 20) + 1)), ..CreateVm::default() },
            CreateVm { memory: Some(ByteSize(u64::MAX)), ..CreateVm::default() },
            CreateVm { disk_size: mib(63), ..CreateVm::default() },
            CreateVm { disk_size: mib((1 << 20) + 1), ..CreateVm::default() },
            CreateVm { disk_size: mib(0), ..CreateVm::default() },
        ] {
            assert_eq!(shape(&request, &config()).unwrap_err().code, Code::Invalid, "{request:?}");
        }
        let largest = CreateVm { vcpu: Some(32), disk_size: mib(1 << 20), memory: mib(128), ..CreateVm::default() };
        shape(&largest, &config()).unwrap();
    }
}
