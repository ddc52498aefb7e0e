//! What is captured and what is not.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::unix::process::CommandExt;
use std::process::Command;

use weft_init::{Options, apply, remove};
use weft_model::PortRange;

use crate::wire::{
    accept, assert_quiet, assert_unanswered, connect, connect_marked, is_reset, listen, listen_anywhere,
    listen_loopback, original_destination, raw, send_stray,
};
use crate::world::{self, Neighbour, families, ip};

const OUTBOUND: u16 = 14_001;
const INBOUND: u16 = 14_002;
const ADMIN: u16 = 14_003;
const MARK: u32 = 0x77;

#[test]
fn an_outgoing_connection_is_captured() {
    world::each("capture::an_outgoing_connection_is_captured", || {
        let _neighbour = Neighbour::new();
        apply(&Options::default()).unwrap();
        for target in ["192.0.2.9:80", "10.77.0.2:443", "[2001:db8::9]:80", "[fd77::2]:14001"] {
            assert_captured(target.parse().unwrap());
        }
    });
}

#[test]
fn the_proxys_own_connections_pass_by_mark() {
    world::each("capture::the_proxys_own_connections_pass_by_mark", || {
        let neighbour = Neighbour::new();
        apply(&Options { proxy_mark: NonZeroU32::new(MARK), ..Options::default() }).unwrap();
        for (_, there) in families() {
            let target = SocketAddr::new(there, 8080);
            let server = neighbour.run(move || listen(target));
            let client = connect_marked(target, MARK);
            assert_eq!(accept(&server).1, client.local_addr().unwrap().as_socket().unwrap());
            assert_captured(target);
        }
    });
}

#[test]
fn the_proxys_own_connections_pass_by_user() {
    world::each("capture::the_proxys_own_connections_pass_by_user", || {
        let neighbour = Neighbour::new();
        for (_, there) in families() {
            let target = SocketAddr::new(there, 8080);
            let server = neighbour.run(move || listen(target));
            apply(&Options::default()).unwrap();
            assert_captured(target);
            if world::is_real_root() {
                let script = format!("exec 3<>/dev/tcp/{}/{}", target.ip(), target.port());
                let status = Command::new("bash").arg("-c").arg(script).uid(2140).gid(2140).status().unwrap();
                assert!(status.success());
                accept(&server);
            }
            // In a user namespace of one user, that user is all that can be tried.
            apply(&Options { proxy_uid: Some(0), ..Options::default() }).unwrap();
            assert_passes(&server, target);
        }
    });
}

#[test]
fn skipped_ports_and_networks_pass() {
    world::each("capture::skipped_ports_and_networks_pass", || {
        let neighbour = Neighbour::new();
        for (_, there) in families() {
            let [one, first, last, beyond] = [8080, 9000, 9100, 9101].map(|port| SocketAddr::new(there, port));
            let servers = neighbour.run(move || [one, first, last, beyond].map(listen));
            let ports = vec![PortRange::new(8080, 8080).unwrap(), PortRange::new(9000, 9100).unwrap()];
            apply(&Options { skip_outbound_ports: ports, ..Options::default() }).unwrap();
            for (server, target) in servers.iter().zip([one, first, last]) {
                assert_passes(server, target);
            }
            assert_captured(beyond);
            for (network, passes) in
                [("10.77.0.0/24", true), ("10.77.0.0/23", true), ("10.77.0.2/32", true), ("10.77.0.3/32", false)]
                    .into_iter()
                    .chain([("fd77::/64", true), ("fd77::/63", true), ("fd77::2/128", true), ("fd77::3/128", false)])
                    .chain([("0.0.0.0/0", true), ("::/0", true)])
                    .filter(|(network, _)| network.contains(':') == there.is_ipv6())
            {
                let networks = vec![network.parse().unwrap()];
                apply(&Options { skip_outbound_cidrs: networks, ..Options::default() }).unwrap();
                if passes { assert_passes(&servers[3], beyond) } else { assert_captured(beyond) }
            }
        }
    });
}

#[test]
fn loopback_is_not_captured() {
    world::each("capture::loopback_is_not_captured", || {
        let _neighbour = Neighbour::new();
        apply(&Options::default()).unwrap();
        for target in ["127.0.0.1:8080", "10.77.0.1:8080", "[::1]:8080", "[fd77::1]:8080"] {
            let target = target.parse().unwrap();
            assert_passes(&listen(target), target);
        }
    });
}

#[test]
fn link_local_is_not_captured() {
    world::each("capture::link_local_is_not_captured", || {
        let neighbour = Neighbour::new();
        apply(&Options::default()).unwrap();
        let metadata: SocketAddr = "169.254.169.254:80".parse().unwrap();
        let server = neighbour.run(move || {
            ip("addr add 169.254.169.254/32 dev neighbour");
            listen(metadata)
        });
        assert_passes(&server, metadata);
        let server = neighbour.run(|| listen("[::]:81".parse().unwrap()));
        let index = nix::net::if_::if_nametoindex("pod").unwrap();
        let scoped = std::net::SocketAddrV6::new("fe80::2".parse().unwrap(), 81, 0, index);
        assert_passes(&server, scoped.into());
    });
}

