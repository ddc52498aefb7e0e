//! Where the proving connection goes: to an address that nobody has, if one is routed; else to a neighbour's, which is
//! as good while the redirect works, for then nothing leaves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use weft_model::OriginalDst;

use super::ProofError;
use super::output::Loopback;
use crate::options::Options;

/// For documentation (RFC 5737, RFC 3849, RFC 9637): no host has them. Several, as one may be in a skipped network.
const NOBODY_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(203, 0, 113, 1)];
/// See [`NOBODY_V4`].
const NOBODY_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 1)];

/// What there is to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Skipped,
    Target(OriginalDst),
    Unroutable,
}

/// Finds an address that is routed and not skipped, and a port that is not skipped.
pub(super) fn choose(options: &Options, family: Loopback) -> Result<Choice, ProofError> {
    let nobody: Vec<IpAddr> = match family {
        Loopback::V4 => NOBODY_V4.map(IpAddr::V4).to_vec(),
        Loopback::V6 => NOBODY_V6.map(IpAddr::V6).to_vec(),
    };
    let own: Vec<IpNet> = interfaces()?.iter().filter_map(network).collect();
    let neighbours = own.iter().filter(|net| net.addr().is_ipv4() == (family == Loopback::V4));
    let neighbours = neighbours.filter_map(|net| neighbour(*net, &own));
    let routed: Vec<IpAddr> = nobody.into_iter().chain(neighbours).filter(|address| is_routed(*address)).collect();
    let captured =
        routed.iter().find(|address| !options.skip_outbound_cidrs.iter().any(|skipped| skipped.contains(*address)));
    let Some(address) = captured else {
        return Ok(if routed.is_empty() { Choice::Unroutable } else { Choice::Skipped });
    };
    let start = random_port().map_err(|source| socket_error("pick a port", source))?;
    Ok(captured_port(options, start)
        .map_or(Choice::Skipped, |port| Choice::Target(OriginalDst(SocketAddr::new(*address, port)))))
}

/// Whether `lo` is up; a new namespace has it down.
pub(super) fn loopback_is_up() -> Result<bool, ProofError> {
    let up = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_UP;
    Ok(interfaces()?.iter().any(|interface| interface.flags.contains(up)))
}

fn interfaces() -> Result<Vec<InterfaceAddress>, ProofError> {
    let listed = getifaddrs().map_err(|source| socket_error("list the interfaces", source.into()))?;
    Ok(listed.collect())
}

/// A datagram socket's connect asks the routing table and sends nothing.
fn is_routed(address: IpAddr) -> bool {
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let route = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    // From a loopback or link-local address the connection would be one that is never captured, or reach nobody.
    route.is_ok_and(|local| !local.ip().is_loopback() && !is_link_local(local.ip()))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The interface's own address with its prefix; none for loopback and link-local ones.
fn network(interface: &InterfaceAddress) -> Option<IpNet> {
    let address = interface.address?;
    let netmask = interface.netmask?;
    let net = match (address.as_sockaddr_in(), netmask.as_sockaddr_in()) {
        (Some(v4), Some(mask)) => IpNet::V4(Ipv4Net::with_netmask(v4.ip(), mask.ip()).ok()?),
        _ => {
            let (v6, mask) = (address.as_sockaddr_in6()?, netmask.as_sockaddr_in6()?);
            IpNet::V6(Ipv6Net::with_netmask(v6.ip(), mask.ip()).ok()?)
        }
    };
    (!net.addr().is_loopback() && !is_link_local(net.addr())).then_some(net)
}

/// Another address in this network: neither ours nor the network's nor its broadcast's.
fn neighbour(net: IpNet, own: &[IpNet]) -> Option<IpAddr> {
    let flip = |bits: u8| match net.addr() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() ^ u32::from(bits))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() ^ u128::from(bits))),
    };
    let two_hosts = net.max_prefix_len() - net.prefix_len() <= 1;
    let usable = |address: &IpAddr| {
        let edge = !two_hosts && (*address == net.network() || *address == net.broadcast());
        net.contains(address) && !edge && !own.iter().any(|mine| mine.addr() == *address)
    };
    (1..=7).map(flip).find(usable)
}

/// The kernel's choice of a free port is random enough that nobody expects the connection.
fn random_port() -> io::Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The first port from there on that no option skips.
fn captured_port(options: &Options, start: u16) -> Option<u16> {
    (start..=u16::MAX).chain(1..start).find(|port| !options.skip_outbound_ports.iter().any(|skip| skip.contains(*port)))
}

fn socket_error(attempt: &'static str, source: io::Error) -> ProofError {
    ProofError::Socket { attempt, source }
}

#[cfg(test)]
mod tests {
    use weft_model::PortRange;

    use super::{IpNet, captured_port, neighbour};
    use crate::options::Options;

    #[test]
    fn a_neighbour_is_another_host_of_the_network() {
        let check = |own: &[&str], expected: Option<&str>| {
            let own: Vec<IpNet> = own.iter().map(|net| net.parse().unwrap()).collect();
            assert_eq!(neighbour(own[0], &own), expected.map(|address| address.parse().unwrap()), "{own:?}");
        };
        check(&["10.0.0.2/24"], Some("10.0.0.3"));
        check(&["10.0.0.1/24"], Some("10.0.0.3")); // 10.0.0.0 is the network
        check(&["10.0.0.254/24"], Some("10.0.0.252")); // .255 is the broadcast
        check(&["10.0.0.2/24", "10.0.0.3/24"], Some("10.0.0.1"));
        check(&["10.0.0.2/31"], Some("10.0.0.3"));
        check(&["10.0.0.2/32"], None);
        check(&["fd00::2/64"], Some("fd00::3"));
        check(&["fd00::2/128"], None);
    }

    #[test]
    fn a_skipped_port_is_not_tried() {
        let mut options = Options::default();
        assert_eq!(captured_port(&options, 40_000), Some(40_000));
        options.skip_outbound_ports = vec![PortRange::new(40_000, u16::MAX).unwrap()];
        assert_eq!(captured_port(&options, 40_000), Some(1));
        options.skip_outbound_ports = vec![PortRange::new(1, u16::MAX).unwrap()];
        assert_eq!(captured_port(&options, 40_000), None);
    }
}
