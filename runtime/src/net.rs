//! Listening sockets of the pages and services beside the data path.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections the kernel holds ready: people, Prometheus, probes, and on a control plane its proxies coming
/// back all at once.
const BACKLOG: i32 = 1024;

/// Linux' number for "address family not supported by protocol": a kernel without IPv6.
const EAFNOSUPPORT: i32 = 97;

/// Binds and listens, not blocking. `[::]` takes IPv6 alone, so that it stands beside `0.0.0.0`.
///
/// # Errors
/// What the system says: the address is in use, not ours, or its family does not exist here.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds all addresses. An IPv6 address is left out where the kernel has no IPv6, if another one could be bound.
///
/// # Errors
/// The first failure, naming its address.
pub fn listen_all(addrs: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(addrs.len());
    let mut without_ipv6 = None;
    for addr in addrs {
        match listen(*addr) {
            Ok(listener) => listeners.push(listener),
            Err(error) if addr.is_ipv6() && is_without_ipv6(&error) => without_ipv6 = Some(named(*addr, &error)),
            Err(error) => return Err(named(*addr, &error)),
        }
    }
    match without_ipv6 {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

fn named(addr: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::listen_all;

    #[test]
    fn both_families_share_a_port() {
        let first = listen_all(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let port = first[0].local_addr().unwrap().port();
        drop(first);
        let addrs = [([0, 0, 0, 0], port).into(), (std::net::Ipv6Addr::UNSPECIFIED, port).into()];
        assert!(!listen_all(&addrs).unwrap().is_empty());
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = listen_all(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let addr = taken[0].local_addr().unwrap();
        let error = listen_all(&[addr]).unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()), "{error}");
    }
}
