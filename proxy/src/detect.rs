//! Chapter 2: learns what a connection speaks from its first bytes, and gives those bytes back. It decides nothing
//! about where the connection goes. Invariant: every byte that is read here is read again by whoever comes next.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout, timeout_at};
use weft_proxy_core::client_hello::{self, Parsed};
use weft_proxy_core::detect::{self, Detected, Detection};

use crate::io::Io;

/// Silence after which a connection is tried as opaque (semantics 13).
pub(crate) const SILENCE: Duration = Duration::from_millis(50);
/// How long bytes that may still become something known are waited for. A protocol that begins like a longer one and
/// then waits for the server is opaque after this; HTTP clients send their first line in one piece.
const UNDECIDED_MAX: Duration = Duration::from_secs(1);
/// How long a ClientHello may take to arrive in full; a slow link needs a few round trips for 16 KiB.
const HELLO_MAX: Duration = Duration::from_secs(10);

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
    /// Whether a TLS ClientHello is read to its ALPN.
    pub(crate) mesh_tls: bool,
}

/// Reads until it is clear what `io` speaks.
///
/// **Errors:** the connection broke. **Cancel:** bytes read so far are lost; drop the connection with it.
/// **Cost:** one buffer of what the client sent, at most 16 KiB.
pub(crate) async fn detect(mut io: Io, patience: Patience) -> io::Result<(Io, Spoken)> {
    let mut read = BytesMut::from(&io.take_replay()[..]);
    if read.is_empty() {
        // A read into a buffer that is our own loses nothing when the time runs out before it completes.
        let first = io.read_buf(&mut read);
        let n = match patience.silence {
            Some(silence) => match timeout(silence, first).await {
                Ok(n) => n?,
                Err(_silent) => return Ok((io, Spoken::Silent)),
            },
            None => first.await?,
        };
        if n == 0 {
            return Ok((io, Spoken::Ended));
        }
    }
    let begun = Instant::now();
    loop {
        let (decided, longest) = judge(&read, patience.mesh_tls);
        if let Some(spoken) = decided {
            return Ok((io.replaying(read.freeze()), spoken));
        }
        match timeout_at(begun + longest, io.read_buf(&mut read)).await {
            Ok(Ok(0)) | Err(_) => return Ok((io.replaying(read.freeze()), Spoken::Opaque)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// What the bytes so far are, or how long to wait for more of them.
fn judge(read: &[u8], mesh_tls: bool) -> (Option<Spoken>, Duration) {
    let spoken = match detect::detect(read) {
        Detection::NeedMore => return (None, UNDECIDED_MAX),
        Detection::Found(Detected::Http1) => Spoken::Http1,
        Detection::Found(Detected::Http2) => Spoken::Http2,
        Detection::Found(Detected::Tls) if mesh_tls => match client_hello::parse(read) {
            Parsed::Hello(hello) if hello.offers_mesh() => Spoken::MeshTls,
            Parsed::NeedMore => return (None, HELLO_MAX),
            Parsed::Hello(_) | Parsed::NotTls | Parsed::TooLarge => Spoken::Opaque,
        },
        Detection::Found(Detected::Opaque | Detected::Tls) => Spoken::Opaque,
    };
    (Some(spoken), UNDECIDED_MAX)
}

/// Who spoke first on a connection that was tried as opaque.
#[derive(Debug)]
pub(crate) enum First {
    /// The client, and this is what it speaks.
    Client(Spoken),
    /// The server; `evidence` says whether its bytes prove a server-first protocol.
    Server {
        /// See [`detect::server_first_evidence`].
        evidence: bool,
    },
}

/// Waits for whichever of two connected sides speaks first; its bytes are given back to be read again.
///
/// **Errors:** reading one of them failed. **Cancel:** as [`detect`].
pub(crate) async fn first_of(mut client: Io, mut server: Io) -> io::Result<(Io, Io, First)> {
    let (mut from_client, mut from_server) = (BytesMut::new(), BytesMut::new());
    // Reads into buffers of our own: when one arm wins, the other has read nothing.
    let server_spoke = tokio::select! {
        n = client.read_buf(&mut from_client) => { n?; false }
        n = server.read_buf(&mut from_server) => { n?; true }
    };
    if server_spoke {
        let evidence = detect::server_first_evidence(&from_server);
        return Ok((client, server.replaying(from_server.freeze()), First::Server { evidence }));
    }
    if from_client.is_empty() {
        return Ok((client, server, First::Client(Spoken::Ended)));
    }
    let patience = Patience { silence: None, mesh_tls: false };
    let (client, spoken) = detect(client.replaying(from_client.freeze()), patience).await?;
    Ok((client, server, First::Client(spoken)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const UNDECLARED: Patience = Patience { silence: Some(SILENCE), mesh_tls: true };

    async fn spoken(sent: &[&[u8]], ends: bool) -> (Spoken, Vec<u8>) {
        let (mut far, near) = tokio::io::duplex(4096);
        let feed = async {
            for piece in sent {
                far.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if ends {
                far.shutdown().await.unwrap();
            }
            far
        };
        let (far, detected) = tokio::join!(feed, detect(near.into(), UNDECLARED));
        let (mut io, spoken) = detected.unwrap();
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
    async fn the_first_speaker_is_found() {
        let ((mut client, a), (mut server, b)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        server.write_all(b"220 mail ready\r\n").await.unwrap();
        let (a, mut b, first) = first_of(a.into(), b.into()).await.unwrap();
        assert!(matches!(first, First::Server { evidence: true }));
        let mut greeting = [0; 3];
        b.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220");

        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let (_, _, first) = first_of(a, tokio::io::duplex(64).0.into()).await.unwrap();
        assert!(matches!(first, First::Client(Spoken::Http1) | First::Server { .. }));
    }
}
