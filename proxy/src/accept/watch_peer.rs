//! Socket options by which a peer that vanished is noticed, and one that merely stops reading is not cut (semantics 20).
//!
//! `TCP_USER_TIMEOUT` cannot tell the two apart: it counts the time in which a live peer advertises no window, however
//! faithfully it answers probes (seen: cut after 31 s at 30 s). So lost data is found by the kernel's own count of
//! retransmissions instead, in which answered probes start anew; `TCP_RTO_MAX_MS` makes that count short.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{SetSockOpt, sockopt};
use socket2::{SockRef, TcpKeepalive};

/// An idle peer is asked after this, and then every [`PROBE_INTERVAL`]: after three without an answer it is gone, 31 s
/// after it was last heard of.
const IDLE: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_secs(7);
const PROBES: u32 = 3;
/// The longest pause between retransmissions. By `net.ipv4.tcp_retries2` (15) a peer that acknowledges nothing is gone
/// after some 27 s: 200 ms doubled up to this, fifteen times.
const RETRANSMISSION_PAUSE_MAX_MS: i32 = 2_000;

/// `TCP_RTO_MAX_MS` of `linux/tcp.h`, since Linux 6.15.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// The option, for nix.
#[derive(Clone, Copy, Debug)]
struct RtoMaxMs;

nix::setsockopt_impl!(RtoMaxMs, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, i32, sockopt::SetStruct<'_, i32>);

/// Makes a socket notice a peer that vanished.
///
/// Before Linux 6.15 the kernel's own pace remains for data that is not acknowledged: a peer that vanishes in the middle
/// of it is found after about 15 minutes, unless HTTP/2 PING or a request's timeout is faster.
pub(crate) fn watch_peer(tcp: &impl AsFd) {
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new().with_time(IDLE).with_interval(PROBE_INTERVAL).with_retries(PROBES);
    // None of these can fail on a TCP socket of a kernel that has them; without them we only notice later.
    drop(socket.set_tcp_keepalive(&keepalive));
    RtoMaxMs.set(tcp, &RETRANSMISSION_PAUSE_MAX_MS).unwrap_or_default();
    drop(socket.set_tcp_nodelay(true));
}
