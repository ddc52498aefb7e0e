//! Sockets of the tests: connections that either arrive or do not within a short time, and single packets.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// For what must arrive.
const LONG: Duration = Duration::from_secs(5);
/// For what must not.
const SHORT: Duration = Duration::from_millis(400);

/// A listener on this address, also where connections are turned to.
pub(crate) fn listen(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SockAddr::from(address)).unwrap_or_else(|error| panic!("listen on {address}: {error}"));
    socket.listen(16).unwrap();
    socket
}

/// A listener on this port for the family of `like`: on loopback, or on every address.
pub(crate) fn listen_loopback(like: IpAddr, port: u16) -> Socket {
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    listen(SocketAddr::new(if like.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { v6 }, port))
}

/// See [`listen_loopback`].
pub(crate) fn listen_anywhere(like: IpAddr, port: u16) -> Socket {
    let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    listen(SocketAddr::new(if like.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { v6 }, port))
}

/// An established connection.
pub(crate) fn connect(to: SocketAddr) -> Socket {
    dial(to, None, LONG).unwrap_or_else(|error| panic!("connect to {to}: {error}"))
}

/// An established connection of a socket with this mark.
pub(crate) fn connect_marked(to: SocketAddr, mark: u32) -> Socket {
    dial(to, Some(mark), LONG).unwrap_or_else(|error| panic!("connect to {to} with a mark: {error}"))
}

/// That nothing answers there.
pub(crate) fn assert_unanswered(to: SocketAddr) {
    let answered = dial(to, None, SHORT);
    assert!(answered.is_err(), "{to} answered");
}

fn dial(to: SocketAddr, mark: Option<u32>, wait: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect_timeout(&SockAddr::from(to), wait)?;
    Ok(socket)
}

/// The connection that waits there, with its client's address.
pub(crate) fn accept(listener: &Socket) -> (Socket, SocketAddr) {
    listener.set_read_timeout(Some(LONG)).unwrap();
    let (socket, peer) = listener.accept().expect("a connection");
    (socket, peer.as_socket().unwrap())
}

/// That no connection arrived.
pub(crate) fn assert_quiet(listener: &Socket) {
    listener.set_read_timeout(Some(SHORT)).unwrap();
    let arrived = listener.accept();
    assert!(arrived.is_err(), "a connection from {:?} arrived", arrived.unwrap().1.as_socket());
}

/// Where a connection was going.
pub(crate) fn original_destination(socket: &Socket, like: IpAddr) -> SocketAddr {
    let address = if like.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    address.unwrap().as_socket().unwrap()
}

const FLAG_RST: u8 = 4;
const FLAGS_SYN_ACK: u8 = 18;

/// A raw TCP socket.
pub(crate) fn raw(like: IpAddr) -> Socket {
    let domain = if like.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::TCP)).unwrap();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    socket
}

/// Sends an answer that nobody asked for, which conntrack calls invalid. Refused where a filter drops it.
pub(crate) fn send_stray(socket: &Socket, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let mut segment = Vec::from(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, FLAGS_SYN_ACK, 0x10, 0, 0, 0, 0, 0]);
    let sum = checksum(from.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    socket.send_to(&segment, &SockAddr::from(SocketAddr::new(to.ip(), 0))).map(drop)
}

/// Whether a reset from there comes back.
pub(crate) fn is_reset(socket: &Socket, from: SocketAddr) -> bool {
    let mut packet = [0; 256];
    let mut reader = socket;
    while let Ok(length) = reader.read(&mut packet) {
        // Only IPv4 gives its own head, too.
        let head = if from.is_ipv4() { usize::from(packet[0] & 0xf) * 4 } else { 0 };
        let segment = &packet[head..length];
        if segment[..2] == from.port().to_be_bytes() && segment[13] & FLAG_RST != 0 {
            return true;
        }
    }
    false
}

/// RFC 1071 over pseudo header and segment.
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = u8::try_from(segment.len()).unwrap();
    let bytes = [octets(from), octets(to), vec![0, 6, 0, length], segment.to_vec()].concat();
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}
