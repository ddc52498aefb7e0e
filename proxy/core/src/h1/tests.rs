//! Properties of the whole codec: nothing panics, nothing has two readings, bodies survive any segmentation.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;

use super::{
    AnswerTo, BodyDecoder, BodyEncoder, BodyLength, Frame, HeadReader, Persistence, RequestHead, Version,
    request_from_h2, request_to_h2, write_request, write_response,
};

/// Pieces from which smuggling is made.
fn hostile_head() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n",
        b"POST /a HTTP/1.1\r\n",
        b"POST / HTTP/1.0\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"GET http://a/ HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 204 \r\n",
        b"HTTP/1.1 101 x\n",
        b"Host: a\r\n",
        b"Host: a:80\n",
        b"Content-Length: 5\r\n",
        b"content-length: 05\r\n",
        b"Content-Length: 6\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-encoding: \tchunked \r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Connection: close, Content-Length, x\r\n",
        b"Connection: Upgrade\r\n",
        b"Upgrade: websocket, h2c\r\n",
        b"TE: trailers\r\n",
        b"X: y\r\n",
        b"X\xff: y\r\n",
        b"X: \xff\r\n",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\0",
        b"\r\n",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
    ];
    vec(prop_oneof![8 => select(pieces).prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..4)], 0..12)
        .prop_map(|pieces| pieces.concat())
}

fn read_request(bytes: &[u8]) -> Option<(RequestHead, BytesMut)> {
    let mut buf = BytesMut::from(bytes);
    let head = HeadReader::default().read_request(&mut buf).ok()??;
    Some((head, buf))
}

/// What a next reader must agree on.
fn reading(head: &RequestHead) -> (BodyLength, Method, String, Version, Option<HeaderValue>, HeaderMap) {
    let target = format!("{:?} {}", head.form, head.uri);
    (head.body, head.method.clone(), target, head.version, head.upgrade.clone(), head.headers.clone())
}

proptest! {
    #[test]
    fn an_accepted_request_has_one_reading(bytes in hostile_head()) {
        if let Some((head, _)) = read_request(&bytes) {
            let mut out = BytesMut::new();
            write_request(&head, Persistence::KeepAlive, &mut out);
            let written = out.clone();
            let (again, rest) = read_request(&out).ok_or_else(|| {
                proptest::test_runner::TestCaseError::fail(format!("refused what we wrote: {written:?}"))
            })?;
            prop_assert!(rest.is_empty());
            prop_assert_eq!(reading(&head), reading(&again));
            let mut twice = BytesMut::new();
            write_request(&again, Persistence::KeepAlive, &mut twice);
            prop_assert_eq!(out, twice);
        }
    }

    #[test]
    fn an_accepted_response_has_one_reading(
        bytes in hostile_head(),
        method in select(vec![Method::GET, Method::HEAD, Method::CONNECT]),
    ) {
        let offered = HeaderValue::from_static("websocket");
        let to = AnswerTo { method: &method, upgrade: Some(&offered) };
        let mut buf = BytesMut::from(&bytes[..]);
        if let Ok(Some(head)) = HeadReader::default().read_response(&mut buf, &to) {
            let mut out = BytesMut::new();
            let outgoing = write_response(&head, Version::Http11, Persistence::KeepAlive, &mut out);
            let again = HeadReader::default().read_response(&mut out, &to).unwrap().unwrap();
            prop_assert!(out.is_empty());
            prop_assert_eq!(again.body, outgoing.body);
            prop_assert_eq!((again.status, again.is_tunnel, &again.upgrade), (head.status, head.is_tunnel, &head.upgrade));
            prop_assert_eq!(&again.reason, &head.reason);
        }
    }

    #[test]
    fn an_accepted_request_that_crosses_to_http2_comes_back(bytes in hostile_head()) {
        let Some((head, _)) = read_request(&bytes) else { return Ok(()) };
        let (body, method) = (head.body, head.method.clone());
        let target = head.uri.path_and_query().cloned();
        if let Ok(request) = request_to_h2(head, http::uri::Scheme::HTTP) {
            let back = request_from_h2(request, body.is_empty()).unwrap();
            prop_assert_eq!(&back.method, &method);
            prop_assert_eq!(back.uri.path_and_query().cloned(), target);
            prop_assert!(back.body == body || (body.is_empty() && back.body.is_empty()));
        }
    }

    #[test]
    fn segmentation_does_not_change_a_head(bytes in hostile_head(), cuts in vec(1_usize..9, 1..64)) {
        let whole = HeadReader::default().read_request(&mut BytesMut::from(&bytes[..]));
        let mut reader = HeadReader::default();
        let mut buf = BytesMut::new();
        let mut pieces = Ok(None);
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (piece, tail) = rest.split_at((*cut).min(rest.len()));
            buf.extend_from_slice(piece);
            rest = tail;
            pieces = reader.read_request(&mut buf);
            if rest.is_empty() || !matches!(pieces, Ok(None)) {
                break;
            }
        }
        match (whole, pieces) {
            (Ok(Some(whole)), Ok(Some(pieces))) => prop_assert_eq!(reading(&whole), reading(&pieces)),
            // An error may be seen earlier or later, but never turned into a message.
            (Ok(None) | Err(_), Ok(None) | Err(_)) => {}
            (whole, pieces) => prop_assert!(false, "{whole:?} against {pieces:?}"),
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..256), length in 0_u64..64) {
        drop(read_request(&bytes));
        let to = AnswerTo { method: &Method::GET, upgrade: None };
        drop(HeadReader::default().read_response(&mut BytesMut::from(&bytes[..]), &to));
        for length in [BodyLength::Chunked, BodyLength::Known(length), BodyLength::None, BodyLength::UntilClose] {
            let mut decoder = BodyDecoder::new(length);
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = decoder.decode(&mut buf) {
                if frame == Frame::End {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_body_survives_any_segmentation(
        parts in vec(vec(any::<u8>(), 0..80), 0..8),
        trailer in "[a-z]{0,12}",
        cuts in vec(1_usize..40, 1..20),
        chunked in any::<bool>(),
    ) {
        let payload = parts.concat();
        let length = if chunked { BodyLength::Chunked } else { BodyLength::Known(payload.len() as u64) };
        let mut wire = BytesMut::new();
        let mut encoder = BodyEncoder::new(length);
        for part in &parts {
            encoder.data(part, &mut wire).unwrap();
        }
        let mut trailers = HeaderMap::new();
        if !trailer.is_empty() {
            trailers.insert("x-trailer", trailer.parse().unwrap());
        }
        encoder.finish(Some(&trailers), &mut wire).unwrap();
        wire.extend_from_slice(b"next message");

        let mut decoder = BodyDecoder::new(length);
        let (mut buf, mut read, mut read_trailers) = (BytesMut::new(), Vec::new(), HeaderMap::new());
        let mut rest = wire.freeze();
        for cut in cuts.iter().cycle() {
            buf.extend_from_slice(&rest.split_to((*cut).min(rest.len())));
            while let Some(frame) = decoder.decode(&mut buf).unwrap() {
                match frame {
                    Frame::Data(data) => read.extend_from_slice(&data),
                    Frame::Trailers(fields) => read_trailers = fields,
                    Frame::End => break,
                }
            }
            if decoder.is_end() || rest.is_empty() {
                break;
            }
        }
        prop_assert!(decoder.is_end());
        prop_assert_eq!(read, payload);
        prop_assert_eq!(read_trailers, if chunked { trailers } else { HeaderMap::new() });
        let left = [Bytes::from(buf), rest].concat();
        prop_assert_eq!(&left[..], b"next message");
    }
}
