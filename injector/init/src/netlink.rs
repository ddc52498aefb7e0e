//! The ruleset into the kernel and back, over one `NETLINK_NETFILTER` socket: no program is run, no C library is used.
//!
//! Writing is one batch, which the kernel takes as a whole or not at all. The last message asks for an acknowledgement;
//! a failing one is answered anyway, with its sequence number, and so names the operation. (Texts of extended
//! acknowledgements stay unused: the option that asks for them has no safe wrapper.)
//! Source of all numbers: linux/netlink.h, linux/netfilter/nfnetlink.h, `linux/netfilter/nf_tables.h`.

mod batch;
mod expression;
mod held;
mod message;

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::InitError;
use crate::plan::{Family, Ruleset};
use batch::Batch;
pub(crate) use held::Held;
use message::Malformed;

/// The kernel answers before `send` returns; only a sandbox could make us wait.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Larger than what the kernel puts into one datagram of a dump (32 KiB), as libnftnl has it.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// A batch of the longest option lists is about 250 KB; the kernel doubles this, within `net.core.wmem_max`.
const SEND_BUFFER_BYTES: usize = 512 * 1024;
/// A dump that was changed meanwhile is read again so often.
const DUMP_TRIES_MAX: usize = 5;

/// Puts the ruleset in force in place of the one that was there, in one transaction.
pub(crate) fn replace(ruleset: &Ruleset) -> Result<(), InitError> {
    Link::open("set the redirect rules")?.commit(&Batch::replace(ruleset))
}

/// Removes our table of this family, if there is one.
pub(crate) fn remove(family: Family) -> Result<(), InitError> {
    Link::open("remove the redirect rules")?.commit(&Batch::remove(family))
}

/// What the kernel holds as our table of this family; none if there is no such table.
pub(crate) fn read(family: Family) -> Result<Option<Held>, InitError> {
    let mut link = Link::open("read the ruleset")?;
    let Some(dormant) = link.table(family)? else {
        return Ok(None);
    };
    let chains = link.dump(&held::request_chains(family), "read the chains")?;
    let rules = link.dump(&held::request_rules(family), "read the rules")?;
    Held::parse(family, dormant, &chains, &rules).map(Some).map_err(malformed)
}

/// A socket to the packet filter of this thread's network namespace.
struct Link {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Link {
    fn open(purpose: &str) -> Result<Self, InitError> {
        let refused = |source| InitError::refused(purpose.to_owned(), "nfnetlink (CONFIG_NETFILTER_NETLINK)", source);
        let protocol = Protocol::from(libc::NETLINK_NETFILTER);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol)).map_err(refused)?;
        socket.set_read_timeout(Some(ANSWER_WAIT)).map_err(refused)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES).map_err(refused)?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// Sends the batch and waits for its verdict.
    fn commit(&mut self, batch: &Batch) -> Result<(), InitError> {
        self.send(batch.bytes(), batch.purpose())?;
        loop {
            let length = self.receive(batch.purpose())?;
            for received in message::split(self.buffer.get(..length).unwrap_or_default()) {
                let received = received.map_err(malformed)?;
                match received.error_code().map_err(malformed)? {
                    Some(0) if received.sequence == batch.last_sequence() => return Ok(()),
                    Some(code) if code != 0 => return Err(batch.refused(received.sequence, os_error(code))),
                    Some(_) | None => {}
                }
            }
        }
    }

    /// Whether our table is there, and if so whether it is dormant (in which case no rule of it works).
    fn table(&mut self, family: Family) -> Result<Option<bool>, InitError> {
        const PURPOSE: &str = "read the table";
        self.send(&held::request_table(family), PURPOSE)?;
        loop {
            let length = self.receive(PURPOSE)?;
            for received in message::split(self.buffer.get(..length).unwrap_or_default()) {
                let received = received.map_err(malformed)?;
                match received.error_code().map_err(malformed)? {
                    Some(code) if code == -libc::ENOENT => return Ok(None),
                    Some(0) => {}
                    Some(code) => return Err(InitError::refused(PURPOSE.to_owned(), batch::NF_TABLES, os_error(code))),
                    None => return held::table_is_dormant(&received).map(Some).map_err(malformed),
                }
            }
        }
    }

    /// All messages that answer a dump request.
    fn dump(&mut self, request: &[u8], purpose: &str) -> Result<Vec<Vec<u8>>, InitError> {
        for _ in 0..DUMP_TRIES_MAX {
            if let Some(datagrams) = self.dump_once(request, purpose)? {
                return Ok(datagrams);
            }
        }
        Err(InitError::Malformed("the ruleset changes faster than it can be read"))
    }

    /// As [`Self::dump`]; none if somebody changed a ruleset meanwhile. Each datagram is kept whole.
    fn dump_once(&mut self, request: &[u8], purpose: &str) -> Result<Option<Vec<Vec<u8>>>, InitError> {
        self.send(request, purpose)?;
        let mut datagrams = Vec::new();
        let mut interrupted = false;
        loop {
            let length = self.receive(purpose)?;
            let datagram = self.buffer.get(..length).unwrap_or_default();
            datagrams.push(datagram.to_vec());
            for received in message::split(datagram) {
                let received = received.map_err(malformed)?;
                interrupted |= received.is_interrupted();
                match received.error_code().map_err(malformed)? {
                    Some(code) if code == -libc::EINTR || code == -libc::EAGAIN => return Ok(None),
                    Some(code) if code != 0 => {
                        return Err(InitError::refused(purpose.to_owned(), batch::NF_TABLES, os_error(code)));
                    }
                    Some(_) => return Ok((!interrupted).then_some(datagrams)),
                    None => {}
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8], purpose: &str) -> Result<(), InitError> {
        let sent = self.socket.write(bytes);
        sent.map_err(|source| InitError::refused(purpose.to_owned(), batch::NF_TABLES, source)).map(drop)
    }

    fn receive(&mut self, purpose: &str) -> Result<usize, InitError> {
        loop {
            match self.socket.read(&mut self.buffer) {
                Ok(0) => return Err(InitError::Malformed("an empty answer")),
                Ok(length) => return Ok(length),
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(InitError::Refused { operation: purpose.to_owned(), source }),
            }
        }
    }
}

fn malformed(error: Malformed) -> InitError {
    InitError::Malformed(error.0)
}

/// The kernel gives `-errno`.
fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}
