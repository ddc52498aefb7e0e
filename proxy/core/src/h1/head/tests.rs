use bytes::{BufMut, BytesMut};
use http::{Method, StatusCode};

use super::{AnswerTo, HeadReader, RequestHead, ResponseHead};
use crate::h1::{
    BodyLength, HEAD_BYTES_MAX, HEADERS_MAX, HeadError, HeadError as E, Persistence, TARGET_BYTES_MAX, TargetForm,
    Version,
};

fn read(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
    HeadReader::default().read_request(&mut BytesMut::from(bytes))
}

fn accepted(bytes: &str) -> RequestHead {
    read(bytes.as_bytes()).unwrap_or_else(|error| panic!("{bytes:?}: {error}")).expect("a complete head")
}

fn read_answer(bytes: &[u8], method: &Method, upgrade: Option<&str>) -> Result<Option<ResponseHead>, HeadError> {
    let upgrade = upgrade.map(|upgrade| upgrade.parse().unwrap());
    let to = AnswerTo { method, upgrade: upgrade.as_ref() };
    HeadReader::default().read_response(&mut BytesMut::from(bytes), &to)
}

fn answer(bytes: &str) -> ResponseHead {
    read_answer(bytes.as_bytes(), &Method::GET, None)
        .unwrap_or_else(|error| panic!("{bytes:?}: {error}"))
        .expect("a complete head")
}

/// What is refused, and why: RFC 9112's rules and the known ways to smuggle one request in another.
const REFUSED: &[(&str, E)] = &[
    // Start line.
    ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", E::MethodInvalid),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", E::MethodInvalid),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLineInvalid),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", E::RequestLineInvalid),
    ("GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", E::MethodInvalid),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", E::RequestLineInvalid),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLineInvalid),
    ("GET / HTTP/1.1\rHost: a\r\n\r\n", E::RequestLineInvalid),
    ("GET /\r\n", E::VersionUnsupported),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", E::VersionUnsupported),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", E::VersionUnsupported),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", E::VersionUnsupported),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::EmptyLines),
    ("\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::EmptyLines),
    ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::BareCr),
    // Target.
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("CONNECT * HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("CONNECT http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetInvalid),
    ("CONNECT a:99999 HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetInvalid),
    ("CONNECT u@a:80 HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetInvalid),
    ("GET /#top HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetInvalid),
    ("GET /<x> HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetInvalid),
    ("GET http://a/#top HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetInvalid),
    ("GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetInvalid),
    ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetInvalid),
    ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", E::HostMismatch),
    ("GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", E::HostMismatch),
    ("GET https://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n", E::HostMismatch),
    ("CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", E::HostMismatch),
    ("CONNECT a:443 HTTP/1.1\r\nHost: a:80\r\n\r\n", E::HostMismatch),
    // Host.
    ("GET / HTTP/1.1\r\n\r\n", E::HostMissing),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", E::HostDuplicate),
    ("GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", E::HostDuplicate),
    ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", E::HostDuplicate),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a:70000\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", E::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", E::HostInvalid),
    // Fields.
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", E::ObsFold),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n", E::ObsFold),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", E::ObsFold),
    ("GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", E::SpaceBeforeColon),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", E::SpaceBeforeColon),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", E::HeaderNameInvalid),
    ("GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", E::HeaderNameInvalid),
    ("GET / HTTP/1.1\r\nHost: a\r\nX@: 1\r\n\r\n", E::HeaderNameInvalid),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", E::BareCr),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\r\n\r\n", E::BareCr),
    ("GET / HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n", E::BareCr),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", E::Nul),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n", E::Nul),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \x0b1\r\n\r\n", E::ControlInValue),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", E::ControlInValue),
    ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", E::ControlInValue),
    // Framing.
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", E::ContentLengthInvalid),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", E::ContentLengthInvalid),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n", E::ContentLengthInvalid),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", E::ContentLengthInvalid),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", E::ContentLengthInvalid),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n", E::ContentLengthInvalid),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", E::ContentLengthInvalid),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", E::ContentLengthInvalid),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 000000000000000000005\r\n\r\n", E::ContentLengthInvalid),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", E::ContentLengthConflict),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::ContentLengthWithTransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: CHUNKED\r\ncontent-length: 0\r\n\r\n",
        E::ContentLengthWithTransferEncoding,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", E::TransferEncodingNotChunked),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", E::TransferEncodingNotChunked),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", E::TransferEncodingNotChunked),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", E::TransferEncodingNotChunked),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", E::TransferEncodingNotChunked),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", E::TransferEncodingNotChunked),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", E::TransferEncodingNotChunked),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", E::TransferEncodingNotChunked),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", E::TransferEncodingUnknown),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n", E::TransferEncodingUnknown),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", E::TransferEncodingUnknown),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::TransferEncodingUnknown,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
        E::TransferEncodingNotChunked,
    ),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", E::TransferEncodingInHttp10),
    ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 1\r\n\r\n", E::ConnectWithContent),
    ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nTransfer-Encoding: chunked\r\n\r\n", E::ConnectWithContent),
];

