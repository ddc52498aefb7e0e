//! The program, and what it writes beside what `nft` makes of the text that it prints.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::process::{Command, Output, Stdio};

use weft_init::{Options, apply, prove, remove, render};
use weft_model::PortRange;

use crate::world::{self, Neighbour, nft};

#[test]
fn the_kernel_holds_what_nft_makes_of_the_text() {
    world::each("program::the_kernel_holds_what_nft_makes_of_the_text", || {
        for options in [Options::default(), full(), longest()] {
            apply(&options).unwrap();
            let ours = ruleset();
            if options == longest() && !world::is_real_root() {
                // More than fits into the send buffer that nft leaves itself without CAP_NET_ADMIN over the machine.
                continue;
            }
            remove().unwrap();
            assert_eq!(nft(&["list", "ruleset"]), "");
            let file = std::env::temp_dir().join(format!("weft-init-{}.nft", std::process::id()));
            std::fs::write(&file, render(&options)).unwrap();
            // Twice, as it replaces what is there.
            for _ in 0..2 {
                nft(&["-f", file.to_str().unwrap()]);
            }
            std::fs::remove_file(&file).unwrap();
            let theirs = ruleset();
            nft(&["flush", "ruleset"]);
            assert!(ours == theirs, "--- netlink\n{}\n{}\n--- nft\n{}\n{}", ours.0, ours.1, theirs.0, theirs.1);
        }
    });
}

#[test]
fn the_ipv4_text_is_taken_by_nft() {
    world::each("program::the_ipv4_text_is_taken_by_nft", || {
        let text = include_str!("../../src/plan/golden/ipv4.nft");
        nft(&[text]);
        let listed = nft(&["-y", "list", "ruleset"]);
        assert_eq!(listed, text.split_once("delete table ip weft\n").unwrap().1);
    });
}

#[test]
fn the_program_sets_proves_and_removes() {
    world::each("program::the_program_sets_proves_and_removes", || {
        let _neighbour = Neighbour::new();
        let done = run(world::weft_init().arg("--skip-inbound-ports=22"));
        assert_eq!(done.0, 0, "{}", done.1);
        assert!(done.1.contains("IPv4: a connection to 192.0.2.1:"), "{}", done.1);
        let skipping = PortRange::new(22, 22).unwrap();
        prove(&Options { skip_inbound_ports: vec![skipping], ..Options::default() }).unwrap();
        // The same by a variable.
        assert_eq!(run(world::weft_init().arg("--prove-only").env("WEFT_SKIP_INBOUND_PORTS", "22")).0, 0);
        assert_eq!(run(world::weft_init().arg("--prove-only")).0, 70);
        assert_eq!(run(world::weft_init().arg("--remove")).0, 0);
        assert_eq!(nft(&["list", "ruleset"]), "");
    });
}

#[test]
fn behind_the_proxy_the_program_waits_until_it_is_ready() {
    world::each("program::behind_the_proxy_the_program_waits_until_it_is_ready", || {
        let _neighbour = Neighbour::new();
        let mut child = world::weft_init().arg("--until-ready").stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("waiting for the proxy to be ready: Connection refused"), "{line}");
        assert!(nft(&["list", "ruleset"]).contains("weft"), "nothing passes meanwhile");
        let proxy = ["127.0.0.1:14001", "[::1]:14001"].map(|addr| TcpListener::bind(addr).unwrap());
        let admin = TcpListener::bind("127.0.0.1:14003").unwrap();
        let (asked, _) = admin.accept().unwrap();
        // All of the question: closing what has unread bytes is a reset.
        let question = BufReader::new(&asked).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        assert_eq!(question.count(), 3, "a line, a host and that the connection ends");
        (&asked).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        drop(asked);
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().success(), "{rest}");
        assert!(rest.contains("set and proven") && rest.contains("IPv4: a connection to 192.0.2.1:"), "{rest}");
        drop(proxy);
    });
}

#[test]
fn a_dry_run_prints_and_changes_nothing() {
    world::each("program::a_dry_run_prints_and_changes_nothing", || {
        let done = run(world::weft_init().arg("--dry-run"));
        assert_eq!(done, (0, render(&Options::default())));
        assert_eq!(nft(&["list", "ruleset"]), "");
    });
}

#[test]
fn each_failure_has_its_exit_code() {
    world::each("program::each_failure_has_its_exit_code", || {
        let (code, text) = run(world::weft_init().env("WEFT_ADMIN_PORT", "no").arg("--inbound-port=0"));
        assert_eq!(code, 64);
        assert!(text.contains("--inbound-port (WEFT_INBOUND_PORT): \"0\" is not a port"), "{text}");
        assert!(text.contains("--admin-port (WEFT_ADMIN_PORT): \"no\" is not a port"), "{text}");
        assert_eq!(run(world::weft_init().arg("--nonsense")).0, 64);
        let (code, text) = run(&mut world::weft_init());
        assert_eq!(code, 70, "{text}");
        assert!(text.contains("the interface lo is down"), "{text}");
        let program = world::weft_init();
        let mut powerless = Command::new("setpriv");
        powerless.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(program.get_program());
        let (code, text) = run(&mut powerless);
        assert_eq!(code, 77, "{text}");
        assert!(text.contains("CAP_NET_ADMIN"), "{text}");
    });
}

/// The ruleset as text and as the kernel's own steps, the latter without handles.
fn ruleset() -> (String, String) {
    let steps = nft(&["--debug=netlink", "list", "ruleset"]);
    let steps: Vec<&str> =
        steps
            .lines()
            .map(|line| {
                if line.starts_with("inet ") {
                    line.trim_end_matches(|c: char| c.is_numeric() || c == ' ')
                } else {
                    line
                }
            })
            .collect();
    (nft(&["list", "ruleset"]), steps.join("\n"))
}

fn full() -> Options {
    Options {
        proxy_mark: NonZeroU32::new(0x1234_5678),
        skip_inbound_ports: vec![PortRange::new(22, 22).unwrap(), PortRange::new(9000, 9100).unwrap()],
        skip_outbound_ports: vec![PortRange::new(25, 25).unwrap(), PortRange::new(1, u16::MAX).unwrap()],
        skip_outbound_cidrs: [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.0.2.0/24",
            "192.0.2.64/26",
            "198.51.100.7/32",
            "::/0",
            "2000::/3",
            "2001:db8::/32",
            "2001:db8::/33",
            "2001:db8::4:0/127",
            "fd00::1/128",
        ]
        .map(|network| network.parse().unwrap())
        .to_vec(),
        ..Options::default()
    }
}

/// As long as the program allows.
fn longest() -> Options {
    let ranges = || (1..=128).map(|port| PortRange::new(port * 2, port * 2 + 1).unwrap()).collect();
    Options {
        skip_inbound_ports: ranges(),
        skip_outbound_ports: ranges(),
        skip_outbound_cidrs: (0..128).map(|index| format!("2001:db8:{index:x}::/49").parse().unwrap()).collect(),
        ..Options::default()
    }
}

/// Exit code and output.
fn run(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}
