use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode};

use super::{Outgoing, write_informational, write_request, write_response};
use crate::h1::{AnswerTo, BodyLength, HeadReader, Persistence, ResponseHead, Version};

fn forwarded(bytes: &str, persistence: Persistence) -> String {
    let head = HeadReader::default().read_request(&mut BytesMut::from(bytes)).unwrap().unwrap();
    let mut out = BytesMut::new();
    write_request(&head, persistence, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

fn response(bytes: &str, method: &Method) -> ResponseHead {
    let offered = HeaderValue::from_static("websocket");
    let to = AnswerTo { method, upgrade: Some(&offered) };
    HeadReader::default().read_response(&mut BytesMut::from(bytes), &to).unwrap().unwrap()
}

fn answered(bytes: &str, method: &Method, client: Version, persistence: Persistence) -> (String, Outgoing) {
    let mut out = BytesMut::new();
    let outgoing = write_response(&response(bytes, method), client, persistence, &mut out);
    (String::from_utf8(out.to_vec()).unwrap(), outgoing)
}

#[test]
fn a_forwarded_request_keeps_target_order_and_spelling() {
    let unchanged = [
        "GET /a?b HTTP/1.1\r\nHost: x\r\nUSER-agent: 1\r\nx-Y: 2\r\nX-y: 3\r\ndate: now\r\n\r\n",
        "POST / HTTP/1.1\r\naccept: a\r\nhOst: x\r\nCONTENT-LENGTH: 5\r\nX: 1\r\n\r\n",
        "GET http://X:80/a?b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://x?b HTTP/1.1\r\nHost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: 1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
    ];
    for bytes in unchanged {
        let persistence = if bytes.contains("HTTP/1.0") { Persistence::Close } else { Persistence::KeepAlive };
        assert_eq!(forwarded(bytes, persistence), bytes);
    }
}

#[test]
fn a_forwarded_request_says_what_this_hop_does() {
    let get = "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nX: 1\r\n\r\n";
    assert_eq!(forwarded(get, Persistence::KeepAlive), "GET / HTTP/1.1\r\nHost: x\r\nX: 1\r\n\r\n");
    assert_eq!(forwarded(get, Persistence::Close), "GET / HTTP/1.1\r\nHost: x\r\nX: 1\r\nConnection: close\r\n\r\n");
    let old = "GET / HTTP/1.0\r\n\r\n";
    assert_eq!(forwarded(old, Persistence::KeepAlive), "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let lone_lf = "GET / HTTP/1.1\nHost: x\nX: 1\n\n";
    assert_eq!(forwarded(lone_lf, Persistence::KeepAlive), "GET / HTTP/1.1\r\nHost: x\r\nX: 1\r\n\r\n");
}

#[test]
fn framing_follows_the_body_whatever_the_map_holds() {
    let bytes = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut head = HeadReader::default().read_request(&mut BytesMut::from(bytes)).unwrap().unwrap();
    for (name, value) in [("content-length", "7"), ("transfer-encoding", "gzip"), ("connection", "x"), ("upgrade", "y")]
    {
        head.headers.append(name, value.parse().unwrap());
    }
    let mut out = BytesMut::new();
    write_request(&head, Persistence::KeepAlive, &mut out);
    assert_eq!(out, bytes);
    head.body = BodyLength::Known(3);
    out.clear();
    write_request(&head, Persistence::KeepAlive, &mut out);
    assert_eq!(out, "POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\n");
}

#[test]
fn an_added_field_is_written_and_a_removed_one_is_not() {
    let bytes = "GET / HTTP/1.1\r\nHost: x\r\nA-A: 1\r\nB-B: 2\r\nC-C: 3\r\n\r\n";
    let mut head = HeadReader::default().read_request(&mut BytesMut::from(bytes)).unwrap().unwrap();
    head.headers.remove("a-a");
    head.headers.insert("x-new", "4".parse().unwrap());
    let mut out = BytesMut::new();
    write_request(&head, Persistence::KeepAlive, &mut out);
    let text = String::from_utf8(out.to_vec()).unwrap();
    assert!(text.contains("\r\nB-B: 2\r\n") && text.contains("\r\nC-C: 3\r\n") && text.contains("\r\nx-new: 4\r\n"));
    assert!(!text.to_lowercase().contains("a-a"));
}

#[test]
fn responses_keep_reason_order_and_spelling() {
    let unchanged = [
        (
            "HTTP/1.1 200 Fine by me\r\nDATE: now\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 3\r\n\r\n",
            Method::GET,
        ),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nEtag: x\r\n\r\n", Method::GET),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::HEAD),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", Method::GET),
        ("HTTP/1.1 200 Connected\r\n\r\n", Method::CONNECT),
        ("HTTP/1.1 204 \r\n\r\n", Method::GET),
    ];
    for (bytes, method) in unchanged {
        let (text, outgoing) = answered(bytes, &method, Version::Http11, Persistence::KeepAlive);
        assert_eq!(text, bytes);
        assert_eq!(outgoing.persistence, Persistence::KeepAlive);
    }
}

#[test]
fn the_body_of_a_response_is_framed_for_its_client() {
    use BodyLength as B;
    let cases = [
        ("", Version::Http11, B::Chunked, Persistence::KeepAlive, "Transfer-Encoding: chunked\r\n"),
        ("", Version::Http10, B::UntilClose, Persistence::Close, "Connection: close\r\n"),
        ("Transfer-Encoding: chunked\r\n", Version::Http10, B::UntilClose, Persistence::Close, "Connection: close\r\n"),
        (
            "Content-Length: 3\r\n",
            Version::Http10,
            B::Known(3),
            Persistence::KeepAlive,
            "Content-Length: 3\r\nConnection: keep-alive\r\n",
        ),
        ("Upgrade: x\r\n", Version::Http11, B::Chunked, Persistence::KeepAlive, "Transfer-Encoding: chunked\r\n"),
        (
            "Upgrade: h2c, x\r\nConnection: upgrade\r\n",
            Version::Http11,
            B::Chunked,
            Persistence::KeepAlive,
            "Transfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: x\r\n",
        ),
    ];
    for (fields, client, body, persistence, written) in cases {
        let (text, outgoing) =
            answered(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), &Method::GET, client, Persistence::KeepAlive);
        assert_eq!(outgoing, Outgoing { body, persistence }, "{fields:?}");
        assert_eq!(text, format!("HTTP/1.1 200 OK\r\n{written}\r\n"), "{fields:?}");
    }
}

#[test]
fn a_head_of_our_own_is_complete() {
    let mut head = ResponseHead::new(StatusCode::SERVICE_UNAVAILABLE, BodyLength::Known(4));
    head.headers.insert("weft-error", HeaderValue::from_static("no-endpoints"));
    let mut out = BytesMut::new();
    write_response(&head, Version::Http11, Persistence::Close, &mut out);
    let expected = "HTTP/1.1 503 Service Unavailable\r\nweft-error: no-endpoints\r\nContent-Length: 4\r\nConnection: close\r\n\r\n";
    assert_eq!(out, expected);
}

#[test]
fn informational_heads_reach_only_who_may_have_them() {
    let head = response("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 1\r\n\r\n", &Method::GET);
    let mut out = BytesMut::new();
    write_informational(&head, Version::Http10, &mut out);
    assert!(out.is_empty());
    write_informational(&head, Version::Http11, &mut out);
    assert_eq!(out, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
}

#[test]
fn the_largest_length_is_written_whole() {
    let mut out = BytesMut::new();
    let head = ResponseHead { reason: Bytes::new(), ..ResponseHead::new(StatusCode::OK, BodyLength::Known(u64::MAX)) };
    write_response(&head, Version::Http11, Persistence::KeepAlive, &mut out);
    assert_eq!(out, "HTTP/1.1 200 \r\nContent-Length: 18446744073709551615\r\n\r\n");
}
