//! A thousand bodies whose readers have stopped. All in memory and on paused time, so that what the proxy has taken and
//! not passed on can be counted to the byte.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::sleep;
use weft_model::EndpointSpec;
use weft_model::policy::BackendPolicy;

use super::world::{World, client_of, endpoint, h2_request, h2_send, id, local, own, service_of, spec};
use crate::connect::Handoff;
use crate::resolve::Target;

const EXCHANGES: usize = 1_000;
/// What one may hold (issue: 1,000 stalled bodies within 1,000 × 128 KiB).
const HELD_MAX: usize = 128 * 1024;
/// What waits in the pipes on both sides of the proxy.
const CLIENT_PIPE: usize = 4 * 1024;
const SERVER_PIPE: usize = 64 * 1024;
const BODY: usize = 100_000_000;

/// A world whose only service is our own workload: requests come out of `handed`.
fn world() -> (World, Target, mpsc::Receiver<Handoff>) {
    let world = World::new();
    let ours =
        EndpointSpec { workload: Some(own()), identity: Some(id("own")), ..endpoint("10.0.0.9:80".parse().unwrap()) };
    let target = Target::Service(service_of(spec(), vec![ours], BackendPolicy::default()));
    let handed = world.handed.take().unwrap();
    (world, target, handed)
}

/// Writes a body for as long as somebody takes it.
async fn pour(mut io: impl tokio::io::AsyncWrite + Unpin, head: String, poured: Rc<Cell<usize>>) {
    io.write_all(head.as_bytes()).await.unwrap();
    let piece = [b'x'; 1000];
    while let Ok(n) = io.write(&piece).await {
        poured.set(poured.get() + n);
    }
}

#[tokio::test(start_paused = true)]
async fn uploads_that_nobody_reads() {
    local(async {
        let (world, target, mut handed) = world();
        let poured = Rc::new(Cell::new(0));
        let mut clients = Vec::new();
        for _ in 0..EXCHANGES {
            let (client, io) = duplex(CLIENT_PIPE);
            world.serve(io.into(), world.outbound(target.clone()));
            let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY}\r\n\r\n");
            clients.push(spawn_local(pour(client, head, Rc::clone(&poured))));
        }
        // Time moves on only when everybody waits for somebody.
        sleep(Duration::from_secs(1)).await;
        let mut stalled = Vec::new();
        while let Ok(handoff) = handed.try_recv() {
            stalled.push(handoff);
        }
        assert_eq!(stalled.len(), EXCHANGES);
        let held = poured.get() / EXCHANGES - CLIENT_PIPE - SERVER_PIPE;
        assert!(held <= HELD_MAX, "{held} bytes each");
        assert!(held > 0, "nothing was held at all");
        assert_eq!(world.http.requests.inside() as usize, EXCHANGES);
        // All at once: what a client goes on sending while it is told of a failure is read and thrown away.
        clients.iter().for_each(tokio::task::JoinHandle::abort);
        drop(stalled);
        world.until_settled().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn downloads_that_nobody_reads() {
    local(async {
        let (world, target, mut handed) = world();
        let poured = Rc::new(Cell::new(0));
        let mut clients: Vec<DuplexStream> = Vec::new();
        for _ in 0..EXCHANGES {
            let (mut client, io) = duplex(CLIENT_PIPE);
            world.serve(io.into(), world.outbound(target.clone()));
            client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
            clients.push(client);
            let mut server = handed.recv().await.unwrap().io;
            let poured = Rc::clone(&poured);
            spawn_local(async move {
                assert!(server.read(&mut [0; 4096]).await.unwrap() > 0);
                pour(server, format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"), poured).await;
            });
        }
        sleep(Duration::from_secs(1)).await;
        let held = poured.get() / EXCHANGES - CLIENT_PIPE - SERVER_PIPE;
        assert!(held <= HELD_MAX, "{held} bytes each");
        assert!(held > 0, "nothing was held at all");
        drop(clients);
        world.until_settled().await;
    })
    .await;
}

/// One of many streams of a connection: what its receiver was sent is not held by the proxy any more.
const WINDOW: usize = 65_535;

#[tokio::test(start_paused = true)]
async fn http2_uploads_that_nobody_reads() {
    local(async {
        let (world, target, mut handed) = world();
        let poured = Rc::new(Cell::new(0));
        serve_all(handed_over(&mut handed), |request, respond| async move {
            // Neither answers nor reads.
            sleep(Duration::from_secs(3600)).await;
            drop((request, respond));
        });
        let mut senders = Vec::new();
        for _ in 0..10 {
            let (client, io) = duplex(CLIENT_PIPE);
            world.serve2(io.into(), world.outbound(target.clone()));
            let mut client = client_of(client).await;
            for _ in 0..EXCHANGES / 10 {
                client = client.ready().await.unwrap();
                let (response, mut stream) = client.send_request(h2_request("POST"), false).unwrap();
                let poured = Rc::clone(&poured);
                spawn_local(async move {
                    while h2_send(&mut stream, Bytes::from_static(&[b'x'; 1000]), false).await.is_ok() {
                        poured.set(poured.get() + 1000);
                    }
                });
                senders.push(response);
            }
        }
        sleep(Duration::from_secs(1)).await;
        let held = poured.get() / EXCHANGES - WINDOW;
        assert!(held <= HELD_MAX, "{held} bytes each");
        assert!(held > 0, "nothing was held at all");
        drop(senders);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http2_downloads_that_nobody_reads() {
    local(async {
        let (world, target, mut handed) = world();
        let poured = Rc::new(Cell::new(0));
        let told = Rc::clone(&poured);
        serve_all(handed_over(&mut handed), move |_request, mut respond| {
            let poured = Rc::clone(&told);
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                while h2_send(&mut stream, Bytes::from_static(&[b'x'; 1000]), false).await.is_ok() {
                    poured.set(poured.get() + 1000);
                }
            }
        });
        let mut stalled = Vec::new();
        for _ in 0..10 {
            let (client, io) = duplex(CLIENT_PIPE);
            world.serve2(io.into(), world.outbound(target.clone()));
            let mut client = client_of(client).await;
            for _ in 0..EXCHANGES / 10 {
                client = client.ready().await.unwrap();
                stalled.push(client.send_request(h2_request("GET"), true).unwrap().0.await.unwrap());
            }
        }
        sleep(Duration::from_secs(1)).await;
        let held = poured.get() / EXCHANGES - WINDOW;
        assert!(held <= HELD_MAX, "{held} bytes each");
        assert!(held > 0, "nothing was held at all");
        drop(stalled);
    })
    .await;
}

fn handed_over(handed: &mut mpsc::Receiver<Handoff>) -> mpsc::Receiver<Handoff> {
    std::mem::replace(handed, mpsc::channel(1).1)
}

/// Serves HTTP/2 on all that our own inbound story is handed.
fn serve_all<F: Future<Output = ()> + 'static>(
    mut handed: mpsc::Receiver<Handoff>,
    script: impl Fn(http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F + Clone + 'static,
) {
    spawn_local(async move {
        while let Some(Handoff { io, .. }) = handed.recv().await {
            let script = script.clone();
            spawn_local(async move {
                let mut builder = h2::server::Builder::new();
                builder.initial_connection_window_size(100_000_000);
                let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    spawn_local(script(request, respond));
                }
            });
        }
    });
}
