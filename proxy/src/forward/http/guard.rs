//! A client's HTTP/2 connection, with an eye on what the crate bears without a bound: PING, SETTINGS, `WINDOW_UPDATE`,
//! PRIORITY, frames of unknown kinds and DATA without data. Each costs the worker time and serves nobody (CVE-2019-9512,
//! -9515, -9518). It reads only frame heads, changes nothing, and knows nothing of streams.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::io::Io;

/// Frames of no use that a connection may send ahead of what it earns. Guess: a client sends a handful to begin with, and
/// ten times Envoy's bound of 100 for PRIORITY.
const AHEAD_MAX: u64 = 1000;
/// What a second earns: more than any keep-alive.
const EARNED_PER_SECOND: u64 = 100;
/// What a frame earns that carries a request or a body: an update of each window, and gRPC's PING to measure the path,
/// twice over.
const EARNED_PER_FRAME: u64 = 6;
/// What a stranger's reset of a stream costs: whoever takes back more than half of its requests keeps us busy for nothing
/// (CVE-2023-44487; Envoy's bound for premature resets is half of them as well).
const STRANGERS_RESET_COST: u64 = 2 * EARNED_PER_FRAME;
/// A peer's proxy speaks for many clients, whose deadlines may all pass at once where a server is slow, and our own
/// application can be looked after otherwise: what the crate bounds is bound enough.
const MESHED_RESET_COST: u64 = 0;
/// What is written earns an update of each window for so many bytes; clients make them for 4 KiB and more.
const WRITTEN_PER_EARNED: u64 = 1024;
/// How long a flood stays unread before its connection is ended. Whoever is ended at once is back at once, with all that it
/// had ready meanwhile: 2,000 times a second from one attacker, which cost others nine times their p99.
const UNREAD: Duration = Duration::from_secs(1);

/// Bytes before the first frame (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
/// Bytes before a frame's payload (RFC 9113 §4.1).
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
/// Also bounded by the crate.
const RST_STREAM: u8 = 0x3;
const CONTINUATION: u8 = 0x9;

/// A connection that is watched. Once the client sends too much that serves nobody, nothing more is read of it for a while;
/// then reading fails as [`is_flood`] tells. What is under way is answered until then.
#[derive(Debug)]
pub(super) struct Guarded {
    io: Io,
    frames: Frames,
    /// Until when a flood stays unread.
    unread: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    /// Watches a connection on which nothing was read of HTTP/2 yet.
    pub(super) fn new(io: Io, is_meshed: bool) -> Self {
        let reset_cost = if is_meshed { MESHED_RESET_COST } else { STRANGERS_RESET_COST };
        Self { io, frames: Frames::new(reset_cost, Instant::now()), unread: None }
    }
}

/// Whether a connection failed because its client floods it.
pub(super) fn is_flood(error: &h2::Error) -> bool {
    error.get_io().is_some_and(|error| error.kind() == io::ErrorKind::QuotaExceeded)
}

/// Keeps account of the frames that a client sends.
#[derive(Debug)]
struct Frames {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that are there.
    filled: usize,
    /// Bytes to come before the next head.
    rest: usize,
    /// Frames of no use that may still come.
    left: u64,
    /// Until when time was paid for.
    paid: Instant,
    /// Bytes written and not yet paid for.
    written: u64,
    /// What the reset of a stream costs.
    reset_cost: u64,
}

/// Too many frames of no use.
#[derive(Debug, PartialEq, Eq)]
struct Flood;

impl Frames {
    fn new(reset_cost: u64, now: Instant) -> Self {
        let (head, filled, rest, left) = ([0; HEAD_BYTES], 0, PREFACE_BYTES, AHEAD_MAX);
        Self { head, filled, rest, left, paid: now, written: 0, reset_cost }
    }