#[test]
fn malformed_and_ambiguous_requests_are_refused_by_name() {
    for (bytes, expected) in REFUSED {
        let error = read(bytes.as_bytes()).map(|head| panic!("{bytes:?}: {head:?}")).unwrap_err();
        assert_eq!(error, *expected, "{bytes:?}");
    }
}

#[test]
fn each_refusal_has_its_status() {
    let cases = [
        (HeadError::HeadTooLarge, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        (HeadError::HostMissing, StatusCode::BAD_REQUEST),
        (HeadError::TargetTooLong, StatusCode::URI_TOO_LONG),
        (HeadError::TooManyHeaders, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        (HeadError::TransferEncodingUnknown, StatusCode::NOT_IMPLEMENTED),
        (HeadError::VersionUnsupported, StatusCode::HTTP_VERSION_NOT_SUPPORTED),
    ];
    for (error, status) in cases {
        assert_eq!(error.status(), status, "{error}");
    }
}

#[test]
fn requests_are_framed_as_their_fields_say() {
    use BodyLength as B;
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", B::None),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", B::Known(0)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n", B::Known(u64::MAX)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t 5 \t\r\n\r\n", B::Known(5)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", B::Known(5)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 05\r\n\r\n", B::Known(5)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", B::Chunked),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tChUnKeD \r\n\r\n", B::Chunked),
        ("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n", B::Known(5)),
        ("GET / HTTP/1.1\nHost: a\n\n", B::None),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 0\r\n\r\n", B::None),
    ];
    for (bytes, body) in cases {
        let head = accepted(bytes);
        assert_eq!(head.body, body, "{bytes:?}");
        assert!(head.headers.get_all("content-length").iter().count() <= 1, "{bytes:?}");
        assert!(!head.headers.contains_key("transfer-encoding"), "{bytes:?}");
    }
}

#[test]
fn an_octal_looking_length_is_written_in_decimal() {
    let head = accepted("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 010\r\n\r\n");
    assert_eq!(head.body, BodyLength::Known(10));
    assert_eq!(head.headers["content-length"], "10");
}

#[test]
fn targets_keep_their_form_and_every_byte() {
    use TargetForm as F;
    let cases = [
        ("GET", "/", "a", F::Origin, "/", None),
        ("GET", "//b/../c?x=%2F?y", "a", F::Origin, "//b/../c", Some("x=%2F?y")),
        ("GET", "/{\"a\"}|\\^[]", "", F::Origin, "/{\"a\"}|\\^[]", None),
        ("GET", "/caf\u{e9}", "a", F::Origin, "/caf\u{e9}", None),
        ("OPTIONS", "*", "a", F::Asterisk, "*", None),
        ("GET", "http://A.b:80/x?y", "a.B", F::Absolute, "/x", Some("y")),
        ("GET", "http://a?y", "a:80", F::Absolute, "/", Some("y")),
        ("GET", "https://a/", "a:443", F::Absolute, "/", None),
        ("GET", "http://[::1]:81/", "[::1]:81", F::Absolute, "/", None),
        ("CONNECT", "a:443", "a:443", F::Authority, "/", None),
        ("CONNECT", "a:443", "a", F::Authority, "/", None),
        ("BASELINE-CONTROL", "/", "a_b.c-d:", F::Origin, "/", None),
    ];
    for (method, target, host, form, path, query) in cases {
        let head = accepted(&format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(head.form, form, "{target}");
        assert_eq!(head.method.as_str(), method);
        if form != F::Authority {
            assert_eq!((head.uri.path(), head.uri.query()), (path, query), "{target}");
        }
    }
}

#[test]
fn http10_needs_no_host_and_closes_unless_told() {
    let cases = [
        ("GET / HTTP/1.0\r\n\r\n", Persistence::Close),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Persistence::KeepAlive),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", Persistence::Close),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Persistence::KeepAlive),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: CLOSE\r\n\r\n", Persistence::Close),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x,, close\r\n\r\n", Persistence::Close),
    ];
    for (bytes, persistence) in cases {
        assert_eq!(accepted(bytes).persistence, persistence, "{bytes:?}");
    }
}

