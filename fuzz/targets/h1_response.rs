//! Responses, to any request and for either version of client: no panic, and one reading.
#![no_main]

use bytes::BytesMut;
use http::{HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use weft_proxy_core::h1::{
    AnswerTo, BodyLength, HEADERS_MAX, HeadReader, Persistence, Version, response_from_h2, response_to_h2,
    write_informational, write_response,
};

/// `Transfer-Encoding`, `Connection`, `Upgrade`, `Content-Length`.
const OUR_FIELDS: usize = 4;

fuzz_target!(|input: &[u8]| {
    let [choice, bytes @ ..] = input else { return };
    let methods = [Method::GET, Method::HEAD, Method::CONNECT, Method::POST];
    let method = &methods[usize::from(choice & 3)];
    let offered = HeaderValue::from_static("websocket, x");
    let to = AnswerTo { method, upgrade: (choice & 4 != 0).then_some(&offered) };
    let client = if choice & 8 == 0 { Version::Http11 } else { Version::Http10 };
    let Ok(Some(head)) = HeadReader::default().read_response(&mut BytesMut::from(bytes), &to) else { return };

    // A hop adds fields of its own; a head at the very limit is refused by the next one.
    if head.headers.len() + OUR_FIELDS > HEADERS_MAX {
        return;
    }
    let mut out = BytesMut::new();
    let outgoing = if head.is_informational() {
        write_informational(&head, Version::Http11, &mut out);
        BodyLength::None
    } else {
        write_response(&head, client, Persistence::KeepAlive, &mut out).body
    };
    let again = HeadReader::default().read_response(&mut out, &to).expect("what we wrote").expect("a whole head");
    assert!(out.is_empty(), "bytes behind the head");
    assert_eq!(again.body, outgoing);
    assert_eq!((again.status, again.is_tunnel, &again.upgrade), (head.status, head.is_tunnel, &head.upgrade));
    assert_eq!(again.reason, head.reason);

    let is_end = head.body.is_empty();
    if let Ok(response) = response_to_h2(head) {
        let back = response_from_h2(response, is_end, &to).expect("our own response");
        assert_eq!(back.body.is_empty(), is_end);
    }
});
