//! HTTP/2 through one proxy.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::world::{
    Server, World, chain, client_of, h2_body, h2_request, h2_send, h2_server, local, nobody, pair, passthrough,
    read_to_end, to,
};
use crate::connect::DISTRUSTED_MAX;
use crate::forward::http::serve_http2;

fn trailers(value: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(value));
    trailers.insert("weft-error", HeaderValue::from_static("internal"));
    trailers
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    local(async {
        let server = h2_server(|request, mut respond| async move {
            assert_eq!(request.uri(), "http://shop.example/x");
            let (body, sent) = h2_body(request.into_body()).await.unwrap();
            let sent = sent.unwrap();
            assert_eq!((body.len(), sent["grpc-status"].as_bytes(), sent.len()), (200_000, &b"1"[..], 1));
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            h2_send(&mut stream, body.into(), false).await.unwrap();
            stream.send_trailers(trailers("5")).unwrap();
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let mut request = h2_request("POST");
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let (response, mut stream) = client.send_request(request, false).unwrap();
        h2_send(&mut stream, vec![7; 200_000].into(), false).await.unwrap();
        stream.send_trailers(trailers("1")).unwrap();
        let (body, got) = h2_body(response.await.unwrap().into_body()).await.unwrap();
        let got = got.unwrap();
        assert_eq!((body, got["grpc-status"].as_bytes(), got.len()), (vec![7; 200_000], &b"5"[..], 1));
        world.until_ended("", 1).await;
        assert_eq!(world.count("weft_requests_total", &["protocol=\"grpc\"", "grpc_status=\"5\""]), 1);
        assert_eq!(world.count("weft_response_bytes_total", &[]), 200_000);
    })
    .await;
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    local(async {
        let server = h2_server(|_, mut respond| async move {
            sleep(Duration::from_millis(5)).await;
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let asked: Vec<_> = (0..50).map(|_| client.send_request(h2_request("GET"), true).unwrap().0).collect();
        for response in asked {
            assert_eq!(response.await.unwrap().status(), 200);
        }
        assert_eq!(server.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn informational_answers_pass() {
    local(async {
        let server = h2_server(|_, mut respond| async move {
            let hints = Response::builder().status(103).header("link", "</a>").header("weft-x", "1").body(()).unwrap();
            respond.send_informational(hints).unwrap();
            sleep(Duration::from_millis(10)).await;
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let (mut response, _) = client.send_request(h2_request("GET"), true).unwrap();
        let hints = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((hints.status().as_u16(), hints.headers().len()), (103, 1));
        assert_eq!(response.await.unwrap().status(), 200);
    })
    .await;
}

/// Answers that are cut never look like an end, and say why where that is not misleading.
#[tokio::test]
async fn a_reset_of_the_answer_passes_with_its_reason() {
    for (said, heard) in [
        (Reason::CANCEL, Reason::CANCEL),
        (Reason::ENHANCE_YOUR_CALM, Reason::ENHANCE_YOUR_CALM),
        (Reason::INTERNAL_ERROR, Reason::INTERNAL_ERROR),
        (Reason::NO_ERROR, Reason::INTERNAL_ERROR),
        (Reason::REFUSED_STREAM, Reason::INTERNAL_ERROR),
    ] {
        local(async {
            let server = h2_server(move |_, mut respond| async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                h2_send(&mut stream, "half".into(), false).await.unwrap();
                sleep(Duration::from_millis(20)).await;
                stream.send_reset(said);
            })
            .await;
            let world = World::new();
            let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
            let (response, _) = client.send_request(h2_request("GET"), true).unwrap();
            let error = h2_body(response.await.unwrap().into_body()).await.unwrap_err();
            assert_eq!(error.reason(), Some(heard), "{said:?}");
            world.until_ended("upstream-reset", 1).await;
        })
        .await;
    }
}

/// The same before any answer, in the middle of the request's body, and in the middle of the answer's.
#[tokio::test]
async fn a_reset_by_the_client_reaches_the_server() {
    for (answered, body_open, said, heard) in [
        (false, false, Reason::CANCEL, Reason::CANCEL),
        (false, true, Reason::CANCEL, Reason::CANCEL),
        (true, false, Reason::CANCEL, Reason::CANCEL),
        (true, false, Reason::ENHANCE_YOUR_CALM, Reason::ENHANCE_YOUR_CALM),
        (true, true, Reason::INTERNAL_ERROR, Reason::INTERNAL_ERROR),
    ] {
        local(async {
            let seen = Rc::new(Cell::new(None));
            let told = Rc::clone(&seen);
            let server = h2_server(move |request, mut respond| {
                let told = Rc::clone(&told);
                async move {
                    let reason = if answered {
                        let mut stream = respond.send_response(Response::new(()), false).unwrap();
                        poll_fn(|cx| stream.poll_reset(cx)).await
                    } else {
                        poll_fn(|cx| respond.poll_reset(cx)).await
                    };
                    told.set(Some(reason.unwrap()));
                    drop(request);
                }
            })
            .await;
            let world = World::new();
            let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
            let (response, mut stream) = client.send_request(h2_request("POST"), !body_open).unwrap();
            while server.connections() == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_millis(20)).await;
            let response = if answered { Some(response.await.unwrap()) } else { None };
            stream.send_reset(said);
            while seen.get().is_none() {
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(seen.get(), Some(heard), "{answered} {body_open} {said:?}");
            world.until_ended("client-gone", 1).await;
            drop(response);
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_is_gone_takes_its_requests_with_it() {
    local(async {
        let server = h2_server(|_request, mut respond| async move {
            drop(poll_fn(|cx| respond.poll_reset(cx)).await);
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let asked: Vec<_> = (0..10).map(|_| client.send_request(h2_request("GET"), true).unwrap()).collect();
        sleep(Duration::from_millis(30)).await;
        drop((asked, client));
        world.until_ended("client-gone", 10).await;
    })
    .await;
}

/// More stalled readers than a connection window of 1 MiB has room for; the next request does not notice.
#[tokio::test]
async fn stalled_streams_do_not_slow_their_siblings() {
    local(async {
        let server = h2_server(|request, mut respond| async move {
            let size = if request.method() == "GET" { 200_000 } else { 10 };
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            drop(h2_send(&mut stream, vec![0; size].into(), true).await);
        })
        .await;
        let world = World::new();
        let mut stalled = Vec::new();
        for _ in 0..40 {
            // A client each, so that only the connection to the server is shared.
            let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
            let (response, _) = client.send_request(h2_request("GET"), true).unwrap();
            stalled.push((response.await.unwrap(), client));
        }
        sleep(Duration::from_millis(50)).await;
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let (response, _) = client.send_request(h2_request("PUT"), true).unwrap();
        assert_eq!(h2_body(response.await.unwrap().into_body()).await.unwrap().0.len(), 10);
        assert_eq!(server.connections(), 1);
        // And those who read on get the rest.
        for (response, _client) in stalled {
            assert_eq!(h2_body(response.into_body()).await.unwrap().0.len(), 200_000);
        }
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_does_not_stop_the_upload() {
    local(async {
        let got = Rc::new(Cell::new(0));
        let told = Rc::clone(&got);
        let server = h2_server(move |request, mut respond| {
            let told = Rc::clone(&told);
            async move {
                respond.send_response(Response::new(()), true).unwrap();
                told.set(h2_body(request.into_body()).await.unwrap().0.len());
            }
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let (response, mut stream) = client.send_request(h2_request("POST"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        h2_send(&mut stream, vec![0; 500_000].into(), true).await.unwrap();
        world.until_ended("", 1).await;
        while got.get() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(got.get(), 500_000);
    })
    .await;
}

/// The server answers and resets with `NO_ERROR`: the answer counts, and the client may stop (RFC 9113 §8.1).
#[tokio::test]
async fn a_server_that_wants_no_more_is_heard() {
    local(async {
        let server = h2_server(|request, mut respond| async move {
            let response = Response::builder().status(413).body(()).unwrap();
            let mut stream = respond.send_response(response, false).unwrap();
            stream.send_data("too much".into(), true).unwrap();
            // The crate resets with NO_ERROR for a request body that is dropped after the answer.
            drop(request);
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let (response, mut stream) = client.send_request(h2_request("POST"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(h2_body(response.into_body()).await.unwrap().0, b"too much");
        assert_eq!(poll_fn(|cx| stream.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
        world.until_ended("", 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_drained_connection_says_goaway_and_finishes() {
    local(async {
        let server = h2_server(|_, mut respond| async move {
            sleep(Duration::from_millis(50)).await;
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let (response, _) = client.send_request(h2_request("GET"), true).unwrap();
        sleep(Duration::from_millis(10)).await;
        world.draining.begin();
        assert_eq!(response.await.unwrap().status(), 200);
        // The next one is refused by the client's own library: the proxy has said GOAWAY and has gone.
        while let Ok(next) = client.clone().ready().await {
            client = next;
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(world.ended(""), 1);
    })
    .await;
}

#[tokio::test]
async fn heads_that_are_too_large_or_have_two_readings_are_refused_and_counted() {
    let large = || Request::builder().uri("http://h/").header("x", "x".repeat(70_000));
    let cases = [
        (large(), 431, "headers-too-large"),
        (Request::builder().uri("http://h/").header("host", "other"), 400, "bad-request"),
        (Request::builder().uri("http://h/").header("host", "h").header("host", "h"), 400, "bad-request"),
        (Request::builder().uri("http://me@h/"), 400, "bad-request"),
    ];
    for (request, status, reason) in cases {
        local(async {
            let world = World::new();
            let mut client = world.http2(world.outbound(passthrough(nobody().await))).await;
            let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()["weft-error"], reason);
            world.until_ended(reason, 1).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_counted() {
    local(async {
        let world = World::new();
        let (mut client, io) = pair().await;
        let (http, session) = (Rc::clone(&world.http), world.outbound(passthrough(nobody().await)));
        spawn_local(async move { serve_http2(&http, io.into(), session).await });
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // DATA on stream 0 (RFC 9113 §6.1: a connection error).
        client.write_all(b"\0\0\x01\0\0\0\0\0\0x").await.unwrap();
        world.until_ended("bad-request", 1).await;
        drop(client);
    })
    .await;
}

#[tokio::test]
async fn head_is_answered_without_a_body_also_by_ourselves() {
    local(async {
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(nobody().await))).await;
        let (response, _) = client.send_request(h2_request("HEAD"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("content-length"));
        assert_eq!(h2_body(response.into_body()).await.unwrap().0, b"");
    })
    .await;
}

/// A tunnel in HTTP/2 is a stream like any other.
#[tokio::test]
async fn connect_carries_bytes_both_ways() {
    local(async {
        let server = h2_server(|request, mut respond| async move {
            assert_eq!(request.uri().to_string(), "far:1");
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let (body, _) = h2_body(request.into_body()).await.unwrap();
            h2_send(&mut stream, body.into(), true).await.unwrap();
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let request = Request::connect("far:1").body(()).unwrap();
        let (response, mut stream) = client.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        h2_send(&mut stream, Bytes::from_static(b"there and back"), true).await.unwrap();
        assert_eq!(h2_body(response.into_body()).await.unwrap().0, b"there and back");
    })
    .await;
}

/// Silence after the preface, or another protocol: nothing is answered, nothing hangs.
#[tokio::test]
async fn a_server_that_does_not_speak_http2_is_a_failure_upstream() {
    local(async {
        let server = Server::start(|mut io, _| async move {
            io.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
            drop(read_to_end(&mut io).await);
        })
        .await;
        let world = World::new();
        let mut client = world.http2(world.outbound(passthrough(server.addr))).await;
        let (response, _) = client.send_request(h2_request("GET"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["weft-error"]),
            (StatusCode::BAD_GATEWAY, &HeaderValue::from_static("upstream-reset"))
        );
    })
    .await;
}

/// On paused time: a connection that carries nothing is ended, one that carries something is not.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_ended_after_five_minutes() {
    let test = async {
        let world = World::new();
        let connect = async || {
            let (client, io) = tokio::io::duplex(4096);
            world.serve2(io.into(), world.outbound(to(&[])));
            client_of(client).await
        };
        let (idle, mut busy) = (connect().await, connect().await);
        // Without an endpoint it is answered after a second; its body never ends.
        let (response, _stream) = busy.send_request(h2_request("POST"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 503);
        let (_open, _also) = (idle.clone(), busy.clone());
        sleep(Duration::from_secs(290)).await;
        assert!(idle.clone().ready().await.is_ok() && busy.clone().ready().await.is_ok());
        sleep(Duration::from_secs(20)).await;
        assert!(idle.ready().await.is_err());
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

/// An anchor that is trusted no longer takes with it what it authenticated (semantics 35), also what is under way.
#[tokio::test]
async fn a_distrusted_connection_is_cut_by_the_sweep() {
    local(async {
        let server = h2_server(|request, mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            h2_send(&mut stream, "half".into(), false).await.unwrap();
            drop(h2_body(request.into_body()).await);
        })
        .await;
        let (near, _far, target) = chain(server.addr).await;
        let mut client = near.http2(near.outbound(target.clone())).await;
        let (response, _stream) = client.send_request(h2_request("POST"), false).unwrap();
        let response = response.await.unwrap();
        near.http.pool.sweep(tokio::time::Instant::now(), |_| true);
        assert_eq!(near.http.requests.inside(), 1);
        // What is under way has a few seconds, which pass at once here.
        tokio::time::pause();
        near.http.pool.sweep(tokio::time::Instant::now(), |_| false);
        tokio::task::yield_now().await;
        assert_eq!(near.http.requests.inside(), 1);
        tokio::time::advance(DISTRUSTED_MAX).await;
        tokio::time::resume();
        assert!(h2_body(response.into_body()).await.is_err());
        near.until_ended("upstream-reset", 1).await;
        // Whoever comes next gets a new connection.
        let (response, _stream) = client.send_request(h2_request("POST"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    })
    .await;
}
