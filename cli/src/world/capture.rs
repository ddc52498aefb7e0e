//! Every packet that passes the fabric, kept in memory: what somebody sees who taps the wire.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use nix::sys::time::TimeVal;

use super::namespace::Namespace;

/// More than this is not kept; a capture that is full is an error, for what it missed might have been what was looked for.
const BYTES_MAX: usize = 256 * 1024 * 1024;

/// Larger than any packet, offloads included.
const PACKET_BYTES_MAX: usize = 128 * 1024;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<Vec<u8>>>>,
}

impl Capture {
    pub(super) fn start(fabric: &Namespace) -> anyhow::Result<Self> {
        let socket = fabric.run(open)??;
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("capture".to_owned());
        let thread = thread.spawn(move || keep(&socket, &until)).context("starting a thread")?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it; returns all bytes of all packets, one packet after the other.
    ///
    /// # Errors
    /// It could not keep all of them.
    pub fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("the capture was finished before")?;
        thread.join().map_err(|_panic| anyhow!("the capture panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn open() -> anyhow::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
    let socket = socket.context("opening a packet socket")?;
    // So that the end is noticed where nothing passes.
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, 50_000)).context("setting a timeout")?;
    setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &(64 * 1024 * 1024)).context("setting the buffer")?;
    Ok(socket)
}

fn keep(socket: &OwnedFd, stop: &AtomicBool) -> anyhow::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) => kept.extend_from_slice(packet.get(..length).unwrap_or_default()),
            Err(Errno::EAGAIN) if stop.load(Ordering::Acquire) => return Ok(kept),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("receiving a packet"),
        }
        anyhow::ensure!(kept.len() < BYTES_MAX, "more than {BYTES_MAX} bytes passed: the capture is not complete");
    }
}
