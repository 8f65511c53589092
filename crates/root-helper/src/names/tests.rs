//! Names: that they fit, and do not meet.

use super::*;

#[test]
fn every_name_fits_and_says_whose_it_is() {
    let vm: VmId = "0123456789ab".parse().unwrap();
    let owner = Owner(u32::MAX);
    assert!(owner.bridge(NETWORKS - 1).len() <= 15 && tap(&vm).len() <= 15);
    assert_eq!(owner.vm_of(&owner.tap_alias(&vm)), Some(vm.clone()));
    assert_eq!(Owner(1).vm_of(&Owner(11).tap_alias(&vm)), None);
    assert_eq!(Owner(1).vm_of("something else"), None);
}

#[test]
fn addresses_of_networks_do_not_meet() {
    let block: Cidr = "10.213.0.0/16".parse().unwrap();
    assert_eq!(gateway(block, 0), Some(Ipv4Addr::new(10, 213, 0, 1)));
    assert_eq!(gateway(block, 63), Some(Ipv4Addr::new(10, 213, 252, 1)));
    assert_eq!(address(block, 63, 1023), Some(Ipv4Addr::new(10, 213, 255, 255)));
    assert_eq!((address(block, 64, 1), address(block, 0, 1024)), (None, None));
    assert_eq!(mac(Ipv4Addr::new(10, 213, 0, 5)), [2, 0x62, 10, 213, 0, 5]);
}
