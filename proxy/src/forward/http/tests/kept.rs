//! Bodies that are sent again: the same to the byte, or not at all.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use tokio::io::AsyncWriteExt;
use weft_model::policy::RetryPolicy;
use weft_model::resources::ServiceSpec;

use super::retry::{OK, policy};
use super::world::{
    Server, World, h2_body, h2_request, h2_send, h2_server, local, read_exactly, read_head, read_until, spec, with_spec,
};

/// Pieces of all sizes, in HTTP/1 and HTTP/2, trailers included.
#[tokio::test]
async fn a_body_is_sent_again_byte_by_byte() {
    for (seed, len) in [(1, 1), (2, 5_000), (3, 40_000), (4, 65_536)] {
        let body: Vec<u8> = {
            let mut dice = fastrand::Rng::with_seed(seed);
            std::iter::repeat_with(|| dice.u8(b'a'..=b'z')).take(len).collect()
        };
        for pieces in [1, 7, 300] {
            local(replay_http1(body.clone(), pieces)).await;
            local(replay_http2(body.clone(), pieces)).await;
        }
    }
}

async fn replay_http1(body: Vec<u8>, pieces: usize) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&seen);
    let server = Server::start(move |mut io, _| {
        let told = Rc::clone(&told);
        async move {
            read_head(&mut io).await.unwrap();
            let mut body = String::new();
            loop {
                let line = read_until(&mut io, "\r\n").await.unwrap();
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                body += &read_exactly(&mut io, size).await;
                read_exactly(&mut io, 2).await;
            }
            let trailers = read_until(&mut io, "\r\n\r\n").await.unwrap();
            told.borrow_mut().push((body, trailers));
            let again = told.borrow().len() == 1;
            let answer = if again { "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n" } else { OK };
            io.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let spec = ServiceSpec { retry: Some(RetryPolicy { non_idempotent: true, ..policy() }), ..spec() };
    let world = World::new();
    let mut client = world.http1(world.outbound(with_spec(spec, &[server.addr]))).await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    for piece in body.chunks(body.len().div_ceil(pieces)) {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        client.write_all(&chunk).await.unwrap();
        if pieces < 100 {
            tokio::task::yield_now().await;
        }
    }
    client.write_all(b"0\r\nx-sum: 1\r\n\r\n").await.unwrap();
    assert_eq!(read_exactly(&mut client, OK.len()).await, OK);
    let want = (String::from_utf8(body).unwrap(), "x-sum: 1\r\n\r\n".to_owned());
    assert!(*seen.borrow() == [want.clone(), want], "the bodies differ");
}

async fn replay_http2(body: Vec<u8>, pieces: usize) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&seen);
    let server = h2_server(move |request, mut respond| {
        let told = Rc::clone(&told);
        async move {
            let (body, trailers) = h2_body(request.into_body()).await.unwrap();
            told.borrow_mut().push((body, trailers.unwrap()["x-sum"].clone()));
            let status = if told.borrow().len() == 1 { 503 } else { 200 };
            respond.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
        }
    })
    .await;
    let spec = ServiceSpec { retry: Some(RetryPolicy { non_idempotent: true, ..policy() }), ..spec() };
    let world = World::new();
    let mut client = world.http2(world.outbound(with_spec(spec, &[server.addr]))).await;
    let (response, mut stream) = client.send_request(h2_request("POST"), false).unwrap();
    for piece in body.chunks(body.len().div_ceil(pieces)) {
        h2_send(&mut stream, Bytes::copy_from_slice(piece), false).await.unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("1"));
    stream.send_trailers(trailers).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    let want = (body, http::HeaderValue::from_static("1"));
    assert!(*seen.borrow() == [want.clone(), want], "the bodies differ");
}

#[tokio::test]
async fn a_body_that_is_too_large_to_keep_is_sent_once() {
    local(async {
        let server = h2_server(|request, mut respond| async move {
            h2_body(request.into_body()).await.unwrap();
            respond.send_response(Response::builder().status(503).body(()).unwrap(), true).unwrap();
        })
        .await;
        let spec = ServiceSpec { retry: Some(RetryPolicy { non_idempotent: true, ..policy() }), ..spec() };
        let world = World::new();
        let mut client = world.http2(world.outbound(with_spec(spec, &[server.addr]))).await;
        let (response, mut stream) = client.send_request(h2_request("POST"), false).unwrap();
        h2_send(&mut stream, vec![0; 65_537].into(), true).await.unwrap();
        assert_eq!(response.await.unwrap().status(), 503);
        assert_eq!(world.count("weft_retries_total", &[]), 0);
        assert_eq!(world.count("weft_retry_too_large_total", &[]), 1);
    })
    .await;
}
