//! What to redirect and what to leave alone. Every value here is already valid; `config` parses what people write.

use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use weft_model::PortRange;

/// What the redirect rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the application's outgoing connections are turned to; on loopback.
    pub outbound_port: NonZeroU16,
    /// Where incoming connections are turned to.
    pub inbound_port: NonZeroU16,
    /// The proxy's admin port, reached from outside as it is.
    pub admin_port: NonZeroU16,
    /// Sockets of this user are the proxy's and pass.
    pub proxy_uid: Option<u32>,
    /// Sockets with this `SO_MARK` are the proxy's and pass. Zero is what everybody's sockets have.
    pub proxy_mark: Option<NonZeroU32>,
    /// Incoming connections to these ports pass.
    pub skip_inbound_ports: Vec<PortRange>,
    /// Outgoing connections to these ports pass.
    pub skip_outbound_ports: Vec<PortRange>,
    /// Outgoing connections to these networks pass.
    pub skip_outbound_cidrs: Vec<IpNet>,
}

impl Options {
    /// The fixed numbers of the mesh (design.md §2).
    pub const OUTBOUND_PORT: NonZeroU16 = NonZeroU16::new(14001).unwrap();
    /// See [`Self::OUTBOUND_PORT`].
    pub const INBOUND_PORT: NonZeroU16 = NonZeroU16::new(14002).unwrap();
    /// See [`Self::OUTBOUND_PORT`].
    pub const ADMIN_PORT: NonZeroU16 = NonZeroU16::new(14003).unwrap();
    /// See [`Self::OUTBOUND_PORT`].
    pub const PROXY_UID: u32 = 2140;
}

impl Default for Options {
    /// The mesh's own numbers, nothing skipped.
    fn default() -> Self {
        Self {
            outbound_port: Self::OUTBOUND_PORT,
            inbound_port: Self::INBOUND_PORT,
            admin_port: Self::ADMIN_PORT,
            proxy_uid: Some(Self::PROXY_UID),
            proxy_mark: None,
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_outbound_cidrs: Vec::new(),
        }
    }
}