#[test]
fn what_belongs_to_the_connection_does_not_reach_the_map() {
    let head = accepted(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, host, content-length, te\r\nX-Hop: 1\r\nX-HOP: 2\r\n\
         Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: gzip, Trailers\r\nTE: trailers\r\nUpgrade: x\r\n\
         HTTP2-Settings: AAA\r\nContent-Length: 0\r\nX-End: 3\r\n\r\n",
    );
    let names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["host", "x-end", "te", "content-length"]);
    assert_eq!(head.headers["te"], "trailers");
    assert_eq!(head.upgrade, None);
}

#[test]
fn upgrades_pass_but_never_to_http2() {
    let cases = [
        ("Connection: Upgrade\r\nUpgrade: websocket", Some("websocket")),
        ("Connection: keep-alive, upgrade\r\nUpgrade: h2c, WebSocket, h2", Some("WebSocket")),
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA", None),
        ("Connection: Upgrade\r\nUpgrade: a, h2c\r\nUpgrade: b", Some("a, b")),
        ("Connection: Upgrade\r\nUpgrade: ", None),
        ("Upgrade: websocket", None),
    ];
    for (fields, upgrade) in cases {
        let head = accepted(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        assert_eq!(head.upgrade.as_ref().map(|value| value.to_str().unwrap()), upgrade, "{fields}");
        assert!(!head.headers.contains_key("http2-settings"));
    }
    let old = accepted("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(old.upgrade, None);
}

#[test]
fn only_listed_upgrades_are_retained() {
    let mut head = accepted("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x, WebSocket\r\n\r\n");
    head.retain_upgrades(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    assert_eq!(head.upgrade.as_ref().unwrap(), "WebSocket");
    head.retain_upgrades(|_| false);
    assert_eq!(head.upgrade, None);
}

#[test]
fn an_expectation_counts_only_in_http11() {
    let head = accepted("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n");
    assert!(head.expect_continue && head.headers.contains_key("expect"));
    assert!(!accepted("PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").expect_continue);
    assert!(!accepted("PUT / HTTP/1.1\r\nHost: a\r\nExpect: other\r\n\r\n").expect_continue);
}

#[test]
fn a_head_in_any_pieces_is_the_same_head() {
    let bytes = b"\r\nPOST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\nHost: b\r\n\r\n";
    let mut reader = HeadReader::default();
    let mut buf = BytesMut::new();
    let mut heads = Vec::new();
    for byte in bytes {
        buf.put_u8(*byte);
        if heads.len() == 1 && buf.starts_with(b"abc") {
            buf.clear();
        }
        if heads.len() != 1 || !b"abc".starts_with(&buf) {
            heads.extend(reader.read_request(&mut buf).unwrap());
        }
    }
    let targets: Vec<_> = heads.iter().map(|head| head.uri.to_string()).collect();
    assert_eq!(targets, ["/p", "/next"]);
    assert!(buf.is_empty());
}

#[test]
fn what_follows_the_head_stays_in_the_buffer() {
    let mut buf = BytesMut::from(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2"[..]);
    HeadReader::default().read_request(&mut buf).unwrap().unwrap();
    assert_eq!(buf, "GET /2");
}

#[test]
fn errors_are_found_before_the_head_is_complete() {
    assert_eq!(read(b"\x16\x03\x01\x02\x00").unwrap_err(), HeadError::MethodInvalid);
    assert_eq!(read(b"GET / HTTP/1.1\r\nX : 1\r\n").unwrap_err(), HeadError::SpaceBeforeColon);
}

#[test]
fn a_slow_head_is_not_parsed_for_each_byte() {
    let mut attempt = crate::h1::attempt::Attempt::default();
    let section = vec![b'a'; HEAD_BYTES_MAX];
    let mut parses = 0;
    for len in 1..=section.len() {
        if attempt.is_due(&section[..len]) {
            parses += 1;
            attempt.was_partial(len);
        }
    }
    assert!(parses <= 18, "{parses}");
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    let with = |fields: usize, fill: usize| {
        let mut bytes = String::from("GET / HTTP/1.1\r\nHost: a\r\n");
        for _ in 1..fields {
            bytes.push_str("X: ");
            bytes.push_str(&"y".repeat(fill));
            bytes.push_str("\r\n");
        }
        bytes + "\r\n"
    };
    assert_eq!(accepted(&with(HEADERS_MAX, 1)).headers.len(), HEADERS_MAX);
    assert_eq!(read(with(HEADERS_MAX + 1, 1).as_bytes()).unwrap_err(), HeadError::TooManyHeaders);
    assert!(read(with(2, HEAD_BYTES_MAX - 32).as_bytes()).unwrap().is_some());
    assert_eq!(read(with(2, HEAD_BYTES_MAX).as_bytes()).unwrap_err(), HeadError::HeadTooLarge);
    let complete_but_large = with(2, HEAD_BYTES_MAX - 30);
    assert_eq!(read(complete_but_large.as_bytes()).unwrap_err(), HeadError::HeadTooLarge);
    let target = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(len - 1));
    assert!(read(target(TARGET_BYTES_MAX).as_bytes()).unwrap().is_some());
    assert_eq!(read(target(TARGET_BYTES_MAX + 1).as_bytes()).unwrap_err(), HeadError::TargetTooLong);
    assert_eq!(read(target(2 * HEAD_BYTES_MAX).as_bytes()).unwrap_err(), HeadError::TargetTooLong);
    let method = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(65));
    assert_eq!(read(method.as_bytes()).unwrap_err(), HeadError::MethodInvalid);
}

#[test]
fn a_recycled_map_brings_nothing_into_the_next_head() {
    let mut reader = HeadReader::default();
    let mut buf = BytesMut::from(&b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n"[..]);
    let first = reader.read_request(&mut buf).unwrap().unwrap();
    reader.recycle(first.headers);
    let second = reader.read_request(&mut buf).unwrap().unwrap();
    assert_eq!(second.headers.len(), 1);
    assert_eq!(second.headers["host"], "b");
}

#[test]
fn malformed_responses_are_refused_by_name() {
    let cases: &[(&str, E)] = &[
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", E::StatusLineInvalid),
        ("HTTP/1.1 20 OK\r\n\r\n", E::StatusLineInvalid),
        ("HTTP/1.1 099 OK\r\n\r\n", E::StatusLineInvalid),
        ("HTTP/1.1 2000 OK\r\n\r\n", E::StatusLineInvalid),
        ("HTTP/1.1 200 O\0K\r\n\r\n", E::StatusLineInvalid),
        ("HTTP/1.1 200 OK\rX\r\n\r\n", E::StatusLineInvalid),
        ("HTTP/2.0 200 OK\r\n\r\n", E::VersionUnsupported),
        ("SSH-2.0-OpenSSH_9\r\n\r\n", E::StatusLineInvalid),
        ("HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", E::SpaceBeforeColon),
        ("HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", E::ObsFold),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", E::ContentLengthConflict),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", E::ContentLengthInvalid),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", E::TransferEncodingNotChunked),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", E::TransferEncodingUnknown),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", E::TransferEncodingInHttp10),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", E::SwitchUnasked),
    ];
    for (bytes, expected) in cases {
        let error =
            read_answer(bytes.as_bytes(), &Method::GET, None).map(|head| panic!("{bytes:?}: {head:?}")).unwrap_err();
        assert_eq!(error, *expected, "{bytes:?}");
    }
}

