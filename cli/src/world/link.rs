//! The words a world needs of rtnetlink, each in the network namespace of the calling thread.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use anyhow::Context as _;

use super::netlink::Request;

/// Index of `lo` in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// From `linux/veth.h`: the other end, a link of its own.
const VETH_INFO_PEER: u16 = 1;

/// From `linux/if_link.h`: what a port of a bridge is told.
const IFLA_BRPORT_STATE: u16 = 1;

/// From `linux/if_bridge.h`.
const BR_STATE_DISABLED: u8 = 0;
const BR_STATE_FORWARDING: u8 = 3;

/// A pair of joined links: one end a port of a bridge here, the other in another namespace.
pub(super) struct Veth<'a> {
    pub(super) index: u32,
    pub(super) name: &'a str,
    /// Index of the bridge.
    pub(super) bridge: u32,
    pub(super) peer_index: u32,
    pub(super) peer_name: &'a str,
    pub(super) peer_namespace: BorrowedFd<'a>,
}

/// Whether this kernel speaks IPv6 at all.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

pub(super) fn create_bridge(index: u32, name: &str) -> anyhow::Result<()> {
    let request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &link(index, 0))
        .text(libc::IFLA_IFNAME, name)
        .nested(libc::IFLA_LINKINFO, &[], |info| info.text(libc::IFLA_INFO_KIND, "bridge"));
    request.send().with_context(|| format!("creating bridge {name}"))
}

pub(super) fn create_veth(veth: &Veth<'_>) -> anyhow::Result<()> {
    let namespace = veth.peer_namespace.as_raw_fd().to_ne_bytes();
    let peer = |peer: Request| peer.text(libc::IFLA_IFNAME, veth.peer_name).attribute(libc::IFLA_NET_NS_FD, &namespace);
    let request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &link(veth.index, 0))
        .text(libc::IFLA_IFNAME, veth.name)
        .attribute(libc::IFLA_MASTER, &veth.bridge.to_ne_bytes())
        .nested(libc::IFLA_LINKINFO, &[], |info| {
            let info = info.text(libc::IFLA_INFO_KIND, "veth");
            info.nested(libc::IFLA_INFO_DATA, &[], |data| data.nested(VETH_INFO_PEER, &link(veth.peer_index, 0), peer))
        });
    request.send().with_context(|| format!("creating veth {}", veth.name))
}

pub(super) fn set_up(index: u32) -> anyhow::Result<()> {
    let up = u32::try_from(libc::IFF_UP).context("IFF_UP")?;
    Request::new(libc::RTM_NEWLINK, 0, &link(index, up)).send().with_context(|| format!("setting link {index} up"))
}

/// Whether a port of a bridge passes frames.
pub(super) fn set_forwarding(index: u32, forwarding: bool) -> anyhow::Result<()> {
    let state = if forwarding { BR_STATE_FORWARDING } else { BR_STATE_DISABLED };
    let mut fixed = link(index, 0);
    if let Some(family) = fixed.first_mut() {
        *family = u8::try_from(libc::AF_BRIDGE).context("AF_BRIDGE")?;
    }
    let request = Request::new(libc::RTM_SETLINK, 0, &fixed);
    let request =
        request.nested(libc::IFLA_PROTINFO | nested_flag(), &[], |port| port.attribute(IFLA_BRPORT_STATE, &[state]));
    request.send().with_context(|| format!("changing port {index} of the bridge"))
}

/// Adds an address that may be used at once: in a world that we made nobody else can have it, so nobody is asked.
pub(super) fn add_address(index: u32, address: IpAddr, prefix_len: u8) -> anyhow::Result<()> {
    let (family, bytes) = encode(address);
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut fixed = vec![family, prefix_len, u8::try_from(libc::IFA_F_NODAD).context("IFA_F_NODAD")?, 0];
    fixed.extend_from_slice(&index.to_ne_bytes());
    let request = Request::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &fixed)
        .attribute(libc::IFA_LOCAL, &bytes)
        .attribute(libc::IFA_ADDRESS, &bytes);
    request.send().with_context(|| format!("adding address {address}"))
}

pub(super) fn add_default_route(index: u32, gateway: IpAddr) -> anyhow::Result<()> {
    let (family, bytes) = encode(gateway);
    // struct rtmsg: family, destination and source lengths, type of service, table, protocol, scope, type, flags.
    let fixed = [
        family,
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let request = Request::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &fixed)
        .attribute(libc::RTA_GATEWAY, &bytes)
        .attribute(libc::RTA_OIF, &index.to_ne_bytes());
    request.send().with_context(|| format!("adding a default route by {gateway}"))
}

/// `struct ifinfomsg`: family, type, index, flags, and which of the flags are meant.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [index, flags, flags] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn nested_flag() -> u16 {
    u16::try_from(libc::NLA_F_NESTED).unwrap_or_default()
}

fn encode(address: IpAddr) -> (u8, Vec<u8>) {
    // The constants are 2 and 10.
    let family = |family: libc::c_int| u8::try_from(family).unwrap_or_default();
    match address {
        IpAddr::V4(address) => (family(libc::AF_INET), address.octets().to_vec()),
        IpAddr::V6(address) => (family(libc::AF_INET6), address.octets().to_vec()),
    }
}
