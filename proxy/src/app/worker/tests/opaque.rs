//! Bytes: who speaks first, how they end, and which bytes travel how (semantics 11 to 16).

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use weft_model::AppProtocol;
use weft_tls::Alpn;

use super::world::{
    GET, OK, Pair, Settings, V4, V6, expect, expect_reset, head, identity, inbound_port, pair, pair_of, rest, until,
};
use crate::io::Io;
use crate::record::Event;

#[tokio::test]
async fn bytes_pass_both_proxies_and_half_close_is_half_a_close() {
    for ip in [V4, V6] {
        let pair = pair(ip).await;
        let mut client = pair.open().await;
        client.write_all(b"\x00question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut app = pair.accept().await;
        assert_eq!(rest(&mut app).await, "\0question");
        app.write_all(b"answer").await.unwrap();
        drop(app);
        assert_eq!(rest(&mut client).await, "answer");
        let told = |proxy: &super::world::Proxy| {
            let mut text = String::new();
            proxy.telemetry.write(&mut text);
            text.lines().any(|line| {
                line.starts_with("weft_tcp_connections_closed_total")
                    && line.contains("mtls=\"yes\"")
                    && line.contains("source_workload=\"order-1\"") == (proxy.name == "order")
                    && line.contains("destination_workload=\"payment-1\"")
            })
        };
        until(|| told(&pair.client) && told(&pair.server)).await.expect("both proxies tell of mutual TLS");
    }
}

#[tokio::test]
async fn the_other_half_may_end_first() {
    let pair = pair(V4).await;
    let (mut client, mut app) = pair.open_carried().await;
    app.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    client.write_all(b"still here").await.unwrap();
    drop(client);
    assert_eq!(rest(&mut app).await, "still here");
}

#[tokio::test]
async fn a_reset_passes_both_proxies_in_either_direction() {
    let pair = pair(V4).await;
    let (client, mut app) = pair.open_carried().await;
    Io::from(client).reset();
    expect_reset(&mut app).await;
    let (mut client, app) = pair.open_carried().await;
    Io::from(app).reset();
    expect_reset(&mut client).await;
    pair.client.wait_for_reason("client-gone").await;
    pair.client.wait_for_reason("upstream-reset").await;
}

#[tokio::test]
async fn an_end_of_mesh_tls_without_close_notify_is_a_reset_for_the_application() {
    let pair = pair(V4).await;
    let tls = pair.world.ca.mesh(identity("order").as_str(), &pair.world.time);
    for orderly in [true, false] {
        let tcp = TcpStream::connect(pair.server.inbound).await.unwrap();
        let (mut peer, ..) = tls.connect(tcp, &identity("payment"), Alpn::Tcp).await.unwrap();
        peer.write_all(b"\x00part").await.unwrap();
        peer.flush().await.unwrap();
        let mut app = pair.accept().await;
        expect(&mut app, b"\x00part").await;
        if orderly {
            peer.shutdown().await.unwrap();
            assert_eq!(rest(&mut app).await, "");
        } else {
            peer.get_mut().0.shutdown().await.unwrap();
            expect_reset(&mut app).await;
        }
    }
}

/// One connection to a server that greets.
async fn greeted(pair: &Pair) {
    let mut client = pair.open().await;
    let mut app = pair.accept().await;
    app.write_all(b"220 mail\r\n").await.unwrap();
    expect(&mut client, b"220 mail\r\n").await;
    client.write_all(b"QUIT\r\n").await.unwrap();
    expect(&mut app, b"QUIT\r\n").await;
}

#[tokio::test]
async fn three_greetings_teach_that_the_server_speaks_first() {
    let pair = pair(V4).await;
    for _ in 0..3 {
        greeted(&pair).await;
    }
    assert_eq!(pair.client.counted(Event::DetectTimeout), 3);
    assert_eq!(pair.client.counted(Event::ServerFirstLearned), 1);
    greeted(&pair).await;
    assert_eq!(pair.client.counted(Event::DetectTimeout), 3, "nobody waits for what is known");
    assert_eq!(pair.client.counted(Event::ServerFirstLearned), 1);
}

#[tokio::test]
async fn what_an_http_server_says_to_a_silent_client_teaches_nothing() {
    let pair = pair(V4).await;
    for _ in 0..4 {
        let mut client = pair.open().await;
        let mut app = pair.accept().await;
        app.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        expect(&mut client, b"HTTP/1.1 408").await;
    }
    assert_eq!(pair.client.counted(Event::ServerFirstLearned), 0);
    assert_eq!(pair.client.counted(Event::DetectTimeout), 4);
}

#[tokio::test]
async fn http_after_a_trial_closes_the_trial_unused() {
    let pair = pair(V4).await;
    let mut client = pair.open().await;
    let mut tried = pair.accept().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut app = pair.accept().await;
    assert!(head(&mut app).await.starts_with("GET / HTTP/1.1\r\n"));
    app.write_all(OK.as_bytes()).await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
    let mut byte = [0];
    assert!(matches!(tried.read(&mut byte).await, Ok(0) | Err(_)), "not a byte went there");
    assert_eq!(pair.client.counted(Event::HttpAfterTrial), 1);
}

#[tokio::test]
async fn http_takes_back_what_was_learned() {
    let pair = pair(V4).await;
    for _ in 0..3 {
        greeted(&pair).await;
    }
    let mut client = pair.open().await;
    let tried = pair.accept().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    head(&mut pair.accept().await).await;
    drop((client, tried));
    pair.client.wait_for_event(Event::HttpAfterTrial, 1).await;
    greeted(&pair).await;
    assert_eq!(pair.client.counted(Event::DetectTimeout), 4);
}

#[tokio::test]
async fn bytes_that_stay_ambiguous_arrive_as_bytes() {
    let pair = pair(V4).await;
    let mut client = pair.open().await;
    client.write_all(b"PRI").await.unwrap();
    let mut app = pair.accept().await;
    expect(&mut app, b"PRI").await;
    app.write_all(b"?").await.unwrap();
    expect(&mut client, b"?").await;
}

#[tokio::test]
async fn a_declared_opaque_port_is_not_looked_into() {
    let pair = pair_of(Settings::of(V4), |spec| spec.protocol = AppProtocol::Opaque).await;
    pair.server_policy(|spec| spec.ports = vec![inbound_port(pair.app_port(), AppProtocol::Opaque)]);
    let mut client = pair.open().await;
    // HTTP would be refused for its two hosts.
    let words = b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n";
    client.write_all(words).await.unwrap();
    let mut app = pair.accept().await;
    expect(&mut app, words).await;
}

/// A ClientHello of an application: TLS, but none of ours.
fn client_hello() -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = "payment.shop".try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn application_tls_is_wrapped_to_the_meshed_and_bare_to_the_unmeshed() {
    let pair = pair(V4).await;
    let hello = client_hello();
    let mut client = pair.open().await;
    client.write_all(&hello).await.unwrap();
    let mut app = pair.accept().await;
    let mut got = vec![0; hello.len()];
    app.read_exact(&mut got).await.unwrap();
    assert_eq!(got, hello);
    drop(client);
    let mut text = String::new();
    until(|| {
        let mut text = String::new();
        pair.server.telemetry.write(&mut text);
        text.contains("protocol=\"tcp\",mtls=\"yes\"")
    })
    .await
    .expect("it came in mesh TLS");
    pair.client.telemetry.write(&mut text);

    let outside = TcpListener::bind((V4, 0)).await.unwrap();
    let mut client = pair.client.open_to(outside.local_addr().unwrap()).await;
    client.write_all(&hello).await.unwrap();
    let mut bare = outside.accept().await.unwrap().0;
    bare.read_exact(&mut got).await.unwrap();
    assert_eq!(got, hello);
}

#[tokio::test]
async fn application_tls_of_a_stranger_passes_to_the_application() {
    let pair = pair(V4).await;
    let hello = client_hello();
    let mut stranger = pair.server.knock().await;
    stranger.write_all(&hello).await.unwrap();
    let mut app = pair.accept().await;
    let mut got = vec![0; hello.len()];
    app.read_exact(&mut got).await.unwrap();
    assert_eq!(got, hello);
}

#[tokio::test]
async fn a_peer_whose_hello_comes_late_is_still_a_peer() {
    let pair = pair(V4).await;
    let tcp = TcpStream::connect(pair.server.inbound).await.unwrap();
    // The proxy has tried the application already.
    let mut tried = pair.accept().await;
    let tls = pair.world.ca.mesh(identity("order").as_str(), &pair.world.time);
    let (mut peer, ..) = tls.connect(tcp, &identity("payment"), Alpn::Tcp).await.unwrap();
    peer.write_all(b"\x00late").await.unwrap();
    peer.flush().await.unwrap();
    expect(&mut pair.accept().await, b"\x00late").await;
    let mut byte = [0];
    assert!(matches!(tried.read(&mut byte).await, Ok(0) | Err(_)), "not a byte went there");
}

#[tokio::test]
async fn a_server_that_breaks_off_before_anybody_spoke_is_a_reset() {
    let pair = pair(V4).await;
    let mut client = pair.open().await;
    Io::from(pair.accept().await).reset();
    expect_reset(&mut client).await;
    pair.client.wait_for_reason("upstream-reset").await;
}

#[tokio::test]
async fn a_large_body_passes_in_both_directions_at_once() {
    let pair = pair(V6).await;
    let (client, app) = pair.open_carried().await;
    let pump = |io: TcpStream| async move {
        let (mut read, mut write) = io.into_split();
        let send = async move {
            let piece = vec![7_u8; 100_000];
            for _ in 0..20 {
                write.write_all(&piece).await.unwrap();
            }
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, n) = tokio::join!(send, read.read_to_end(&mut got));
        n.unwrap()
    };
    assert_eq!(tokio::join!(pump(client), pump(app)), (2_000_000, 2_000_000));
}

#[tokio::test]
async fn what_is_outside_the_mesh_passes_bare_at_its_own_address() {
    let pair = pair(V4).await;
    let outside = TcpListener::bind((V6, 0)).await.unwrap();
    let addr: SocketAddr = outside.local_addr().unwrap();
    let mut client = pair.client.open_to(addr).await;
    client.write_all(b"\x00plain").await.unwrap();
    expect(&mut outside.accept().await.unwrap().0, b"\x00plain").await;
}

/// What one side of an opaque connection sends.
struct Bytes {
    pieces: Vec<Vec<u8>>,
    pause_every: usize,
    /// Reset after so many pieces.
    cut_at: Option<usize>,
}

impl Bytes {
    fn random(dice: &mut fastrand::Rng) -> Self {
        let (count, largest) = (dice.usize(0..20), [1, 100, 5_000, 70_000][dice.usize(0..4)]);
        let mut piece = |_| {
            let len = dice.usize(1..=largest);
            std::iter::repeat_with(|| dice.u8(..)).take(len).collect()
        };
        let pieces = (0..count).map(&mut piece).collect();
        let cut_at = (count > 0 && dice.u8(0..4) == 0).then(|| dice.usize(0..count));
        Self { pieces, pause_every: dice.usize(1..8), cut_at }
    }

    /// Sends all while it reads all; returns what was read, and whether that ended in an orderly way.
    async fn exchange(&self, mut io: TcpStream) -> (Vec<u8>, bool) {
        let mut got = Vec::new();
        let orderly = {
            let (mut read, mut write) = io.split();
            let sending = async {
                for (n, piece) in self.pieces.iter().enumerate() {
                    if self.cut_at == Some(n) {
                        return false;
                    }
                    if n.is_multiple_of(self.pause_every) {
                        sleep(Duration::from_millis(1)).await;
                    }
                    // The first call after a reset is told of it, and a read after that sees a mere end.
                    if write.write_all(piece).await.is_err() {
                        return false;
                    }
                }
                drop(write.shutdown().await);
                true
            };
            let mut sending = pin!(sending);
            let mut reading = pin!(read.read_to_end(&mut got));
            tokio::select! {
                whole = &mut sending => if whole { reading.await.is_ok() } else { false },
                ended = &mut reading => {
                    let orderly = ended.is_ok();
                    sending.await && orderly
                }
            }
        };
        if self.cut_at.is_some() {
            Io::from(io).reset();
        }
        (got, orderly)
    }

    /// Whether this is what came of it, and no cut looked like an end.
    fn check(&self, got: &[u8], orderly: bool, told: &str) {
        let sent = self.pieces.concat();
        assert!(sent.starts_with(got), "{told}: other bytes, or in another order");
        assert!(!orderly || (self.cut_at.is_none() && got.len() == sent.len()), "{told}: a cut looked like an end");
    }
}

#[tokio::test]
async fn random_bytes_pauses_and_resets_are_intact_in_both_directions() {
    let pair = pair(V4).await;
    for seed in 0..150 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let (up, down) = (Bytes::random(&mut dice), Bytes::random(&mut dice));
        let (client, app) = pair.open_carried().await;
        let ((answered, whole_down), (asked, whole_up)) = tokio::join!(up.exchange(client), down.exchange(app));
        up.check(&asked, whole_up, &format!("seed {seed}, up"));
        down.check(&answered, whole_down, &format!("seed {seed}, down"));
        if up.cut_at.is_none() && down.cut_at.is_none() {
            assert!(whole_up && whole_down, "seed {seed}: something was lost");
        }
    }
}
