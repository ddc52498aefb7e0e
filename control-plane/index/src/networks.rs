//! The mesh's networks. A proxy treats an address outside of them as outside the mesh, and speaks plaintext to it
//! without asking; so whatever address a resource names must lie inside. What the configured networks do not cover is
//! added block by block, and where that becomes too much for one answer, by wider networks that cover them all:
//! too wide costs a lookup, too narrow would cost the encryption.
//!
//! A block is an address with its neighbours. A pod that comes and goes among others then changes nothing for anybody, and one that has
//! just come is known as the mesh's before its address was told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use ipnet::{IpNet, Ipv4Net};
use weft_model::bounds::NETWORKS_MAX;

/// How many of an address's last bits count its neighbours: as many as a node commonly has pods.
const BLOCK_BITS: u8 = 8;

/// The mesh's networks.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    /// Without overlaps.
    configured: Vec<IpNet>,
    /// Addresses that resources name and that lie in none of those.
    outside: BTreeSet<IpAddr>,
    /// Counts what may have changed the cover.
    generation: u64,
    /// Made when it is asked for: many changes come at once, and are read once.
    cover: OnceLock<Cover>,
}

/// Networks in which every address lies that the mesh knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cover {
    pub(crate) networks: Vec<IpNet>,
    /// Whether more than those addresses had to be taken in.
    pub(crate) is_widened: bool,
}

impl Networks {
    /// Sets the configured networks; `named` is every address that a resource names.
    ///
    /// **Cost:** addresses times networks; only where the networks have changed.
    pub(crate) fn configure(&mut self, networks: impl Iterator<Item = IpNet>, named: impl Iterator<Item = IpAddr>) {
        let configured = IpNet::aggregate(&networks.map(canonical).collect());
        if configured == self.configured {
            return;
        }
        self.configured = configured;
        self.outside = named.filter(|ip| !self.covers(*ip)).collect();
        self.changed();
    }

    /// Takes note of whether any resource names an address.
    pub(crate) fn note(&mut self, ip: IpAddr, is_named: bool) {
        let changed = if is_named && !self.covers(ip) { self.outside.insert(ip) } else { self.outside.remove(&ip) };
        if changed && !self.has_neighbours(ip) {
            self.changed();
        }
    }

    /// Whether an address is in the mesh only because a resource names it.
    pub(crate) fn is_outside(&self, ip: IpAddr) -> bool {
        self.outside.contains(&ip)
    }

    /// How many addresses are in the mesh only because resources name them.
    pub(crate) fn outside(&self) -> usize {
        self.outside.len()
    }

    /// Counts what may have changed the cover.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Networks in which all of it lies, at most [`NETWORKS_MAX`].
    ///
    /// **Cost:** after a change, the addresses outside, and their blocks times their bits; else nothing.
    pub(crate) fn cover(&self) -> &Cover {
        self.cover.get_or_init(|| cover(&self.configured, &self.outside, NETWORKS_MAX))
    }

    /// Whether any other address of its block lies outside too.
    fn has_neighbours(&self, ip: IpAddr) -> bool {
        let block = block(ip);
        self.outside.range(block.network()..=block.broadcast()).any(|other| *other != ip)
    }

    fn covers(&self, ip: IpAddr) -> bool {
        self.configured.iter().any(|network| network.contains(&ip))
    }

    fn changed(&mut self) {
        self.generation += 1;
        self.cover = OnceLock::new();
    }
}

fn cover(configured: &[IpNet], outside: &BTreeSet<IpAddr>, max: usize) -> Cover {
    let mut all = configured.to_vec();
    all.extend(outside.iter().map(|ip| block(*ip)));
    // Neighbours come one after the other.
    all.dedup();
    let mut networks = IpNet::aggregate(&all);
    let is_widened = networks.len() > max;
    // By growing width, so that what lies close together is joined before what lies far apart. At the last width there
    // is one network for each family.
    for width in 1..=128 {
        if networks.len() <= max {
            break;
        }
        networks = joined(&networks, width, max);
    }
    Cover { networks, is_widened }
}

/// Joins neighbours that lie in one network of 2^`width` addresses, from the first on, until there are no more than
/// `max`. Networks that stand alone stay as they are. `networks` are sorted and do not overlap.
fn joined(networks: &[IpNet], width: u8, max: usize) -> Vec<IpNet> {
    let mut left = networks.len();
    let mut joined: Vec<IpNet> = Vec::with_capacity(left);
    for network in networks {
        let last = joined.last().copied();
        let wide = last.and_then(|last| if left > max { widened(last, width) } else { Some(last) });
        if let Some(wide) = wide.filter(|wide| wide.contains(network)) {
            left -= 1;
            joined.pop();
            joined.push(wide);
        } else {
            joined.push(*network);
        }
    }
    joined
}

