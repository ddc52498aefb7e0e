//! Requests: no panic, and one reading. What is accepted, written and read again, says the same and ends at the same
//! byte; a head in pieces is the head as a whole; what crosses to HTTP/2 comes back.
#![no_main]

use bytes::BytesMut;
use http::uri::Scheme;
use libfuzzer_sys::fuzz_target;
use weft_proxy_core::h1::{
    HEADERS_MAX, HeadReader, Persistence, RequestHead, request_from_h2, request_to_h2, write_request,
};

/// `Transfer-Encoding`, `Connection`, `Upgrade`, `Content-Length`, `Host`.
const OUR_FIELDS: usize = 5;

fuzz_target!(|input: &[u8]| {
    let [step, bytes @ ..] = input else { return };
    let mut buf = BytesMut::from(bytes);
    let whole = HeadReader::default().read_request(&mut buf);
    let left = buf.len();

    let mut reader = HeadReader::default();
    let mut buf = BytesMut::new();
    let mut pieces = Ok(None);
    let mut fed = 0;
    for piece in bytes.chunks(usize::from(*step).max(1)) {
        buf.extend_from_slice(piece);
        fed += piece.len();
        pieces = reader.read_request(&mut buf);
        if !matches!(pieces, Ok(None)) {
            break;
        }
    }
    match (whole, pieces) {
        (Ok(Some(whole)), Ok(Some(pieces))) => {
            assert_same(&whole, &pieces);
            assert_eq!(left, bytes.len() - fed + buf.len(), "the head ends elsewhere");
            check(whole);
        }
        (Ok(None) | Err(_), Ok(None) | Err(_)) => {}
        (whole, pieces) => panic!("{whole:?} against {pieces:?}"),
    }
});

fn check(head: RequestHead) {
    // A hop adds fields of its own; a head at the very limit is refused by the next one.
    if head.headers.len() + OUR_FIELDS > HEADERS_MAX {
        return;
    }
    let mut out = BytesMut::new();
    write_request(&head, Persistence::KeepAlive, &mut out);
    let written = out.clone();
    let again = HeadReader::default().read_request(&mut out).expect("what we wrote").expect("a whole head");
    assert!(out.is_empty(), "bytes behind the head: {written:?}");
    assert_same(&head, &again);
    write_request(&again, Persistence::KeepAlive, &mut out);
    assert_eq!(out, written);

    let (body, path) = (head.body, head.uri.path_and_query().cloned());
    if let Ok(request) = request_to_h2(head, Scheme::HTTP) {
        let back = request_from_h2(request, body.is_empty()).expect("our own request");
        assert_eq!(back.body.is_empty(), body.is_empty());
        assert_eq!(back.uri.path_and_query().cloned(), path);
        check_written(&back);
    }
}

fn check_written(head: &RequestHead) {
    let mut out = BytesMut::new();
    write_request(head, Persistence::KeepAlive, &mut out);
    let again = HeadReader::default().read_request(&mut out).expect("what we wrote").expect("a whole head");
    assert_eq!(again.body, head.body);
}

fn assert_same(one: &RequestHead, other: &RequestHead) {
    assert_eq!((one.body, one.form, one.version), (other.body, other.form, other.version));
    assert_eq!((&one.method, &one.uri, &one.headers), (&other.method, &other.uri, &other.headers));
    assert_eq!((&one.upgrade, one.expect_continue), (&other.upgrade, other.expect_continue));
}
