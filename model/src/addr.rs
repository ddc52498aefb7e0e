//! Socket addresses by role. A bare [`SocketAddr`] never crosses a module: two roles cannot be swapped by accident.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

macro_rules! role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub SocketAddr);

        impl $name {
            /// The address without its port; an IPv4-mapped IPv6 address is given as IPv4.
            pub fn ip(self) -> IpAddr {
                self.0.ip().to_canonical()
            }

            /// The port.
            pub fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

role!(
    /// Who opened a connection to us.
    ClientAddr
);
role!(
    /// Where a redirected connection was going before the kernel turned it to us.
    OriginalDst
);
role!(
    /// Where an endpoint of a service listens.
    EndpointAddr
);
