//! Names: that they fit, and do not meet.

use super::*;
use banger_proto::helper::NETWORKS;

#[test]
fn every_name_fits_and_says_whose_it_is() {
    let vm: VmId = "0123456789ab".parse().unwrap();
    let owner = Owner(u32::MAX);
    assert!(owner.bridge(NETWORKS - 1).len() <= 15 && tap(&vm).len() <= 15);
    assert_eq!(owner.vm_of(&owner.tap_alias(&vm)), Some(vm.clone()));
    assert_eq!(Owner(1).vm_of(&Owner(11).tap_alias(&vm)), None);
    assert_eq!(Owner(1).vm_of("something else"), None);
}
