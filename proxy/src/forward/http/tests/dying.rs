//! A peer that closes in order may be asked again elsewhere; one that dies may have done what it was asked.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::AsyncWriteExt;
use weft_model::EndpointSpec;
use weft_model::policy::BackendPolicy;
use weft_tls::testing::{ManualTime, TestCa};

use super::retry::OK;
use super::world::{Server, Setting, World, endpoint, id, local, read_until, service_of, spec};
use crate::resolve::Target;

/// How a peer ends a connection on which it was just asked something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With `close_notify`, as on a connection that was idle for too long.
    InOrder,
    /// Without, as the kernel does for a process that was killed.
    Killed,
}

/// What the second request on a connection gets that ends so, and how many requests the peer saw.
async fn second_request(end: End) -> (String, usize) {
    let (ca, time) = (TestCa::new("mesh"), ManualTime::new());
    let peer = ca.mesh(id("order").as_str(), &time);
    let seen = Rc::new(Cell::new(0));
    let counted = Rc::clone(&seen);
    let server = Server::start(move |io, connection| {
        let (peer, counted) = (peer.clone(), Rc::clone(&counted));
        async move {
            let (mut tls, ..) = peer.accept(io).await.unwrap();
            for request in 0.. {
                if read_until(&mut tls, "\r\n\r\n").await.is_none() {
                    return;
                }
                counted.set(counted.get() + 1);
                match (connection, request, end) {
                    (0, 1, End::InOrder) => return tls.shutdown().await.unwrap(),
                    (0, 1, End::Killed) => return,
                    _ => tls.write_all(OK.as_bytes()).await.unwrap(),
                }
            }
        }
    })
    .await;
    let world = World::with(Setting { tls: ca.mesh(id("web").as_str(), &time), ..Setting::default() });
    let endpoints = vec![EndpointSpec { identity: Some(id("order")), ..endpoint(server.addr) }];
    let target = Target::Service(service_of(spec(), endpoints, BackendPolicy::default()));
    let mut client = world.http1(world.outbound(target)).await;
    let mut answer = String::new();
    for _ in 0..2 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        answer = read_until(&mut client, "\r\n\r\n").await.unwrap();
        if answer.starts_with("HTTP/1.1 200") {
            read_until(&mut client, "ok").await.unwrap();
        }
    }
    (answer, seen.get())
}

#[tokio::test]
async fn a_peer_that_closes_in_order_is_asked_again() {
    local(async {
        let (answer, seen) = second_request(End::InOrder).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(seen, 3);
    })
    .await;
}

/// Without a policy that asks for it: it may have been at work, and a truncated stream is what an attacker makes.
#[tokio::test]
async fn a_peer_that_dies_is_not_asked_again() {
    local(async {
        let (answer, seen) = second_request(End::Killed).await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
        assert!(answer.contains("weft-error: upstream-reset\r\n"), "{answer}");
        assert_eq!(seen, 2);
    })
    .await;
}