    /// Takes what was read, in pieces of any size.
    fn read(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let (Some(room), count) = (self.head.get_mut(self.filled..), bytes.len().min(HEAD_BYTES - self.filled))
            else {
                return Ok(());
            };
            for (to, from) in room.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.filled += count;
            bytes = bytes.get(count..).unwrap_or_default();
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                self.frame(&now)?;
            }
        }
        Ok(())
    }

    /// A head is complete.
    fn frame(&mut self, now: &impl Fn() -> Instant) -> Result<(), Flood> {
        let [high, middle, low, kind, ..] = self.head;
        self.rest = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX);
        match kind {
            HEADERS | CONTINUATION => self.earn(EARNED_PER_FRAME),
            DATA if self.rest > 0 => self.earn(EARNED_PER_FRAME),
            RST_STREAM => self.spend(self.reset_cost, now)?,
            _ => self.spend(1, now)?,
        }
        Ok(())
    }

    fn spend(&mut self, cost: u64, now: &impl Fn() -> Instant) -> Result<(), Flood> {
        if self.left < cost {
            self.earn_time(now());
        }
        self.left = self.left.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }

    fn wrote(&mut self, count: usize) {
        self.written += count as u64;
        let earned = self.written / WRITTEN_PER_EARNED;
        self.written %= WRITTEN_PER_EARNED;
        self.earn(earned);
    }

    fn earn_time(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.paid).as_millis() * u128::from(EARNED_PER_SECOND) / 1000;
        if earned > 0 {
            self.paid = now;
        }
        self.earn(u64::try_from(earned).unwrap_or(AHEAD_MAX));
    }

    fn earn(&mut self, count: u64) {
        self.left = (self.left + count.min(AHEAD_MAX)).min(AHEAD_MAX);
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, frames, unread } = &mut *self;
        if unread.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(io).poll_read(cx, buf))?;
            let read = buf.filled().get(before..).unwrap_or_default();
            match frames.read(read, Instant::now) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(Flood) => buf.set_filled(before),
            }
        }
        ready!(unread.get_or_insert_with(|| Box::pin(sleep(UNREAD))).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.frames.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.frames.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::io::memory::Memory;

    const PING: u8 = 0x6;
    const SETTINGS: u8 = 0x4;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 1];
        bytes.resize(HEAD_BYTES + payload, 0);
        bytes
    }

    fn begun() -> (Frames, Instant) {
        let now = Instant::now();
        let mut frames = Frames::new(MESHED_RESET_COST, now);
        frames.read(&[0; PREFACE_BYTES], || now).unwrap();
        (frames, now)
    }

    /// How many of a frame are taken before it is too many.
    fn taken(frames: &mut Frames, bytes: &[u8], now: Instant) -> u64 {
        (0..10 * AHEAD_MAX).take_while(|_| frames.read(bytes, || now).is_ok()).count() as u64
    }

    #[test]
    fn frames_of_no_use_are_taken_up_to_a_bound() {
        for bytes in
            [frame(PING, 8), frame(SETTINGS, 0), frame(0x8, 4), frame(0x2, 5), frame(0x77, 300), frame(DATA, 0)]
        {
            let (mut frames, now) = begun();
            assert_eq!(taken(&mut frames, &bytes, now), AHEAD_MAX, "{bytes:?}");
        }
    }

    #[test]
    fn requests_bodies_and_answers_earn_more() {
        for bytes in [frame(HEADERS, 30), frame(DATA, 1), frame(RST_STREAM, 4)] {
            let (mut frames, now) = begun();
            assert_eq!(taken(&mut frames, &bytes, now), 10 * AHEAD_MAX, "{bytes:?}");
        }
        let (mut frames, now) = begun();
        let call = [frame(DATA, 100), frame(PING, 8), frame(0x8, 4), frame(0x8, 4)].concat();
        assert_eq!(taken(&mut frames, &call, now), 10 * AHEAD_MAX);
        let (mut frames, now) = begun();
        for _ in 0..10 * AHEAD_MAX {
            frames.wrote(4096);
            frames.read(&[frame(0x8, 4), frame(0x8, 4)].concat(), || now).unwrap();
        }
    }

    #[test]
    fn a_stranger_may_take_back_half_of_its_requests() {
        let half = [frame(HEADERS, 30), frame(HEADERS, 30), frame(RST_STREAM, 4)].concat();
        let all = [frame(HEADERS, 30), frame(RST_STREAM, 4)].concat();
        for (bytes, want) in [(half, 10 * AHEAD_MAX), (all, AHEAD_MAX / EARNED_PER_FRAME - 1)] {
            let (mut frames, now) = begun();
            frames.reset_cost = STRANGERS_RESET_COST;
            assert_eq!(taken(&mut frames, &bytes, now), want);
        }
    }

    #[test]
    fn time_earns_more() {
        let ping = frame(PING, 8);
        for (seconds, earned) in [(0, 0), (2, 2 * EARNED_PER_SECOND), (3_000, AHEAD_MAX)] {
            let (mut frames, now) = begun();
            (0..AHEAD_MAX).for_each(|_| frames.read(&ping, || now).unwrap());
            let later = now + Duration::from_secs(seconds);
            assert_eq!(taken(&mut frames, &ping, later), earned, "{seconds} s");
        }
    }

    #[test]
    fn pieces_of_any_size_count_the_same() {
        let mut bytes = vec![0; PREFACE_BYTES];
        for _ in 0..20 {
            bytes.extend([frame(PING, 8), frame(SETTINGS, 6), frame(HEADERS, 40), frame(0x8, 4)].concat());
        }
        let now = Instant::now();
        let left = |size: usize| {
            let mut frames = Frames::new(MESHED_RESET_COST, now);
            frames.left = 500;
            bytes.chunks(size).for_each(|piece| frames.read(piece, || now).unwrap());
            (frames.left, frames.rest, frames.filled)
        };
        for size in 1..bytes.len() {
            assert_eq!(left(size), (500 + 20 * (EARNED_PER_FRAME - 3), 0, 0), "{size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_left_unread_before_it_is_ended() {
        let (near, far) = Memory::pair(64 * 1024);
        let (mut client, mut guarded) = (Io::from(far), Guarded::new(near.into(), false));
        client.write_all(&[0; PREFACE_BYTES]).await.unwrap();
        let mut read = vec![0; 64 * 1024];
        assert_eq!(guarded.read(&mut read).await.unwrap(), PREFACE_BYTES);
        client.write_all(&frame(PING, 8).repeat(1001)).await.unwrap();
        let begun = Instant::now();
        let error = guarded.read(&mut read).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::QuotaExceeded, UNREAD.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_answered_beside_a_flood() {
        let (near, far) = Memory::pair(64 * 1024);
        let (mut client, mut guarded) = (Io::from(far), Guarded::new(near.into(), false));
        client.write_all(&[vec![0; PREFACE_BYTES], frame(PING, 8).repeat(1001)].concat()).await.unwrap();
        let mut read = vec![0; 64 * 1024];
        tokio::time::timeout(UNREAD / 2, guarded.read(&mut read)).await.unwrap_err();
        guarded.write_all(b"answer").await.unwrap();
        assert_eq!(client.read(&mut read).await.unwrap(), 6);
        assert!(read.starts_with(b"answer"));
    }
}