#[test]
fn responses_are_framed_by_request_status_and_fields() {
    use BodyLength as B;
    let cases = [
        (Method::GET, "200 OK\r\nContent-Length: 5", B::Known(5), Persistence::KeepAlive),
        (Method::GET, "200 OK\r\nTransfer-Encoding: chunked", B::Chunked, Persistence::KeepAlive),
        // Normalised to one reading, and the connection is not trusted after it.
        (Method::GET, "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", B::Chunked, Persistence::Close),
        (Method::GET, "200 OK", B::UntilClose, Persistence::Close),
        (Method::GET, "200 OK\r\nConnection: close\r\nContent-Length: 0", B::Known(0), Persistence::Close),
        (Method::HEAD, "200 OK\r\nContent-Length: 5", B::None, Persistence::KeepAlive),
        (Method::HEAD, "200 OK\r\nTransfer-Encoding: chunked", B::None, Persistence::KeepAlive),
        (Method::HEAD, "200 OK", B::None, Persistence::KeepAlive),
        (Method::GET, "204 No Content\r\nContent-Length: 5", B::None, Persistence::KeepAlive),
        (Method::GET, "304 Not Modified\r\nContent-Length: 5", B::None, Persistence::KeepAlive),
        (Method::GET, "100 Continue", B::None, Persistence::KeepAlive),
        (Method::GET, "103 Early Hints\r\nLink: </a>", B::None, Persistence::KeepAlive),
        (Method::CONNECT, "200 OK\r\nContent-Length: 5", B::None, Persistence::Close),
        (Method::CONNECT, "403 No\r\nContent-Length: 5", B::Known(5), Persistence::KeepAlive),
    ];
    for (method, rest, body, persistence) in cases {
        let bytes = format!("HTTP/1.1 {rest}\r\n\r\n");
        let head = read_answer(bytes.as_bytes(), &method, None).unwrap().unwrap();
        assert_eq!((head.body, head.persistence), (body, persistence), "{method} {rest}");
        assert_eq!(head.is_tunnel, method == Method::CONNECT && head.status.is_success(), "{method} {rest}");
    }
}

