//! Chapter 2: learns what a connection speaks from its first bytes, and gives those bytes back. It decides nothing
//! about where the connection goes. Invariant: every byte that is read here is read again by whoever comes next.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use weft_proxy_core::client_hello::{self, Parsed};
use weft_proxy_core::detect::{self, Detected, Detection};
use weft_runtime::drain::Drain;

use crate::io::Io;

/// Silence after which a connection is tried as opaque (semantics 13).
pub(crate) const SILENCE: Duration = Duration::from_millis(50);
/// How long bytes that may still become something known are waited for. A protocol that begins like a longer one and
/// then waits for the server is opaque after this; HTTP clients send their first line in one piece.
const UNDECIDED_MAX: Duration = Duration::from_secs(1);
/// How long a ClientHello may take to arrive in full; a slow link needs a few round trips for 16 KiB.
pub(crate) const HELLO_MAX: Duration = Duration::from_secs(10);
/// How long a client that was accepted at the very end may take for its first byte: several round trips.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// The client ended without a byte.
    Ended,
    /// HTTP/1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// TLS that offers an ALPN of the mesh.
    MeshTls,
    /// Bytes of another kind, the application's own TLS among them.
    Opaque,
    /// Nothing was said within the time.
    Silent,
}

/// How detection goes about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long the first byte is waited for; `None`: as long as it takes, for declared protocols.
    pub(crate) silence: Option<Duration>,
    /// How long bytes that may still become something known are waited for.
    pub(crate) undecided: Duration,
    /// Whether a TLS ClientHello is read to its ALPN.
    pub(crate) mesh_tls: bool,
}

impl Patience {
    /// Where nothing is declared.
    pub(crate) const UNDECLARED: Self = Self { silence: Some(SILENCE), undecided: UNDECIDED_MAX, mesh_tls: false };

    /// Where nothing but HTTP is let through, so that there is nothing to be gained by an early decision.
    pub(crate) const HTTP: Self = Self { silence: None, undecided: HELLO_MAX, mesh_tls: false };

    /// The same, looking for mesh TLS too.
    pub(crate) fn and_mesh_tls(self) -> Self {
        Self { mesh_tls: true, ..self }
    }
}

/// As [`detect()`], for as long as somebody may still want to be served: once `released` has begun, a client that says
/// nothing for a moment has nothing to lose. `None`: it ended or broke without a word.
pub(crate) async fn detect_while(io: &mut Io, patience: Patience, released: &Drain) -> Option<Spoken> {
    let given_up = async {
        released.draining().await;
        sleep(LAST_WORDS_MAX).await;
    };
    // Nothing is lost that anybody waits for: bytes count for a request only when they are one.
    tokio::select! {
        biased;
        spoken = detect(io, patience) => spoken.ok(),
        () = given_up => None,
    }
}

/// Reads until it is clear what `io` speaks.
///
/// **Errors:** the connection broke. **Cancel:** bytes read so far are lost; drop the connection with it.
/// **Cost:** one buffer of what the client sent, at most 16 KiB.
pub(crate) async fn detect(io: &mut Io, patience: Patience) -> io::Result<Spoken> {
    let mut read = BytesMut::from(&io.take_replay()[..]);
    if read.is_empty() {
        // A read into a buffer that is our own loses nothing when the time runs out before it completes.
        let first = io.read_buf(&mut read);
        let n = match patience.silence {
            Some(silence) => match timeout(silence, first).await {
                Ok(n) => n?,
                Err(_silent) => return Ok(Spoken::Silent),
            },
            None => first.await?,
        };
        if n == 0 {
            return Ok(Spoken::Ended);
        }
    }
    let begun = Instant::now();
    let spoken = loop {
        let longest = match judge(&read, patience) {
            Judged::Is(spoken) => break spoken,
            Judged::MayBecome { within } => within,
        };
        match timeout_at(begun + longest, io.read_buf(&mut read)).await {
            Ok(Ok(0)) | Err(_) => break Spoken::Opaque,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    };
    io.unread(read.freeze());
    Ok(spoken)
}

/// What can be said of the bytes so far.
enum Judged {
    Is(Spoken),
    /// More of them are waited for, no longer than this.
    MayBecome {
        within: Duration,
    },
}

fn judge(read: &[u8], patience: Patience) -> Judged {
    Judged::Is(match detect::detect(read) {
        Detection::NeedMore => return Judged::MayBecome { within: patience.undecided },
        Detection::Found(Detected::Http1) => Spoken::Http1,
        Detection::Found(Detected::Http2) => Spoken::Http2,
        Detection::Found(Detected::Tls) if patience.mesh_tls => match client_hello::parse(read) {
            Parsed::Hello(hello) if hello.offers_mesh() => Spoken::MeshTls,
            Parsed::NeedMore => return Judged::MayBecome { within: HELLO_MAX },
            Parsed::Hello(_) | Parsed::NotTls | Parsed::TooLarge => Spoken::Opaque,
        },
        Detection::Found(Detected::Opaque | Detected::Tls) => Spoken::Opaque,
    })
}

/// Who spoke first on a connection that was tried as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// The client, and this is what it speaks.
    Client(Spoken),
    /// The server; `evidence` says whether its bytes prove a server-first protocol.
    Server {
        /// See [`detect::server_first_evidence`].
        evidence: bool,
    },
}

