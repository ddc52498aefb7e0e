//! The addresses of this network namespace, read from the kernel and kept for a while.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::time::Instant;
use weft_runtime::Live;

/// How soon an address that was not known is looked for again: a pod may get one late, a stranger may ask often.
const REREAD: Duration = Duration::from_secs(1);

/// What addresses are ours.
#[derive(Debug)]
pub(crate) struct LocalAddrs {
    known: Live<BTreeSet<IpAddr>>,
    /// When they were last read; a short critical section, never across an await.
    read_at: Mutex<Option<Instant>>,
}

impl LocalAddrs {
    /// Reads them.
    pub(crate) fn new() -> Self {
        Self { known: Live::new(read()), read_at: Mutex::new(None) }
    }

    /// Whether `ip` is ours. **Cost:** a set lookup; a miss reads the interfaces again, at most once a second.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.known.get().contains(&ip) || (self.reread() && self.known.get().contains(&ip))
    }

    /// The addresses that others can reach us by.
    pub(crate) fn reachable(&self) -> Vec<IpAddr> {
        self.known.get().iter().filter(|ip| !ip.is_loopback()).copied().collect()
    }

    fn reread(&self) -> bool {
        let now = Instant::now();
        let Ok(mut read_at) = self.read_at.lock() else { return false };
        if read_at.is_some_and(|at| now.saturating_duration_since(at) < REREAD) {
            return false;
        }
        *read_at = Some(now);
        self.known.publish(read());
        true
    }
}

fn read() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return BTreeSet::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        // fe80::/10 is never captured (semantics 1).
        v4.or_else(v6).filter(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()))
    };
    interfaces.filter_map(address).collect()
}
