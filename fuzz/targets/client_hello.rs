//! The first bytes of a TLS client: no panic, and bytes that come later do not change what was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proxy_core::client_hello::{PEEK_BYTES_MAX, Parsed, parse};

fuzz_target!(|input: &[u8]| {
    let [cut, hello @ ..] = input else { return };
    let cut = usize::from(*cut) * hello.len() / 256;
    let whole = parse(hello);
    match parse(&hello[..cut]) {
        Parsed::NeedMore => assert!(cut < PEEK_BYTES_MAX, "more is asked for than is ever looked at"),
        decided => assert_eq!(decided, whole, "more bytes changed a decision"),
    }
    if let Parsed::Hello(hello) = whole {
        assert_eq!(hello.offers_mesh(), hello.alpn.iter().any(|protocol| protocol.starts_with(b"weft/")));
        if let Some(name) = hello.server_name {
            assert_eq!(name.to_ascii_lowercase(), *name);
        }
    }
});