#[test]
fn what_comes_in_is_captured() {
    world::each("capture::what_comes_in_is_captured", || {
        let neighbour = Neighbour::new();
        let skipped = PortRange::new(2222, 2222).unwrap();
        apply(&Options { skip_inbound_ports: vec![skipped], ..Options::default() }).unwrap();
        for (pod, _) in families() {
            let proxy = listen_anywhere(pod, INBOUND);
            for port in [8080, INBOUND, OUTBOUND] {
                let target = SocketAddr::new(pod, port);
                let client = neighbour.run(move || connect(target));
                let (arrived, peer) = accept(&proxy);
                assert_eq!(peer, client.local_addr().unwrap().as_socket().unwrap());
                assert_eq!(original_destination(&arrived, pod), target);
            }
            for port in [ADMIN, 2222] {
                let target = SocketAddr::new(pod, port);
                let server = listen(target);
                let client = neighbour.run(move || connect(target));
                assert_eq!(accept(&server).1, client.local_addr().unwrap().as_socket().unwrap());
            }
        }
    });
}

#[test]
fn a_foreign_address_is_not_captured() {
    world::each("capture::a_foreign_address_is_not_captured", || {
        let neighbour = Neighbour::new();
        apply(&Options::default()).unwrap();
        for target in ["203.0.113.5:8080", "[2001:db8::5]:8080"] {
            // The neighbour's default route leads to the pod.
            let target: SocketAddr = target.parse().unwrap();
            let proxy = listen_anywhere(target.ip(), INBOUND);
            neighbour.run(move || assert_unanswered(target));
            assert_quiet(&proxy);
        }
    });
}

#[test]
fn invalid_packets_of_captured_connections_are_dropped() {
    world::each("capture::invalid_packets_of_captured_connections_are_dropped", || {
        let neighbour = Neighbour::new();
        let options = Options {
            proxy_mark: NonZeroU32::new(MARK),
            skip_inbound_ports: vec![PortRange::new(2222, 2222).unwrap()],
            skip_outbound_ports: vec![PortRange::new(25, 25).unwrap()],
            ..Options::default()
        };
        for (pod, there) in families() {
            remove().unwrap();
            assert!(is_incoming_answered(&neighbour, there, SocketAddr::new(pod, 8080), 40_000));
            apply(&options).unwrap();
            let incoming = |port, from| is_incoming_answered(&neighbour, there, SocketAddr::new(pod, port), from);
            assert!(!incoming(8080, 40_001), "for a captured port");
            assert!(incoming(2222, 40_002), "for a skipped port");
            assert!(incoming(8081, 25), "from a skipped port: the answer to a connection that passed");
            let outgoing = |from, port, mark| {
                let socket = raw(pod);
                socket.set_mark(mark).unwrap();
                send_stray(&socket, SocketAddr::new(pod, from), SocketAddr::new(there, port)).is_ok()
            };
            assert!(!outgoing(40_003, 80, 0), "to a captured port");
            assert!(!outgoing(INBOUND, 40_004, MARK), "the proxy's, for a connection that came in");
            assert!(outgoing(40_005, 80, MARK), "the proxy's own");
            assert!(outgoing(40_006, 25, 0), "to a skipped port");
            assert!(outgoing(2222, 40_007, 0), "from a skipped port");
        }
    });
}

#[test]
fn applying_again_replaces_and_removing_removes() {
    world::each("capture::applying_again_replaces_and_removing_removes", || {
        let neighbour = Neighbour::new();
        world::nft(&["add table inet other; add chain inet other mine"]);
        let skipping = vec![PortRange::new(8080, 8080).unwrap()];
        for (_, there) in families() {
            let target = SocketAddr::new(there, 8080);
            let server = neighbour.run(move || listen(target));
            apply(&Options { skip_outbound_ports: skipping.clone(), ..Options::default() }).unwrap();
            assert_passes(&server, target);
            apply(&Options::default()).unwrap();
            assert_captured(target);
            remove().unwrap();
            assert_passes(&server, target);
            remove().unwrap();
        }
        let left = world::nft(&["list", "ruleset"]);
        assert_eq!(left, "table inet other {\n\tchain mine {\n\t}\n}\n");
    });
}

/// A connection to there arrives at the outbound port, with its destination.
fn assert_captured(target: SocketAddr) {
    let proxy = listen_loopback(target.ip(), OUTBOUND);
    let client = connect(target);
    let (arrived, peer) = accept(&proxy);
    assert_eq!(peer, client.local_addr().unwrap().as_socket().unwrap());
    assert_eq!(original_destination(&arrived, target.ip()), target);
}

/// A connection to there arrives there.
fn assert_passes(server: &socket2::Socket, target: SocketAddr) {
    let client = connect(target);
    let ours = client.local_addr().unwrap().as_socket().unwrap();
    let peer = accept(server).1;
    assert_eq!((peer.ip(), peer.port()), (ours.ip(), ours.port()));
}

/// Whether the pod answers an invalid packet from the neighbour with a reset.
fn is_incoming_answered(neighbour: &Neighbour, there: IpAddr, target: SocketAddr, from: u16) -> bool {
    neighbour.run(move || {
        let socket = raw(there);
        send_stray(&socket, SocketAddr::new(there, from), target).unwrap();
        is_reset(&socket, target)
    })
}