/// An address with its neighbours.
fn block(ip: IpAddr) -> IpNet {
    let alone = IpNet::from(ip);
    widened(alone, BLOCK_BITS).unwrap_or(alone)
}

/// The network of 2^`width` addresses around another, if it is not larger already.
fn widened(network: IpNet, width: u8) -> Option<IpNet> {
    let len = network.max_prefix_len().checked_sub(width)?;
    let wide = IpNet::new(network.addr(), len.min(network.prefix_len())).ok()?;
    Some(wide.trunc())
}

/// A network as addresses are compared with it: an IPv4-mapped IPv6 one is one of IPv4, without host bits.
pub(crate) fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6.addr().to_ipv4_mapped().map(|ip| (ip, v6.prefix_len() - 96)),
        IpNet::V4(_) | IpNet::V6(_) => None,
    };
    let v4 = mapped.and_then(|(ip, len): (Ipv4Addr, u8)| Ipv4Net::new(ip, len).ok());
    v4.map_or(network, IpNet::V4).trunc()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_fits_is_told_block_by_block() {
        let outside = ips(&["192.0.2.2", "192.0.2.3", "192.0.2.5", "192.0.4.1", "fd00::1", "fd00::1:0"]);
        let found = cover(&nets(&["10.0.0.0/8"]), &outside, 5);
        assert_eq!(
            found.networks,
            nets(&["10.0.0.0/8", "192.0.2.0/24", "192.0.4.0/24", "fd00::/120", "fd00::1:0/120"])
        );
        assert!(!found.is_widened);
    }

    #[test]
    fn only_the_first_of_a_block_and_the_last_change_anything() {
        let mut networks = Networks::default();
        for (ip, is_named, generation) in [
            ("192.0.2.7", true, 1),
            ("192.0.2.0", true, 1),
            ("192.0.2.255", true, 1),
            ("192.0.3.0", true, 2),
            ("192.0.2.7", false, 2),
            ("192.0.2.255", false, 2),
            ("192.0.2.0", false, 3),
            ("192.0.2.0", false, 3),
        ] {
            networks.note(ip.parse().unwrap(), is_named);
            assert_eq!(networks.generation(), generation, "{ip} {is_named}");
        }
        assert_eq!(networks.cover().networks, nets(&["192.0.3.0/24"]));
    }

    #[test]
    fn what_does_not_fit_is_joined_with_its_nearest_first() {
        let outside = ips(&["192.0.2.2", "192.0.4.3", "192.0.6.5", "198.51.100.1", "fd00::1"]);
        let found = cover(&nets(&["10.0.0.0/8"]), &outside, 4);
        assert_eq!(found.networks, nets(&["10.0.0.0/8", "192.0.0.0/21", "198.51.100.0/24", "fd00::/120"]));
        assert!(found.is_widened);
        let found = cover(&nets(&["10.0.0.0/8"]), &outside, 2);
        assert_eq!(found.networks, nets(&["0.0.0.0/0", "fd00::/120"]), "families are never joined");
    }

    #[test]
    fn a_mapped_network_is_one_of_ipv4() {
        for (written, meant) in [
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:10.1.2.3/90", "::ffc0:0:0/90"),
            ("fd00::1/64", "fd00::/64"),
            ("10.1.2.3/16", "10.1.0.0/16"),
        ] {
            assert_eq!(canonical(written.parse().unwrap()), meant.parse::<IpNet>().unwrap(), "{written}");
        }
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    fn network() -> impl Strategy<Value = IpNet> {
        (address(), 0..=128u8).prop_map(|(ip, len)| {
            let len = if ip.is_ipv4() { len % 33 } else { len };
            canonical(IpNet::new(ip.to_canonical(), len.min(IpNet::from(ip.to_canonical()).max_prefix_len())).unwrap())
        })
    }

    proptest! {
        #[test]
        fn no_address_is_ever_left_out(
            configured in prop::collection::vec(network(), 0..4),
            outside in prop::collection::btree_set(address(), 0..40),
            max in 2..30usize,
        ) {
            let found = cover(&configured, &outside, max);
            prop_assert!(found.networks.len() <= max);
            for ip in &outside {
                prop_assert!(found.networks.iter().any(|network| network.contains(ip)), "{ip} {found:?}");
            }
            for network in &configured {
                let ends = [network.network(), network.broadcast()];
                prop_assert!(ends.iter().all(|ip| found.networks.iter().any(|n| n.contains(ip))), "{network}");
            }
            prop_assert_eq!(found.networks.clone(), {
                let mut sorted = found.networks;
                sorted.sort_unstable();
                sorted
            });
        }
    }
}
