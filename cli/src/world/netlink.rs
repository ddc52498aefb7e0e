//! Enough of netlink to make links: one request, one acknowledgement.
//!
//! Written by hand because it is this short; a request is at most a few hundred bytes that we made ourselves, the answer is the kernel's.

use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, bail};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Netlink aligns everything to four bytes (`netlink(7)`).
const ALIGNMENT: usize = 4;

/// Size of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;

/// A request under construction: header, fixed part, attributes.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Begins a request: `kind` is one of `RTM_*`, `flags` of `NLM_F_*` beside request and acknowledge.
    pub(super) fn new(kind: u16, flags: libc::c_int, fixed: &[u8]) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        // Sequence number and port: there is one request on a socket, and the kernel knows whose it is.
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut request = Self { bytes };
        request.align();
        request
    }

    /// Adds an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.align();
        self
    }

    /// Adds a string attribute, ended by NUL as the kernel wants it.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Adds an attribute that holds a fixed part, maybe empty, and attributes.
    pub(super) fn nested(mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self = fill(self.attribute(kind, fixed));
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        for (at, byte) in (start..).zip(length.to_ne_bytes()) {
            if let Some(slot) = self.bytes.get_mut(at) {
                *slot = byte;
            }
        }
        self
    }

    /// Sends the request in the network namespace of this thread and waits for the acknowledgement.
    ///
    /// # Errors
    /// The kernel refused it, with its reason.
    pub(super) fn send(mut self) -> anyhow::Result<()> {
        let length = u32::try_from(self.bytes.len()).context("a request is too long")?;
        for (slot, byte) in self.bytes.iter_mut().zip(length.to_ne_bytes()) {
            *slot = byte;
        }
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        let socket = socket.context("opening a netlink socket")?;
        send(socket.as_raw_fd(), &self.bytes, MsgFlags::empty()).context("sending to the kernel")?;
        let mut answer = [0; 4096];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).context("receiving from the kernel")?;
        acknowledged(answer.get(..length).unwrap_or_default())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// Reads `struct nlmsgerr`, whose error is 0 or a negative error number.
fn acknowledged(answer: &[u8]) -> anyhow::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let error = answer.get(HEADER_LEN..HEADER_LEN + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind.map(i32::from), error) {
        (Some(libc::NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(libc::NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(error.wrapping_neg()).into()),
        _ => bail!("the kernel's answer is no acknowledgement"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_attribute_counts_what_it_holds() {
        let request = Request::new(16, 0, &[]).nested(18, &[], |inner| inner.text(1, "veth").attribute(2, &[7]));
        let nested = request.bytes.get(HEADER_LEN..).unwrap();
        // 4 of its own, 4 + 5 for the text filled up to 12, 4 + 1 filled up to 8.
        assert_eq!(nested.len(), 24);
        assert_eq!(nested[..4], [24, 0, 18, 0]);
        assert_eq!(nested[4..13], [9, 0, 1, 0, b'v', b'e', b't', b'h', 0]);
        assert_eq!(nested[16..21], [5, 0, 2, 0, 7]);
    }

    #[test]
    fn the_kernels_reason_is_kept() {
        let mut answer = [0; 36];
        answer[4] = 2;
        assert!(acknowledged(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-libc::EEXIST).to_ne_bytes());
        assert!(acknowledged(&answer).unwrap_err().to_string().contains("exists"));
        assert!(acknowledged(&answer[..10]).is_err());
    }
}
