use std::io;

use ipnet::IpNet;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::{collection, prop_assert, prop_assert_eq};
use weft_model::PortRange;

use super::batch::{Batch, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, kind};
use super::expression::{self, Expression, lower};
use super::held::Held;
use super::message::{Attributes, Message, split};
use crate::error::InitError;
use crate::options::Options;
use crate::plan::{Family, Match, Rule, Side, TABLE, Verdict, plan};

#[test]
fn networks_become_the_steps_that_nft_would_take() {
    let check = |network: &str, family, expected: &[Expression]| {
        let network: IpNet = network.parse().unwrap();
        let rule = Rule { matches: vec![Match::Network(Side::Destination, network)], verdict: Verdict::Accept };
        let steps = lower(&rule, family);
        assert_eq!(steps.split_last().unwrap().1, expected, "{network}");
    };
    let protocol = |number| [Expression::Meta { key: 15 }, equal(&[number])];
    check("0.0.0.0/0", Family::Ipv4, &protocol(2));
    check("::/0", Family::Inet, &protocol(10));
    let [first, second] = protocol(2);
    let load = Expression::Payload { base: 1, offset: 16, length: 2 };
    check("169.254.0.0/16", Family::Inet, &[first, second, load.clone(), equal(&[169, 254])]);
    check("169.254.0.0/16", Family::Ipv4, &[load, equal(&[169, 254])]);
    let load = Expression::Payload { base: 1, offset: 16, length: 4 };
    let mask = Expression::Bitwise { mask: vec![255, 255, 254, 0], xor: vec![0; 4] };
    check("10.1.2.0/23", Family::Ipv4, &[load, mask, equal(&[10, 1, 2, 0])]);
}

#[test]
fn a_refusal_names_the_operation_and_what_is_missing() {
    let batch = Batch::replace(&plan(&Options::default(), Family::Inet));
    let errors: Vec<InitError> =
        (0..=batch.last_sequence()).map(|sequence| refused(&batch, sequence, libc::ENOENT)).collect();
    let check = |operation: &str, missing: &str| {
        let found = errors.iter().find(|error| error.to_string().contains(operation));
        let text = found.unwrap_or_else(|| panic!("no operation {operation}")).to_string();
        assert!(text.contains(missing), "{text}");
    };
    check("set the redirect rules", "nf_tables (CONFIG_NF_TABLES)");
    check("add table inet weft", "CONFIG_NF_TABLES_INET");
    check("add chain inet weft output:", "nft_chain_nat");
    check("add rule inet weft skip_inbound fib daddr type != local accept", "nft_fib_inet");
    check("add rule inet weft output meta l4proto tcp redirect to :14001", "nft_redir");
    check("ct state invalid jump invalid_inbound", "nft_ct");
}

#[test]
fn errors_are_sorted_by_what_the_operator_can_do() {
    let batch = Batch::remove(Family::Inet);
    assert!(matches!(refused(&batch, 0, libc::EPERM), InitError::NoPermission { .. }));
    assert!(matches!(refused(&batch, 0, libc::EOPNOTSUPP), InitError::KernelLacks { .. }));
    assert!(matches!(refused(&batch, 0, libc::ENOMEM), InitError::Refused { .. }));
    // A sequence number that we never sent is no reason to panic.
    assert!(matches!(refused(&batch, u32::MAX, libc::EINVAL), InitError::Refused { .. }));
}

#[test]
fn the_longest_lists_fit_into_the_send_buffer() {
    let networks = |index: u16| format!("2001:db8:{index:x}::/49").parse().unwrap();
    let options = Options {
        skip_inbound_ports: (1..=128).map(|port| PortRange::new(port * 2, port * 2 + 1).unwrap()).collect(),
        skip_outbound_ports: (1..=128).map(|port| PortRange::new(port * 2, port * 2 + 1).unwrap()).collect(),
        skip_outbound_cidrs: (1..=128).map(networks).collect(),
        ..Options::default()
    };
    let bytes = Batch::replace(&plan(&options, Family::Inet)).bytes().len();
    // The kernel doubles what is asked for, up to net.core.wmem_max, by default 208 KiB.
    assert!(bytes < 2 * 208 * 1024 - 32, "{bytes} bytes");
}

