//! HTTP/1 through one proxy.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::{Server, World, local, passthrough, read_exactly, read_head, read_to_end, read_until, say};
use crate::io::Io;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn one_connection_carries_many_requests_and_the_server_sees_one_too() {
    local(async {
        let server = Server::answering(|head| {
            assert!(head.starts_with("GET /a HTTP/1.1\r\nHost: h\r\nX-CaSe: 1\r\n"), "{head}");
            OK.to_owned()
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        for _ in 0..3 {
            client.write_all(b"GET /a HTTP/1.1\r\nHost: h\r\nX-CaSe: 1\r\n\r\n").await.unwrap();
            assert_eq!(read_exactly(&mut client, OK.len()).await, OK);
        }
        world.until_ended("", 3).await;
        assert_eq!(server.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    local(async {
        let server = Server::answering(|head| {
            let path = head.split(' ').nth(1).unwrap();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len())
        })
        .await;
        let world = World::new();
        let client = world.http1(world.outbound(passthrough(server.addr))).await;
        let requests = ["/1", "/22", "/333"].map(|path| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).concat();
        let requests = requests + "GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let answers = say(client, &requests).await;
        let places = ["/1", "/22", "/333", "/last"].map(|path| answers.find(&format!("\r\n\r\n{path}")).unwrap());
        assert!(places.is_sorted(), "{answers}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_without_a_body_ends_with_its_head() {
    local(async {
        for (method, answer) in [
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
            ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ] {
            let server = Server::answering(move |_| answer.to_owned()).await;
            let world = World::new();
            let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
            for _ in 0..2 {
                let request = format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n");
                client.write_all(request.as_bytes()).await.unwrap();
                assert_eq!(read_head(&mut client).await.unwrap(), answer, "{method}");
            }
            assert_eq!(server.connections(), 1, "{method}");
        }
    })
    .await;
}

#[tokio::test]
async fn trailers_pass_both_ways_but_ours_are_removed() {
    local(async {
        let server = Server::start(|mut io, _| async move {
            let sent = read_until(&mut io, "x-sum: 7\r\n\r\n").await.unwrap();
            assert!(sent.ends_with("\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"), "{sent}");
            let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
                          1\r\nz\r\n0\r\nX-T: 1\r\nweft-error: internal\r\n\r\n";
            io.write_all(answer.as_bytes()).await.unwrap();
            drop(io.read_u8().await);
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        let request = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nabc\r\n0\r\nweft-client-id: me\r\nX-Sum: 7\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "\r\n0\r\nx-t: 1\r\n\r\n").await.unwrap();
        assert!(!answer.contains("weft-"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_body_waits_for_100_and_a_refusal_comes_without_it() {
    local(async {
        let server = Server::start(|mut io, n| async move {
            let head = read_head(&mut io).await.unwrap();
            assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
            if n == 0 {
                io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                assert_eq!(read_exactly(&mut io, 5).await, "hello");
                io.write_all(OK.as_bytes()).await.unwrap();
            } else {
                io.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
            // The body that was not asked for never comes.
            assert!(io.read_u8().await.is_err());
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        let head = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        client.write_all(head).await.unwrap();
        assert_eq!(read_head(&mut client).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"hello").await.unwrap();
        assert_eq!(read_exactly(&mut client, OK.len()).await, OK);

        client.write_all(head).await.unwrap();
        let refusal = read_to_end(&mut client).await.unwrap();
        assert!(refusal.starts_with("HTTP/1.1 417 "), "{refusal}");
        // The client cannot know whether its body is still wanted: the connection ends, and says so.
        assert!(refusal.contains("\r\nConnection: close\r\n"), "{refusal}");
    })
    .await;
}

#[tokio::test]
async fn informational_answers_pass_at_once_but_not_to_http_1_0() {
    local(async {
        let server = Server::start(|mut io, _| async move {
            read_head(&mut io).await.unwrap();
            io.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nweft-x: 1\r\n\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            io.write_all(OK.as_bytes()).await.unwrap();
            drop(io.read_u8().await);
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert_eq!(read_head(&mut client).await.unwrap(), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        assert_eq!(read_exactly(&mut client, OK.len()).await, OK);
        let client = world.http1(world.outbound(passthrough(server.addr))).await;
        let answer = say(client, "GET / HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nConnection: close\r\n"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn endless_informational_answers_end() {
    local(async {
        let server = Server::start(|mut io, _| async move {
            while io.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {}
        })
        .await;
        let world = World::new();
        let client = world.http1(world.outbound(passthrough(server.addr))).await;
        let answer = say(client, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        assert!(answer.contains("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
        assert_eq!(answer.matches("102 Processing").count(), 32);
    })
    .await;
}

/// Websocket and CONNECT: what comes right behind the heads belongs to the tunnel already.
#[tokio::test]
async fn tunnels_carry_bytes_both_ways_from_the_first() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (request, answer) in [
        (
            format!("GET /chat HTTP/1.1\r\nHost: h\r\n{upgrade}\r\n"),
            format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n"),
        ),
        ("CONNECT far:1 HTTP/1.1\r\nHost: far:1\r\n\r\n".to_owned(), "HTTP/1.1 200 OK\r\n\r\n".to_owned()),
    ] {
        local(async {
            let (expected, answer_and_more) = (request.clone(), answer.clone() + "early");
            let server = Server::start(move |mut io, _| {
                let (expected, answer) = (expected.clone(), answer_and_more.clone());
                async move {
                    assert_eq!(read_head(&mut io).await.unwrap(), expected);
                    io.write_all(answer.as_bytes()).await.unwrap();
                    assert_eq!(read_to_end(&mut io).await.unwrap(), "first second");
                    io.write_all(b" and late").await.unwrap();
                }
            })
            .await;
            let world = World::new();
            let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
            client.write_all((request.clone() + "first").as_bytes()).await.unwrap();
            assert_eq!(read_exactly(&mut client, answer.len()).await, answer);
            client.write_all(b" second").await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(read_to_end(&mut client).await.unwrap(), "early and late");
            assert_eq!(world.ended(""), 1);
        })
        .await;
    }
}

#[tokio::test]
async fn h2c_is_never_asked_for_and_an_unasked_switch_is_refused() {
    local(async {
        let server = Server::answering(|head| {
            assert!(!head.contains("h2c") && !head.contains("HTTP2-Settings"), "{head}");
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned()
        })
        .await;
        let world = World::new();
        let client = world.http1(world.outbound(passthrough(server.addr))).await;
        let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
                       HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
        let answer = say(client, request).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_gets_an_end_of_its_own() {
    local(async {
        let server = Server::start(|mut io, _| async move {
            read_head(&mut io).await.unwrap();
            io.write_all(b"HTTP/1.0 200 OK\r\n\r\nall there is").await.unwrap();
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
            let answer = read_until(&mut client, "0\r\n\r\n").await.unwrap();
            assert!(answer.contains("\r\nTransfer-Encoding: chunked\r\n"), "{answer}");
        }
        let client = world.http1(world.outbound(passthrough(server.addr))).await;
        let answer = say(client, "GET / HTTP/1.0\r\n\r\n").await;
        assert!(answer.ends_with("\r\n\r\nall there is"), "{answer}");
    })
    .await;
}

/// Whatever way the body's end would be told, a cut is a reset.
#[tokio::test]
async fn a_truncated_answer_is_a_reset_and_never_an_end() {
    for (version, head, reset) in [
        ("1.1", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", false),
        ("1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n", false),
        ("1.1", "HTTP/1.1 200 OK\r\n\r\n", true),
        ("1.0", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n", false),
        ("1.0", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", false),
        ("1.0", "HTTP/1.0 200 OK\r\n\r\n", true),
    ] {
        local(async {
            let server = Server::start(move |mut io, _| async move {
                read_head(&mut io).await.unwrap();
                io.write_all(head.as_bytes()).await.unwrap();
                io.write_all(b"half").await.unwrap();
                // Lets what was sent arrive before a reset overtakes it.
                tokio::time::sleep(Duration::from_millis(20)).await;
                if reset {
                    Io::from(io).reset();
                }
            })
            .await;
            let world = World::new();
            let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
            client.write_all(format!("GET / HTTP/{version}\r\nHost: h\r\n\r\n").as_bytes()).await.unwrap();
            let ended = read_to_end(&mut client).await;
            assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset, "{version} {head}");
            world.until_ended("upstream-reset", 1).await;
            assert_eq!(world.count("weft_requests_total", &["status_code=\"200\"", "class=\"failure\""]), 1);
        })
        .await;
    }
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_are_nobodys_answer() {
    local(async {
        let server = Server::start(|mut io, n| async move {
            while read_head(&mut io).await.is_some() {
                let more = if n == 0 { "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" } else { "" };
                io.write_all((OK.to_owned() + more).as_bytes()).await.unwrap();
            }
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
            assert_eq!(read_exactly(&mut client, OK.len()).await, OK);
        }
        assert_eq!(server.connections(), 2);
    })
    .await;
}

/// The server answers first and reads on: as without us, it gets all, and the connections live.
#[tokio::test]
async fn an_early_answer_does_not_stop_the_upload() {
    local(async {
        const N: usize = 1_000_000;
        let server = Server::start(|mut io, _| async move {
            while read_head(&mut io).await.is_some() {
                io.write_all(OK.as_bytes()).await.unwrap();
                let body = read_exactly(&mut io, N).await;
                assert!(body.bytes().all(|byte| byte == b'x'));
            }
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        for _ in 0..2 {
            client
                .write_all(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {N}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            assert_eq!(read_exactly(&mut client, OK.len()).await, OK);
            client.write_all(&vec![b'x'; N]).await.unwrap();
        }
        world.until_ended("", 2).await;
        assert_eq!(world.count("weft_request_bytes_total", &[]), 2 * N as u64);
        assert_eq!(server.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_refuses_the_rest_is_heard() {
    local(async {
        let server = Server::start(|mut io, _| async move {
            read_head(&mut io).await.unwrap();
            io.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            // With unread bytes this is a reset, and it may overtake us in the middle of a write.
            tokio::time::sleep(Duration::from_millis(20)).await;
        })
        .await;
        let world = World::new();
        for _ in 0..5 {
            let client = world.http1(world.outbound(passthrough(server.addr))).await;
            let (mut read, mut write) = client.into_split();
            let sending = tokio::task::spawn_local(async move {
                write.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n").await.unwrap();
                // The proxy stops reading at some point.
                drop(write.write_all(&vec![b'x'; 9_000_000]).await);
            });
            let mut answer = [0; 200];
            let n = read.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..n]);
            assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("Connection: close"), "{answer}");
            drop(read);
            sending.abort();
        }
        assert_eq!(world.http.tasks.panics(), 0);
    })
    .await;
}

/// The upload fails first, the answer comes later: both must be survived.
#[tokio::test]
async fn an_answer_after_a_failed_upload_is_still_passed_on() {
    local(async {
        let server = Server::start(|mut io, _| async move {
            read_head(&mut io).await.unwrap();
            io.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-").await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            io.write_all(b"Length: 0\r\n\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        client.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n").await.unwrap();
        client.write_all(&[b'x'; 10_000]).await.unwrap();
        let head = read_head(&mut client).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
    })
    .await;
}

#[tokio::test]
async fn a_malformed_body_is_the_clients_fault_and_never_an_end_for_the_server() {
    local(async {
        let server = Server::start(|mut io, _| async move {
            let ended = read_to_end(&mut io).await;
            assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
        })
        .await;
        let world = World::new();
        let client = world.http1(world.outbound(passthrough(server.addr))).await;
        let request = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n";
        let answer = say(client, request).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("weft-error: bad-request"), "{answer}");
        world.until_ended("bad-request", 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_half_closes_gets_its_answer() {
    local(async {
        let server = Server::answering(|_| OK.to_owned()).await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut client).await.unwrap(), OK);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_resets_is_noticed_while_the_server_thinks() {
    local(async {
        let server = Server::start(|mut io, _| async move {
            read_head(&mut io).await.unwrap();
            // Resolves when the proxy gives the request up.
            drop(io.read_u8().await);
        })
        .await;
        let world = World::new();
        let mut client = world.http1(world.outbound(passthrough(server.addr))).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        while server.connections() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Io::from(client).reset();
        world.until_ended("client-gone", 1).await;
    })
    .await;
}

#[tokio::test]
async fn empty_lines_without_end_are_refused() {
    local(async {
        let world = World::new();
        let client = world.http1(world.outbound(passthrough(super::world::nobody().await))).await;
        let (mut read, mut write) = client.into_split();
        let flood = tokio::task::spawn_local(async move { while write.write_all(&[b'\n'; 4096]).await.is_ok() {} });
        let mut answer = [0; 12];
        read.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400");
        flood.abort();
    })
    .await;
}

/// An idle connection, on either side, holds no buffer.
#[tokio::test]
async fn idle_connections_give_their_memory_back() {
    let (mut far, near) = super::world::pair().await;
    let (mut reader, writer) = crate::h1::begin(near.into());
    for len in [30_000, 10] {
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(len));
        far.write_all(head.as_bytes()).await.unwrap();
        drop(reader.request().await.unwrap().unwrap());
    }
    assert!(reader.capacity() > 10_000, "{}", reader.capacity());
    let idle = crate::h1::Connection::reunite(reader, writer, None);
    assert_eq!(idle.reader.capacity(), 0);
}

#[tokio::test]
async fn a_drained_connection_is_told_to_close_and_an_idle_one_is_closed() {
    local(async {
        let server = Server::answering(|_| OK.to_owned()).await;
        let world = World::new();
        let mut idle: TcpStream = world.http1(world.outbound(passthrough(server.addr))).await;
        let mut busy = world.http1(world.outbound(passthrough(server.addr))).await;
        busy.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.draining.begin();
        assert_eq!(read_to_end(&mut idle).await.unwrap(), "");
        busy.write_all(b"Host: h\r\n\r\n").await.unwrap();
        let answer = read_to_end(&mut busy).await.unwrap();
        assert!(answer.ends_with("\r\nConnection: close\r\n\r\nok"), "{answer}");
    })
    .await;
}