/// Which side was lost before either spoke.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Reading from the client failed.
    Client,
    /// Reading from the server failed, like this.
    Server(io::Error),
}

/// Waits for whichever of two connected sides speaks first; its bytes are given back to be read again.
///
/// **Errors:** whose reading failed. **Cancel:** as [`detect()`].
pub(crate) async fn first_of(client: &mut Io, server: &mut Io, patience: Patience) -> Result<First, Lost> {
    let (mut from_client, mut from_server) = (BytesMut::new(), BytesMut::new());
    // Reads into buffers of our own: when one arm wins, the other has read nothing.
    let server_spoke = tokio::select! {
        n = client.read_buf(&mut from_client) => { n.map_err(|_error| Lost::Client)?; false }
        n = server.read_buf(&mut from_server) => { n.map_err(Lost::Server)?; true }
    };
    if server_spoke {
        let evidence = detect::server_first_evidence(&from_server);
        server.unread(from_server.freeze());
        return Ok(First::Server { evidence });
    }
    if from_client.is_empty() {
        return Ok(First::Client(Spoken::Ended));
    }
    client.unread(from_client.freeze());
    detect(client, patience).await.map(First::Client).map_err(|_error| Lost::Client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn undeclared() -> Patience {
        Patience::UNDECLARED.and_mesh_tls()
    }

    async fn spoken(sent: &[&[u8]], ends: bool) -> (Spoken, Vec<u8>) {
        let (mut far, near) = tokio::io::duplex(4096);
        let feed = async {
            for piece in sent {
                far.write_all(piece).await.unwrap();
                sleep(Duration::from_millis(10)).await;
            }
            if ends {
                far.shutdown().await.unwrap();
            }
            far
        };
        let mut io = Io::from(near);
        let (far, detected) = tokio::join!(feed, detect(&mut io, undeclared()));
        let spoken = detected.unwrap();
        drop(far);
        let mut again = Vec::new();
        io.read_to_end(&mut again).await.unwrap();
        (spoken, again)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_bytes_decide_and_are_read_again() {
        for (sent, want) in [
            (&[&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..]][..], Spoken::Http1),
            (&[&b"GE"[..], &b"T / HT"[..], &b"TP/1.1\r\n"[..]][..], Spoken::Http1),
            (&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]][..], Spoken::Http2),
            (&[&b"*1\r\n$4\r\nPING\r\n"[..]][..], Spoken::Opaque),
            (&[&b"\x16\x03\x01\x00"[..]][..], Spoken::Opaque),
        ] {
            let (spoken, again) = spoken(sent, true).await;
            assert_eq!((spoken, again), (want, sent.concat()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_an_early_end_are_told_apart() {
        assert_eq!(spoken(&[], false).await.0, Spoken::Silent);
        assert_eq!(spoken(&[], true).await.0, Spoken::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_stay_ambiguous_are_opaque_after_a_while() {
        let begun = Instant::now();
        assert_eq!(spoken(&[b"PRI"], false).await, (Spoken::Opaque, b"PRI".to_vec()));
        assert!(begun.elapsed() < UNDECIDED_MAX * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn where_only_http_passes_a_slow_first_line_is_waited_for() {
        let (mut far, near) = tokio::io::duplex(64);
        let feed = async {
            far.write_all(b"GET / HT").await.unwrap();
            sleep(UNDECIDED_MAX * 3).await;
            far.write_all(b"TP/1.1\r\n").await.unwrap();
        };
        let mut io = Io::from(near);
        let ((), spoken) = tokio::join!(feed, detect(&mut io, Patience::HTTP));
        assert_eq!(spoken.unwrap(), Spoken::Http1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_speaker_is_found() {
        let ((mut client, a), (mut server, b)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let (mut a, mut b) = (Io::from(a), Io::from(b));
        server.write_all(b"220 mail ready\r\n").await.unwrap();
        let first = first_of(&mut a, &mut b, Patience::HTTP).await.unwrap();
        assert_eq!(first, First::Server { evidence: true });
        let mut greeting = [0; 3];
        b.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220");

        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut silent = tokio::io::duplex(64);
        let first = first_of(&mut a, &mut Io::from(silent.0), Patience::HTTP).await.unwrap();
        assert_eq!(first, First::Client(Spoken::Http1));
        silent.1.shutdown().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_proxy_waits_a_moment_for_last_words() {
        let (signal, released) = Drain::new();
        let (mut far, near) = tokio::io::duplex(64);
        let mut io = Io::from(near);
        signal.begin();
        let speak = async {
            sleep(LAST_WORDS_MAX / 2).await;
            far.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        };
        let ((), spoken) = tokio::join!(speak, detect_while(&mut io, Patience::HTTP, &released));
        assert_eq!(spoken, Some(Spoken::Http1));
        let (_silent, near) = tokio::io::duplex(64);
        assert_eq!(detect_while(&mut Io::from(near), Patience::HTTP, &released).await, None);
    }
}
