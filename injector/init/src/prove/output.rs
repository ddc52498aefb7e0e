//! The connection that proves OUTPUT: we listen where the proxy will, connect to an address that nobody has, and must
//! get our own connection, with that address as its original destination.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use weft_model::OriginalDst;

use super::target::{self, Choice};
use super::{Evidence, ProofError};
use crate::options::Options;

/// A redirected connection is established at once: it never leaves. Two tries of the kernel fit in.
const CONNECT_WAIT: Duration = Duration::from_millis(2_500);
/// The connection is established by then, so it waits in the queue already.
const ACCEPT_WAIT: Duration = Duration::from_secs(1);
/// Others' connections that may stand in the queue before ours: the application's, if it already runs.
const STRANGERS_MAX: usize = 64;

/// Where OUTPUT turns connections to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loopback {
    V4,
    V6,
}

impl Loopback {
    pub(super) const fn address(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }
}

/// Tries one family.
pub(super) fn prove(options: &Options, family: Loopback) -> Result<Evidence, ProofError> {
    let target = match target::choose(options, family)? {
        Choice::Skipped => return Ok(Evidence::Skipped),
        Choice::Target(target) => target,
        Choice::Unroutable => return Ok(Evidence::Unroutable),
    };
    let port = options.outbound_port.get();
    let listener = match listen(SocketAddr::new(family.address(), port)) {
        Ok(listener) => Some(listener),
        Err(source) if source.kind() == io::ErrorKind::AddrInUse => None,
        Err(source) => return Err(ProofError::NoLoopback { address: family.address(), port, source }),
    };
    let escaped = |source| ProofError::Escaped { target, port, source };
    let client = connect(target).map_err(escaped)?;
    let Some(listener) = listener else {
        return Ok(Evidence::Answered(target));
    };
    let ours = local_address(&client).map_err(escaped)?;
    let arrived = accept_from(&listener, ours).map_err(escaped)?;
    let named = original_destination(&arrived, family).map_err(escaped)?;
    if named == target { Ok(Evidence::Caught(target)) } else { Err(ProofError::WrongDestination { target, named }) }
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(i32::try_from(STRANGERS_MAX).unwrap_or(i32::MAX))?;
    // Linux lets this bound accept, too.
    socket.set_read_timeout(Some(ACCEPT_WAIT))?;
    Ok(socket)
}

fn connect(target: OriginalDst) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target.0), Type::STREAM, None)?;
    // Closed by a reset, so that no closed connection holds the port when the proxy comes.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&SockAddr::from(target.0), CONNECT_WAIT)?;
    Ok(socket)
}

/// The next connection in the queue that comes from this address.
fn accept_from(listener: &Socket, client: SocketAddr) -> io::Result<Socket> {
    for _ in 0..STRANGERS_MAX {
        let (arrived, peer) = listener.accept()?;
        if peer.as_socket().is_some_and(|peer| peer.ip() == client.ip() && peer.port() == client.port()) {
            return Ok(arrived);
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "only connections of others arrived"))
}

fn original_destination(arrived: &Socket, family: Loopback) -> io::Result<OriginalDst> {
    let address = match family {
        Loopback::V4 => arrived.original_dst_v4()?,
        Loopback::V6 => arrived.original_dst_v6()?,
    };
    address.as_socket().map(OriginalDst).ok_or_else(|| io::Error::other("no address of the internet"))
}

pub(super) fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no address of the internet"))
}
