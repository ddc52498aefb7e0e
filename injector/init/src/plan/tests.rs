use std::num::NonZeroU32;

use weft_model::PortRange;

use super::{Family, plan};
use crate::options::Options;

#[test]
fn the_default_ruleset_is_this_text() {
    check(&plan(&Options::default(), Family::Inet).to_string(), include_str!("golden/default.nft"));
}

#[test]
fn every_option_has_its_rules() {
    check(&plan(&full(), Family::Inet).to_string(), include_str!("golden/full.nft"));
}

#[test]
fn without_ipv6_nothing_names_it() {
    check(&plan(&full(), Family::Ipv4).to_string(), include_str!("golden/ipv4.nft"));
}

fn full() -> Options {
    Options {
        proxy_mark: NonZeroU32::new(0x77),
        skip_inbound_ports: vec![PortRange::new(22, 22).unwrap()],
        skip_outbound_ports: vec![PortRange::new(25, 25).unwrap(), PortRange::new(8000, 8100).unwrap()],
        skip_outbound_cidrs: ["10.0.0.0/8", "192.0.2.64/26", "198.51.100.7/32", "2001:db8::/33", "fd00::1/128"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
        ..Options::default()
    }
}

#[track_caller]
fn check(actual: &str, golden: &str) {
    assert!(actual == golden, "--- the golden text\n{golden}\n--- the plan\n{actual}");
}
