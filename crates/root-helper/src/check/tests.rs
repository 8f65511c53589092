//! What is refused, at its edges.

use super::*;

#[test]
fn only_private_blocks_of_the_right_size_become_networks() {
    let ensure =
        |block: &str| check(&Request::EnsureNetwork { block: block.parse().unwrap(), network: 0, host: vec![] });
    for good in ["10.213.0.0/16", "172.31.0.0/16", "192.168.0.0/16", "100.127.0.0/16"] {
        assert_eq!(ensure(good), Ok(()), "{good}");
    }
    for bad in ["10.0.0.0/8", "10.213.0.0/17", "8.8.0.0/16", "172.32.0.0/16", "169.254.0.0/16", "0.0.0.0/0"] {
        assert_eq!(ensure(bad), Err(Refusal::Block), "{bad}");
    }
}
