use bytes::BytesMut;
use http::uri::Scheme;
use http::{Method, Request, Response};

use super::{request_from_h2, request_to_h2, response_from_h2, response_to_h2, trailers_from_h2};
use crate::h1::{AnswerTo, BodyLength, ConvertError, HeadReader, Persistence, RequestHead, TargetForm, write_request};

/// Names and values.
type Fields = &'static [(&'static str, &'static str)];

fn head(bytes: &str) -> RequestHead {
    HeadReader::default().read_request(&mut BytesMut::from(bytes)).unwrap().unwrap()
}

fn h2(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn written(head: &RequestHead) -> String {
    let mut out = BytesMut::new();
    write_request(head, Persistence::KeepAlive, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn a_request_crosses_to_http2_without_what_it_must_not_carry() {
    let mut head = head(
        "POST /a?b HTTP/1.1\r\nHost: x:81\r\nConnection: close, Y\r\nY: 1\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Cookie: a=1\r\n\r\n",
    );
    head.headers.insert("keep-alive", "1".parse().unwrap());
    let request = request_to_h2(head, Scheme::HTTP).unwrap();
    assert_eq!(request.uri(), "http://x:81/a?b");
    let names: Vec<_> = request.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["te", "cookie"]);
}

#[test]
fn what_depends_on_the_connection_does_not_cross() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", ConvertError::Tunnel),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", ConvertError::Tunnel),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", ConvertError::Authority),
        ("GET / HTTP/1.0\r\n\r\n", ConvertError::Authority),
    ];
    for (bytes, expected) in cases {
        assert_eq!(request_to_h2(head(bytes), Scheme::HTTP).unwrap_err(), expected, "{bytes:?}");
    }
}

#[test]
fn a_request_crosses_from_http2_with_host_first_and_one_cookie() {
    let request =
        h2("GET", "http://x/a?b", &[("accept", "1"), ("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]);
    let head = request_from_h2(request, true).unwrap();
    let expected =
        "GET /a?b HTTP/1.1\r\nHost: x\r\naccept: 1\r\ncookie: a=1; b=2\r\nte: trailers\r\nConnection: TE\r\n\r\n";
    assert_eq!(written(&head), expected);
}

#[test]
fn the_body_of_an_http2_request_is_framed() {
    use BodyLength as B;
    let cases: &[(&str, Fields, bool, B)] = &[
        ("GET", &[], true, B::None),
        ("GET", &[], false, B::Chunked),
        ("POST", &[], true, B::Known(0)),
        ("POST", &[("content-length", "3")], false, B::Known(3)),
        ("POST", &[("content-length", "3"), ("content-length", "3")], false, B::Known(3)),
        ("POST", &[("content-length", "0")], true, B::Known(0)),
    ];
    for (method, fields, is_end, body) in cases {
        let head = request_from_h2(h2(method, "http://x/", fields), *is_end).unwrap();
        assert_eq!(head.body, *body, "{method} {fields:?}");
        assert!(written(&head).matches("content-length").count() <= 1);
    }
}

#[test]
fn malformed_http2_requests_are_refused() {
    let cases: &[(&str, &str, Fields, bool, ConvertError)] = &[
        ("CONNECT", "x:1", &[], false, ConvertError::Tunnel),
        ("GET", "/", &[], true, ConvertError::Authority),
        ("GET", "http://x/", &[("host", "y")], true, ConvertError::Authority),
        ("GET", "http://x/", &[("host", "x"), ("host", "x")], true, ConvertError::Authority),
        ("GET", "http://u@x/", &[], true, ConvertError::Authority),
        ("GET", "http://a,b/", &[], true, ConvertError::Authority),
        ("GET", "*", &[("host", "x")], true, ConvertError::Target),
        ("POST", "http://x/", &[("content-length", "1")], true, ConvertError::ContentLength),
        ("POST", "http://x/", &[("content-length", "1, 1")], false, ConvertError::ContentLength),
        ("POST", "http://x/", &[("content-length", "1"), ("content-length", "2")], false, ConvertError::ContentLength),
    ];
    for (method, uri, fields, is_end, expected) in cases {
        assert_eq!(request_from_h2(h2(method, uri, fields), *is_end).unwrap_err(), *expected, "{uri} {fields:?}");
    }
}

#[test]
fn options_on_the_server_crosses() {
    let head = request_from_h2(h2("OPTIONS", "*", &[("host", "x")]), true).unwrap();
    assert_eq!(head.form, TargetForm::Asterisk);
    assert_eq!(written(&head), "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    let request = h2("OPTIONS", "*", &[("host", "x")]);
    assert!(request_to_h2(request_from_h2(request, true).unwrap(), Scheme::HTTP).is_ok());
}

#[test]
fn responses_cross_in_both_directions() {
    let to = AnswerTo { method: &Method::GET, upgrade: None };
    let bytes = &b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nConnection: X\r\nX: 1\r\nServer: y\r\n\r\n"[..];
    let head = HeadReader::default().read_response(&mut BytesMut::from(bytes), &to).unwrap().unwrap();
    let response = response_to_h2(head).unwrap();
    assert_eq!(response.headers().len(), 1);
    let back = response_from_h2(response, false, &to).unwrap();
    assert_eq!((back.body, &back.reason[..]), (BodyLength::Chunked, &b"OK"[..]));
}

#[test]
fn the_body_of_an_http2_response_is_framed() {
    use BodyLength as B;

    type Case = (Method, u16, Option<&'static str>, bool, Result<B, ConvertError>);
    let cases: &[Case] = &[
        (Method::GET, 200, None, false, Ok(B::Chunked)),
        (Method::GET, 200, None, true, Ok(B::Known(0))),
        (Method::GET, 200, Some("5"), false, Ok(B::Known(5))),
        (Method::GET, 200, Some("5"), true, Err(ConvertError::ContentLength)),
        (Method::HEAD, 200, Some("5"), true, Ok(B::None)),
        (Method::GET, 304, Some("5"), true, Ok(B::None)),
        (Method::GET, 204, None, true, Ok(B::None)),
        (Method::GET, 103, None, false, Ok(B::None)),
        (Method::GET, 101, None, false, Err(ConvertError::Tunnel)),
        (Method::CONNECT, 200, None, false, Err(ConvertError::Tunnel)),
    ];
    for (method, status, length, is_end, expected) in cases {
        let mut response = Response::builder().status(*status);
        if let Some(length) = length {
            response = response.header("content-length", *length);
        }
        let to = AnswerTo { method, upgrade: None };
        let head = response_from_h2(response.body(()).unwrap(), *is_end, &to);
        assert_eq!(head.map(|head| head.body), *expected, "{method} {status} {length:?}");
    }
}

#[test]
fn trailers_lose_what_may_not_stand_there() {
    let mut trailers = http::HeaderMap::new();
    for name in ["grpc-status", "content-length", "host", "connection"] {
        trailers.insert(name, "0".parse().unwrap());
    }
    assert_eq!(trailers_from_h2(trailers).len(), 1);
}
