//! What the proof finds.

use std::net::IpAddr;

use weft_init::{Evidence, InitError, Options, Proof, ProofError, apply, prove};

use crate::wire::listen_loopback;
use crate::world::{self, Neighbour, ip, nft};

#[test]
fn capture_is_proven_in_both_families() {
    world::each("proof::capture_is_proven_in_both_families", || {
        let _neighbour = Neighbour::new();
        apply(&Options::default()).unwrap();
        // Twice: the first leaves nothing behind that would be in the way of the proxy.
        for _ in 0..2 {
            let Proof { v4: Evidence::Caught(v4), v6: Evidence::Caught(v6) } = prove(&Options::default()).unwrap()
            else {
                panic!("not caught");
            };
            assert_eq!((v4.ip(), v6.ip()), (address("192.0.2.1"), address("2001:db8::1")));
        }
    });
}

#[test]
fn without_a_default_route_a_neighbour_serves() {
    world::each("proof::without_a_default_route_a_neighbour_serves", || {
        let _neighbour = Neighbour::new();
        ip("route del default");
        ip("-6 route del default");
        apply(&Options::default()).unwrap();
        let Proof { v4: Evidence::Caught(v4), v6: Evidence::Caught(v6) } = prove(&Options::default()).unwrap() else {
            panic!("not caught");
        };
        assert_eq!((v4.ip(), v6.ip()), (address("10.77.0.3"), address("fd77::3")));
    });
}

#[test]
fn one_family_is_enough() {
    world::each("proof::one_family_is_enough", || {
        let _neighbour = Neighbour::new();
        ip("-6 addr flush dev pod");
        apply(&Options::default()).unwrap();
        let proof = prove(&Options::default()).unwrap();
        assert!(matches!(proof, Proof { v4: Evidence::Caught(_), v6: Evidence::Unroutable }), "{proof}");
        let networks = vec!["0.0.0.0/0".parse().unwrap()];
        let options = Options { skip_outbound_cidrs: networks, ..Options::default() };
        apply(&options).unwrap();
        check(&options, "no connection could be tried");
    });
}

#[test]
fn a_skipped_documentation_network_is_avoided() {
    world::each("proof::a_skipped_documentation_network_is_avoided", || {
        let _neighbour = Neighbour::new();
        let networks = ["192.0.2.0/24", "2001:db8::/32"].map(|network| network.parse().unwrap()).to_vec();
        let options = Options { skip_outbound_cidrs: networks, ..Options::default() };
        apply(&options).unwrap();
        let Proof { v4: Evidence::Caught(v4), v6: Evidence::Caught(v6) } = prove(&options).unwrap() else {
            panic!("not caught");
        };
        assert_eq!((v4.ip(), v6.ip()), (address("198.51.100.1"), address("3fff::1")));
    });
}

#[test]
fn a_running_proxy_is_told_apart() {
    world::each("proof::a_running_proxy_is_told_apart", || {
        let _neighbour = Neighbour::new();
        apply(&Options::default()).unwrap();
        let _proxies = ["127.0.0.1", "::1"].map(|like| listen_loopback(address(like), 14_001));
        let proof = prove(&Options::default()).unwrap();
        assert!(matches!(proof, Proof { v4: Evidence::Answered(_), v6: Evidence::Answered(_) }), "{proof}");
    });
}

#[test]
fn whatever_breaks_capture_is_found() {
    world::each("proof::whatever_breaks_capture_is_found", || {
        let options = Options::default();
        check(&options, "there is no table inet weft");
        apply(&options).unwrap();
        check(&options, "the interface lo is down");
        let _neighbour = Neighbour::new();
        prove(&options).unwrap();
        let other = Options { proxy_uid: Some(7), ..Options::default() };
        check(&other, "rule 2 of chain skip_outbound is another one");
        let own = Options { proxy_uid: Some(0), ..Options::default() };
        apply(&own).unwrap();
        check(&own, "this process runs as user 0");

        for (change, found) in [
            ("add rule inet weft prerouting tcp dport 80 accept", "chain prerouting has 3 rules instead of 2"),
            ("flush chain inet weft prerouting", "chain prerouting has 0 rules instead of 2"),
            ("add chain inet weft more", "there is a chain more that is not planned"),
            ("add chain inet weft output { policy drop; }", "chain output hangs at another hook"),
            ("add table inet weft { flags dormant; }", "the table is dormant"),
        ] {
            apply(&options).unwrap();
            nft(&[change]);
            check(&options, found);
        }
        apply(&options).unwrap();
        // Who comes before us takes the connection.
        nft(&["add table ip first"]);
        nft(&["add chain ip first output { type nat hook output priority -150; }"]);
        nft(&["add rule ip first output meta l4proto tcp redirect to :9"]);
        check(&options, "was not turned to port 14001");
    });
}

#[test]
fn a_family_without_loopback_is_found() {
    world::each("proof::a_family_without_loopback_is_found", || {
        let _neighbour = Neighbour::new();
        apply(&Options::default()).unwrap();
        ip("-6 addr flush dev lo");
        check(&Options::default(), "nothing can listen on ::1 port 14001");
    });
}

#[track_caller]
fn check(options: &Options, expected: &str) {
    let error = prove(options).unwrap_err();
    let InitError::Unproven(why) = error else {
        panic!("another error: {error}");
    };
    let text = ProofError::to_string(&why);
    assert!(text.contains(expected), "{text}");
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
