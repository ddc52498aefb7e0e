use proptest::prelude::*;

use super::{DETECT_BYTES_MAX, Detected, Detection, HTTP2_PREFACE, detect, server_first_evidence};

#[test]
fn the_first_bytes_decide() {
    use Detected::{Http1, Http2, Opaque, Tls};
    let cases: &[(&[u8], Detected)] = &[
        (b"GET / HTTP/1.1\r\n", Http1),
        (b"GET / HTTP/1.", Http1),
        (b"get /a?b=c HTTP/1.0\r\n", Http1),
        (b"M-SEARCH * HTTP/1.1\r\n", Http1),
        (b"OPTIONS * HTTP/1.1\r\n", Http1),
        (b"CONNECT example.com:443 HTTP/1.1\r\n", Http1),
        (b"CONNECT [::1]:443 HTTP/1.1\r\n", Http1),
        (b"GET http://a/b HTTP/1.1\r\n", Http1),
        (b"PRI * HTTP/1.1\r\n", Http1),
        (b"PROPFIND /\xc3\xa9 HTTP/1.1\r\n", Http1),
        (HTTP2_PREFACE, Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", Http2),
        (b"PRI * HTTP/2.0\r\n\r\nXX", Opaque),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", Tls),
        (b"\x16\x03\x03\x00\x05\x01", Tls),
        (b"\x16\x03\x01\x02\x00\x02", Opaque),
        (b"\x16\x02", Opaque),
        (b"\x15\x03\x01", Opaque),
        (b"*3\r\n$3\r\nSET\r\n", Opaque),
        (b"PING\r\n", Opaque),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Opaque),
        (b"SSH-2.0-OpenSSH_9.6 Debian-4\r\n", Opaque),
        (b"CONNECT {\"verbose\":false}\r\n", Opaque),
        (b"get key\r\n", Opaque),
        (b"GET /\r\n", Opaque),
        (b"GET  / HTTP/1.1", Opaque),
        (b"GET / HTTP/3", Opaque),
        (b"GET / HTTQ", Opaque),
        (b"GET\t/ HTTP/1.1", Opaque),
        (b" GET / HTTP/1.1", Opaque),
        (b"\r\nGET / HTTP/1.1", Opaque),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Opaque),
        (b"\x00", Opaque),
        (b"\xff", Opaque),
        (b"AVERYLONGWORDTHATISNOTATALLAMETHODBECAUSE", Opaque),
    ];
    for (bytes, want) in cases {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(detect(bytes), Detection::Found(*want), "{text:?}");
    }
}

#[test]
fn a_prefix_of_something_known_needs_more() {
    let whole: &[&[u8]] =
        &[b"GET / HTTP/1.", b"M-SEARCH * HTTP/1.", HTTP2_PREFACE, b"\x16\x03\x01\x02\x00\x01", b"CONNECT a:1 HTTP/1."];
    for bytes in whole {
        for len in 0..bytes.len() {
            assert_eq!(detect(&bytes[..len]), Detection::NeedMore, "{len} of {:?}", String::from_utf8_lossy(bytes));
        }
    }
}

#[test]
fn waiting_is_bounded() {
    let mut bytes = b"GET /".to_vec();
    bytes.resize(DETECT_BYTES_MAX - 1, b'a');
    assert_eq!(detect(&bytes), Detection::NeedMore);
    bytes.push(b'a');
    assert_eq!(detect(&bytes), Detection::Found(Detected::Opaque));
}

#[test]
fn what_http_servers_say_unasked_is_no_evidence() {
    let cases: &[(&[u8], bool)] = &[
        (b"", false),
        (b"H", false),
        (b"HTTP/1.1 408 Request Timeout\r\n", false),
        (b"HTTP/1.", false),
        (b"HELO", true),
        (b"220 mail ESMTP\r\n", true),
        (b"+OK ready\r\n", true),
        (b"SSH-2.0-x\r\n", true),
        (b"INFO {\"server_id\"", true),
        // MariaDB's greeting: little-endian length, sequence 0, protocol 10.
        (b"\x6e\x00\x00\x00\x0a5.5.5", true),
        // SETTINGS with three entries, then only parts of its header.
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03", false),
        (b"\x00", false),
        (b"\x00\x00\x12", false),
        (b"\x00\x00\x12\x04\x00\x00\x00", false),
        (b"\x00\x00\x00\x04\x01\x00\x00\x00\x00", false),
        // GOAWAY at once.
        (b"\x00\x00\x08\x07\x00\x00\x00\x00\x00", false),
        // Not a multiple of an entry's size; another stream; another type; too large.
        (b"\x00\x00\x11\x04", true),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x01", true),
        (b"\x00\x00\x12\x01", true),
        (b"\x00\x41", true),
        (b"\x01", true),
    ];
    for (bytes, want) in cases {
        assert_eq!(server_first_evidence(bytes), *want, "{:?}", String::from_utf8_lossy(bytes));
    }
}

proptest! {
    #[test]
    fn more_bytes_never_change_a_decision(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0usize..64) {
        let cut = cut.min(bytes.len());
        if let Detection::Found(found) = detect(&bytes[..cut]) {
            prop_assert_eq!(detect(&bytes), Detection::Found(found));
        }
    }

    #[test]
    fn more_of_a_line_never_changes_a_decision(line in "(GET|PRI|[A-Z*]{1,4})[ /*a-z]{0,4}( HTTP/[12][.]?)?[\\r\\n ]{0,3}", cut in 0usize..32) {
        let bytes = line.as_bytes();
        let cut = cut.min(bytes.len());
        if let Detection::Found(found) = detect(&bytes[..cut]) {
            prop_assert_eq!(detect(bytes), Detection::Found(found));
        }
    }

    #[test]
    fn evidence_never_goes_away(bytes in proptest::collection::vec(0u8..8, 0..12), cut in 0usize..12) {
        let cut = cut.min(bytes.len());
        if server_first_evidence(&bytes[..cut]) {
            prop_assert!(server_first_evidence(&bytes));
        }
    }
}
