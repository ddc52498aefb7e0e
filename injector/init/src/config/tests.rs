use std::ffi::OsString;
use std::num::{NonZeroU16, NonZeroU32};

use clap::Parser;
use weft_model::PortRange;

use super::{Action, Raw};
use crate::options::Options;

#[test]
fn nothing_said_means_the_numbers_of_the_mesh() {
    assert_eq!(parse(&[]), Ok((Action::ApplyAndProve { until_ready: false }, Options::default())));
}

#[test]
fn only_who_sets_and_proves_waits_in_between() {
    assert_eq!(parse(&["--until-ready"]), Ok((Action::ApplyAndProve { until_ready: true }, Options::default())));
    for other in ["--dry-run", "--no-prove", "--prove-capture", "--remove"] {
        assert!(parse(&["--until-ready", other]).unwrap_err()[0].contains("(WEFT_UNTIL_READY)"), "{other}");
    }
}

#[test]
fn every_flag_arrives() {
    let parsed = parse(&[
        "--outbound-port=1",
        "--inbound-port=2",
        "--admin-port=3",
        "--proxy-uid=none",
        "--proxy-mark=0x1f",
        "--skip-inbound-ports=22, 9000-9100",
        "--skip-outbound-ports=25,",
        "--skip-outbound-cidrs=10.1.2.3/8,2001:db8::1",
        "--dry-run",
    ]);
    let options = Options {
        outbound_port: NonZeroU16::new(1).unwrap(),
        inbound_port: NonZeroU16::new(2).unwrap(),
        admin_port: NonZeroU16::new(3).unwrap(),
        proxy_uid: None,
        proxy_mark: NonZeroU32::new(31),
        skip_inbound_ports: vec![PortRange::new(22, 22).unwrap(), PortRange::new(9000, 9100).unwrap()],
        skip_outbound_ports: vec![PortRange::new(25, 25).unwrap()],
        skip_outbound_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::1/128".parse().unwrap()],
    };
    assert_eq!(parsed, Ok((Action::Render, options)));
}

#[test]
fn a_wrong_value_names_flag_variable_and_expectation() {
    let check = |arguments: &[&str], expected: &[&str]| {
        let lines = parse(arguments).unwrap_err();
        assert_eq!(lines, expected, "{arguments:?}");
    };
    check(
        &["--outbound-port=0", "--proxy-mark=0", "--skip-outbound-cidrs=10.0.0.0/33,x"],
        &[
            "--outbound-port (WEFT_OUTBOUND_PORT): \"0\" is not a port from 1 to 65535",
            "--proxy-mark (WEFT_PROXY_MARK): \"0\" is not a socket mark from 1 to 0xffffffff or \"none\"",
            "--skip-outbound-cidrs (WEFT_SKIP_OUTBOUND_CIDRS): \"10.0.0.0/33\" is not an address or a network such as \
             10.0.0.0/8 or 2001:db8::/32",
            "--skip-outbound-cidrs (WEFT_SKIP_OUTBOUND_CIDRS): \"x\" is not an address or a network such as \
             10.0.0.0/8 or 2001:db8::/32",
        ],
    );
    check(
        &["--skip-inbound-ports=9-8"],
        &["--skip-inbound-ports (WEFT_SKIP_INBOUND_PORTS): \"9-8\" is not a port or a range such as 8000-8100"],
    );
    check(&["--proxy-uid=4294967295"], &["--proxy-uid (WEFT_PROXY_UID): \"4294967295\" is not a user id or \"none\""]);
    check(
        &["--skip-outbound-cidrs=::ffff:10.0.0.0/104"],
        &["--skip-outbound-cidrs (WEFT_SKIP_OUTBOUND_CIDRS): \"::ffff:10.0.0.0/104\" is not an address or a network \
           such as 10.0.0.0/8 or 2001:db8::/32"],
    );
    check(
        &["--proxy-uid=none"],
        &["the proxy's own connections must be told apart by --proxy-uid (WEFT_PROXY_UID) or --proxy-mark \
           (WEFT_PROXY_MARK)"],
    );
    check(
        &["--admin-port=14001"],
        &["three different ports are expected: --outbound-port (WEFT_OUTBOUND_PORT), --inbound-port \
           (WEFT_INBOUND_PORT), --admin-port (WEFT_ADMIN_PORT)"],
    );
    check(
        &["--dry-run", "--remove"],
        &["at most one of these may be set: --dry-run (WEFT_DRY_RUN), --remove (WEFT_REMOVE)"],
    );
    check(&["--remove=maybe"], &["--remove (WEFT_REMOVE): \"maybe\" is not true or false"]);
}

#[test]
fn what_to_do_is_one_thing() {
    let check = |arguments: &[&str], expected| assert_eq!(parse(arguments).unwrap().0, expected, "{arguments:?}");
    check(&["--remove"], Action::Remove);
    check(&["--no-prove"], Action::Apply);
    check(&["--prove-only"], Action::Prove);
    check(&["--dry-run=true", "--remove=false"], Action::Render);
}

#[test]
fn a_list_has_a_bound() {
    let ports: Vec<String> = (1..=129).map(|port: u16| port.to_string()).collect();
    let lines = parse(&[&format!("--skip-inbound-ports={}", ports.join(","))]).unwrap_err();
    assert_eq!(lines, ["--skip-inbound-ports (WEFT_SKIP_INBOUND_PORTS): 129 entries are more than 128"]);
}

fn parse(arguments: &[&str]) -> Result<(Action, Options), Vec<String>> {
    let arguments = std::iter::once("weft-init").chain(arguments.iter().copied()).map(OsString::from);
    let raw = Raw::try_parse_from(arguments).map_err(|error| vec![error.to_string()])?;
    raw.resolve().map_err(|errors| errors.lines)
}
