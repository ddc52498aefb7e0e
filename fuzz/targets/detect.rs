//! Protocol detection: no panic, an end within its bound, and a decision that later bytes do not change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proxy_core::detect::{DETECT_BYTES_MAX, Detection, detect, server_first_evidence};

fuzz_target!(|bytes: &[u8]| {
    let mut decided = None;
    // Every prefix of a start, then steps: a client may send byte by byte.
    let steps = (0..bytes.len().min(64)).chain((64..bytes.len()).step_by(61)).chain([bytes.len()]);
    for len in steps {
        match (detect(&bytes[..len]), decided) {
            (Detection::NeedMore, None) => assert!(len < DETECT_BYTES_MAX, "undecided beyond the bound"),
            (Detection::NeedMore, Some(before)) => panic!("{before:?} became undecided at {len}"),
            (Detection::Found(found), None) => decided = Some(found),
            (Detection::Found(found), Some(before)) => assert_eq!(before, found, "changed at {len}"),
        }
    }
    // A server that speaks HTTP early is never evidence of a protocol in which servers speak first.
    if bytes.starts_with(b"HTTP/1.") {
        assert!(!server_first_evidence(bytes));
    }
});
