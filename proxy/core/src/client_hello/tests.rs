use proptest::prelude::*;

use super::{CLIENT_HELLO_BYTES_MAX, ClientHello, PEEK_BYTES_MAX, Parsed, parse};

fn vector16(body: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(body);
    out
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(vector16(body));
    out
}

fn sni(name: &str) -> Vec<u8> {
    let mut entry = vec![0];
    entry.extend(vector16(name.as_bytes()));
    extension(0, &vector16(&entry))
}

fn alpn(protocols: &[&str]) -> Vec<u8> {
    let mut list = Vec::new();
    for protocol in protocols {
        list.push(u8::try_from(protocol.len()).unwrap());
        list.extend_from_slice(protocol.as_bytes());
    }
    extension(16, &vector16(&list))
}

/// A handshake message, without records.
fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(vector16(extensions));
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut out = vec![1, len[1], len[2], len[3]];
    out.extend(body);
    out
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [vec![22, 3, 1], vector16(part)].concat()).collect()
}

fn hello(bytes: &[u8]) -> ClientHello {
    match parse(bytes) {
        Parsed::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

#[test]
fn name_and_protocols_are_read() {
    let bytes = records(&message(&[sni("Shop.Example"), alpn(&["weft/h2", "weft/http1"])].concat()), 1 << 14);
    let hello = hello(&bytes);
    assert_eq!(hello.server_name.as_deref(), Some("shop.example"));
    assert_eq!(hello.alpn, [Box::from(*b"weft/h2"), Box::from(*b"weft/http1") as Box<[u8]>]);
    assert!(hello.offers_mesh());
}

#[test]
fn only_an_alpn_of_ours_is_the_mesh() {
    for (offered, mesh) in [
        (&["h2", "http/1.1"][..], false),
        (&["h2", "weft/tcp"], true),
        (&["weft/future3"], true),
        (&["weft"], false),
        (&["xweft/tcp"], false),
        (&["WEFT/tcp"], false),
        (&[], false),
    ] {
        assert_eq!(hello(&records(&message(&alpn(offered)), 1 << 14)).offers_mesh(), mesh, "{offered:?}");
    }
    assert!(!hello(&records(&message(&[]), 1 << 14)).offers_mesh());
}

#[test]
fn it_is_put_together_from_segments_and_records() {
    let message = message(&[extension(51, &[5; 1800]), sni("a.b"), alpn(&["weft/tcp"])].concat());
    let size = message.len();
    for record in [size, size - 1, 1000, 100, 40] {
        let bytes = records(&message, record);
        assert!(hello(&bytes).offers_mesh(), "records of {record}");
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), Parsed::NeedMore, "{len} bytes, records of {record}");
        }
    }
}

#[test]
fn what_follows_it_is_not_looked_at() {
    let mut bytes = records(&message(&alpn(&["weft/tcp"])), 1 << 14);
    bytes.extend_from_slice(b"anything");
    assert!(hello(&bytes).offers_mesh());
}

#[test]
fn its_length_is_bounded() {
    let too_long = u32::try_from(CLIENT_HELLO_BYTES_MAX - 3).unwrap().to_be_bytes();
    let mut bytes = vec![22, 3, 1, 0x40, 0];
    bytes.extend([1, too_long[1], too_long[2], too_long[3]]);
    assert_eq!(parse(&bytes), Parsed::TooLarge);

    let message = message(&extension(51, &vec![5; 2000]));
    assert_eq!(parse(&records(&message, 1)), Parsed::TooLarge, "one byte a record");

    let largest = self::message(&extension(51, &vec![5; CLIENT_HELLO_BYTES_MAX - 4 - 2 - 32 - 7 - 2 - 4]));
    assert_eq!(largest.len(), CLIENT_HELLO_BYTES_MAX);
    let bytes = records(&largest, 300);
    assert!(bytes.len() <= PEEK_BYTES_MAX);
    assert_eq!(hello(&bytes), ClientHello::default());
}

#[test]
fn other_bytes_are_refused_at_once() {
    let twice = message(&[alpn(&["h2"]), alpn(&["weft/tcp"])].concat());
    let names_twice = message(&[sni("a"), sni("b")].concat());
    let mut trailing = message(&alpn(&["h2"]));
    trailing.push(0);
    trailing[3] += 1;
    let cases: &[(&str, Vec<u8>)] = &[
        ("HTTP", b"GET / HTTP/1.1\r\n".to_vec()),
        ("an alert", vec![21, 3, 1]),
        ("SSL 2", vec![0x80, 0x2e]),
        ("version 2", vec![22, 2]),
        ("version 3.5", vec![22, 3, 5]),
        ("a record over 2^14", vec![22, 3, 1, 0x41]),
        ("one over 2^14 by one", vec![22, 3, 1, 0x40, 0x01]),
        ("an empty record", vec![22, 3, 1, 0, 0]),
        ("a ServerHello", vec![22, 3, 1, 0, 10, 2]),
        ("another record between", [records(&message(&[]), 10)[..15].to_vec(), vec![20]].concat()),
        ("an extension twice", records(&twice, 1 << 14)),
        ("a name twice", records(&names_twice, 1 << 14)),
        ("bytes after the extensions", records(&trailing, 1 << 14)),
        ("an empty protocol", records(&message(&extension(16, &[0, 1, 0])), 1 << 14)),
        ("a list shorter than its extension", records(&message(&extension(16, &[0, 0, 9])), 1 << 14)),
        ("an extension longer than the rest", records(&message(&[0, 16, 0, 9]), 1 << 14)),
    ];
    for (what, bytes) in cases {
        assert_eq!(parse(bytes), Parsed::NotTls, "{what}");
    }
}

#[test]
fn a_name_that_is_no_host_name_is_not_taken() {
    for name in ["", "a b", "a\0b", "a/b", &"a".repeat(254)] {
        assert_eq!(hello(&records(&message(&sni(name)), 1 << 14)).server_name, None, "{name:?}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _parsed = parse(&bytes);
    }

    #[test]
    fn damage_never_panics_and_never_allocates_without_bound(at in 0usize..200, with in any::<u8>(), record in 1usize..300) {
        let mut message = message(&[sni("a.b"), alpn(&["weft/tcp", "h2"])].concat());
        let at = at % message.len();
        message[at] = with;
        let _parsed = parse(&records(&message, record));
    }
}
