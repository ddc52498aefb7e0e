//! The end of a proxy, step by step (semantics 24, 25).

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use weft_tls::Alpn;

use super::world::{GET, OK, Settings, V4, expect, expect_reset, head, identity, pair, pair_of, rest, status, until};

#[tokio::test]
async fn a_drain_sends_clients_elsewhere_and_goes_on_accepting() {
    let pair = pair(V4).await;
    pair.server.ends.inbound.begin();
    for _ in 0..2 {
        let mut stranger = pair.server.knock().await;
        stranger.write_all(GET.as_bytes()).await.unwrap();
        let mut app = pair.accept().await;
        head(&mut app).await;
        app.write_all(OK.as_bytes()).await.unwrap();
        let answer = head(&mut stranger).await;
        assert_eq!(status(&answer), 200);
        assert!(answer.to_lowercase().contains("connection: close\r\n"), "{answer}");
        assert_eq!(rest(&mut stranger).await, "ok", "and it ends");
    }
    // Bytes too, in mesh TLS.
    drop(pair.open_carried().await);
}

#[tokio::test]
async fn http2_is_told_goaway_and_finishes_what_it_has() {
    let pair = pair(V4).await;
    let tls = pair.world.ca.mesh(identity("order").as_str(), &pair.world.time);
    let tcp = TcpStream::connect(pair.server.inbound).await.unwrap();
    let (peer, ..) = tls.connect(tcp, &identity("payment"), Alpn::H2).await.unwrap();
    let (send, connection) = h2::client::handshake(peer).await.unwrap();
    let request = http::Request::get("http://payment/").body(()).unwrap();
    let talk = async {
        let (answer, _) = send.ready().await.unwrap().send_request(request, true).unwrap();
        let app = async {
            let app = pair.accept().await;
            let mut io = h2::server::handshake(app).await.unwrap();
            let (_, mut respond) = io.accept().await.unwrap().unwrap();
            pair.server.ends.inbound.begin();
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"done"), true).unwrap();
            while io.accept().await.is_some() {}
        };
        let read = async {
            let mut body = answer.await.unwrap().into_body();
            body.data().await.unwrap().unwrap()
        };
        tokio::select! {
            () = app => panic!("the application's connection ended first"),
            body = read => assert_eq!(body, "done"),
        }
    };
    // The connection ends by itself, in an orderly way, once its stream is done.
    let (ended, ()) = tokio::join!(connection, talk);
    if let Err(error) = ended {
        // The client's last word may cross the close; it has all it asked for.
        assert_eq!(error.get_io().map(std::io::Error::kind), Some(std::io::ErrorKind::BrokenPipe), "{error}");
    }
}

#[tokio::test]
async fn once_released_inbound_is_closed_and_outbound_goes_on() {
    let pair = pair(V4).await;
    pair.client.ends.inbound.begin();
    pair.client.ends.released.begin();
    let refused = async || TcpStream::connect(pair.client.inbound).await.is_err();
    for _ in 0..200 {
        if refused().await {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(refused().await, "nobody listens any more");
    drop(pair.open_carried().await);
}

#[tokio::test]
async fn an_idle_connection_ends_in_an_orderly_way_when_released() {
    let pair = pair(V4).await;
    let mut stranger = pair.server.knock().await;
    stranger.write_all(GET.as_bytes()).await.unwrap();
    let mut app = pair.accept().await;
    head(&mut app).await;
    app.write_all(OK.as_bytes()).await.unwrap();
    head(&mut stranger).await;
    expect(&mut stranger, b"ok").await;
    pair.server.ends.inbound.begin();
    pair.server.ends.released.begin();
    assert_eq!(rest(&mut stranger).await, "");
}

#[tokio::test]
async fn the_cut_resets_bytes_and_workers_end() {
    let mut pair = pair(V4).await;
    let (mut client, mut app) = pair.open_carried().await;
    let mut trial = pair.open().await;
    let _tried = pair.accept().await;
    let left = {
        let ends = &pair.client.ends;
        ends.inbound.drain(std::time::Duration::ZERO).await;
        ends.released.drain(std::time::Duration::from_secs(5)).await;
        ends.outbound.drain(std::time::Duration::from_millis(50)).await
    };
    assert_eq!(left, 2);
    expect_reset(&mut client).await;
    expect_reset(&mut trial).await;
    expect_reset(&mut app).await;
    let workers = std::mem::take(&mut pair.client.workers);
    until(|| workers.iter().all(std::thread::JoinHandle::is_finished)).await.expect("workers end");
    for worker in workers {
        worker.join().unwrap().unwrap();
    }
    assert_eq!(pair.client.reason("draining"), 2);
    assert_eq!(pair.client.balance.total(), 0);
}

#[tokio::test]
async fn what_waited_in_the_kernels_queue_is_served_before_the_end() {
    let settings = Settings { connections_max: 1, ..Settings::of(V4) };
    let pair = pair_of(settings, |_| {}).await;
    // The one place is taken; the next three wait, in the proxy or in the kernel.
    let first = pair.open_carried().await;
    let mut waiting = Vec::new();
    for n in 0..3_u8 {
        let mut client = pair.open().await;
        client.write_all(&[0, n]).await.unwrap();
        waiting.push(client);
    }
    let ends = &pair.client.ends;
    let draining = ends.outbound.drain(std::time::Duration::from_secs(10));
    let serving = async {
        drop(first);
        for client in waiting {
            let mut app = pair.accept().await;
            app.write_all(b"!").await.unwrap();
            drop(app);
            drop(client);
        }
    };
    let (left, ()) = tokio::join!(draining, serving);
    assert_eq!(left, 0, "none was cut");
}