#[test]
fn a_length_stays_only_where_it_describes_something() {
    let get = |rest: &str| answer(&format!("HTTP/1.1 {rest}\r\nContent-Length: 5\r\n\r\n"));
    assert!(!get("204 No Content").headers.contains_key("content-length"));
    assert!(!get("103 Early Hints").headers.contains_key("content-length"));
    assert!(!get("200 OK\r\nTransfer-Encoding: chunked").headers.contains_key("content-length"));
    assert_eq!(get("304 Not Modified").headers["content-length"], "5");
}

#[test]
fn a_switch_is_taken_only_to_what_was_offered() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    let head = read_answer(switch.as_bytes(), &Method::GET, Some("x, websocket")).unwrap().unwrap();
    assert!(head.is_tunnel && !head.is_informational());
    assert_eq!(head.body, BodyLength::None);
    let other = read_answer(switch.as_bytes(), &Method::GET, Some("x"));
    assert_eq!(other.unwrap_err(), HeadError::SwitchUnasked);
    let bare = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    assert_eq!(read_answer(bare, &Method::GET, Some("x")).unwrap_err(), HeadError::SwitchUnasked);
}

#[test]
fn reason_phrases_are_kept_as_they_are() {
    let cases: &[(&[u8], &[u8])] = &[
        (b"HTTP/1.1 200 OK\r\n\r\n", b"OK"),
        (b"HTTP/1.1 200 Tr\xe8s bien \r\n\r\n", b"Tr\xe8s bien "),
        (b"HTTP/1.1 200 \r\n\r\n", b""),
        (b"HTTP/1.1 200\r\n\r\n", b""),
        (b"HTTP/1.0 299 Odd\n\n", b"Odd"),
    ];
    for (bytes, reason) in cases {
        let head = read_answer(bytes, &Method::GET, None).unwrap().unwrap();
        assert_eq!(head.reason, *reason);
    }
}

#[test]
fn informational_heads_come_one_by_one() {
    let mut buf = BytesMut::from(&b"HTTP/1.1 103 Early Hints\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..]);
    let mut reader = HeadReader::default();
    let to = AnswerTo { method: &Method::GET, upgrade: None };
    let hints = reader.read_response(&mut buf, &to).unwrap().unwrap();
    assert!(hints.is_informational() && hints.upgrade.is_none());
    let last = reader.read_response(&mut buf, &to).unwrap().unwrap();
    assert_eq!((last.status, last.version), (StatusCode::OK, Version::Http11));
    assert!(reader.read_response(&mut buf, &to).unwrap().is_none());
}
