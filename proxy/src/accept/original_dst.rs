//! Where a redirected connection was going, as the kernel's connection tracking remembers it.

use std::io;

use socket2::SockRef;
use tokio::net::TcpStream;
use weft_model::OriginalDst;

/// Tells where a connection was going. Two of them: the kernel, and a fixed answer for tests.
pub(crate) trait OriginalDstSource {
    /// The destination before redirection.
    ///
    /// # Errors
    /// The kernel does not know the connection: it was not redirected.
    fn original_dst(&self, tcp: &TcpStream) -> io::Result<OriginalDst>;
}

/// `SO_ORIGINAL_DST` (`linux/netfilter_ipv4.h`, `linux/netfilter_ipv6/ip6_tables.h`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel;

impl OriginalDstSource for Kernel {
    fn original_dst(&self, tcp: &TcpStream) -> io::Result<OriginalDst> {
        let socket = SockRef::from(tcp);
        let addr = if tcp.local_addr()?.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
        addr.as_socket().map(OriginalDst).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
    }
}
