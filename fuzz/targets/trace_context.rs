//! Trace context: what is read is a span that can be told on and read again.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use weft_proxy_core::trace_context::{Incoming, TRACEPARENT, read};

fuzz_target!(|lines: &str| {
    let mut headers = HeaderMap::new();
    for line in lines.lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    let Incoming::Parent { trace_id, span_id, flags, sampled } = read(&headers) else { return };
    assert!(trace_id != 0 && span_id != 0 && flags <= 3);
    assert!(sampled.is_none_or(|sampled| sampled == (flags & 1 == 1)));
    let told = format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}");
    let onward = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::try_from(told).expect("text"))]);
    let again = Incoming::Parent { trace_id, span_id, flags, sampled: Some(flags & 1 == 1) };
    assert_eq!(read(&onward), again);
});