#[test]
fn the_first_difference_is_told() {
    let expected = Held::expected(&plan(&Options::default(), Family::Inet));
    assert_eq!(expected.difference(&expected), None);
    let options = Options { proxy_uid: Some(1), ..Options::default() };
    let other = Held::expected(&plan(&options, Family::Inet));
    assert_eq!(other.difference(&expected).unwrap().to_string(), "rule 2 of chain skip_outbound is another one");
    let options = Options { proxy_uid: None, ..Options::default() };
    let shorter = Held::expected(&plan(&options, Family::Inet));
    assert_eq!(shorter.difference(&expected).unwrap().to_string(), "chain skip_outbound has 3 rules instead of 4");
    let empty = Held::parse(Family::Inet, false, &[], &[]).unwrap();
    assert_eq!(empty.difference(&expected).unwrap().to_string(), "chain invalid_inbound is missing");
    let dormant = Held::parse(Family::Inet, true, &[], &[]).unwrap();
    assert_eq!(dormant.difference(&expected).unwrap().to_string(), "the table is dormant");
}

/// A kernel without IPv6 is not at hand; that it would take the table is shown by one that has both.
#[test]
fn the_ipv4_table_is_taken_and_reads_back() {
    if std::env::var_os("WEFT_TEST_WORLD").is_none() {
        let name = "netlink::tests::the_ipv4_table_is_taken_and_reads_back";
        let mut world = std::process::Command::new("unshare");
        world.args(["-Urn", "--"]).arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
        let output = world.env("WEFT_TEST_WORLD", "unprivileged").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let options = Options { proxy_mark: std::num::NonZeroU32::new(7), ..Options::default() };
    let ruleset = plan(&options, Family::Ipv4);
    super::replace(&ruleset).unwrap();
    super::replace(&ruleset).unwrap();
    let held = super::read(Family::Ipv4).unwrap().unwrap();
    assert_eq!(held.difference(&Held::expected(&ruleset)), None);
    assert_eq!(super::read(Family::Inet).unwrap(), None);
    super::remove(Family::Ipv4).unwrap();
    assert_eq!(super::read(Family::Ipv4).unwrap(), None);
}

proptest! {
    #[test]
    fn what_is_written_reads_back(steps in collection::vec(expressions(), 0..8)) {
        let mut message = Message::new(kind(6), 0, 7, 1, 0);
        message.text(RULE_TABLE, TABLE);
        message.text(RULE_CHAIN, "output");
        message.nest(RULE_EXPRESSIONS, |list| expression::write(&steps, list));
        let bytes = message.finish();
        let received = split(&bytes).next().unwrap().unwrap();
        prop_assert_eq!(received.sequence, 7);
        prop_assert_eq!(received.attributes().text(RULE_CHAIN).unwrap(), Some("output"));
        let list = received.attributes().nested(RULE_EXPRESSIONS).unwrap().unwrap();
        prop_assert_eq!(expression::parse(list).unwrap(), steps);
    }

    #[test]
    fn no_answer_makes_us_panic_or_spin(bytes in collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(split(&bytes).count() <= bytes.len());
        prop_assert!(Attributes::inside(&bytes).count() <= bytes.len());
        drop(expression::parse(Attributes::inside(&bytes)));
        drop(Held::parse(Family::Inet, false, std::slice::from_ref(&bytes), std::slice::from_ref(&bytes)));
    }

    #[test]
    fn a_damaged_answer_is_an_error_or_a_difference(at in 0_usize..2_000, with in any::<u8>()) {
        let mut bytes = Batch::replace(&plan(&Options::default(), Family::Inet)).bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= with;
        drop(Held::parse(Family::Inet, false, std::slice::from_ref(&bytes), std::slice::from_ref(&bytes)));
    }
}

fn expressions() -> impl Strategy<Value = Expression> {
    let bytes = || collection::vec(any::<u8>(), 1..16);
    prop_oneof![
        bytes().prop_map(|mask| Expression::Bitwise { xor: vec![0; mask.len()], mask }),
        (any::<u32>(), bytes()).prop_map(|(operator, value)| Expression::Compare { operator, value }),
        any::<u32>().prop_map(|key| Expression::Conntrack { key }),
        (any::<u32>(), any::<u32>()).prop_map(|(result, flags)| Expression::Fib { result, flags }),
        bytes().prop_map(|value| Expression::Immediate { value }),
        any::<u32>().prop_map(|key| Expression::Meta { key }),
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(base, offset, length)| Expression::Payload {
            base,
            offset,
            length
        }),
        (any::<i32>(), proptest::option::of("[a-z_]{1,12}"))
            .prop_map(|(code, chain)| Expression::Verdict { code, chain }),
    ]
}

fn equal(value: &[u8]) -> Expression {
    Expression::Compare { operator: 0, value: value.to_vec() }
}

fn refused(batch: &Batch, sequence: u32, errno: i32) -> InitError {
    batch.refused(sequence, io::Error::from_raw_os_error(errno))
}
