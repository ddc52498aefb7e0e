//! What is decided and told onwards.

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_proxy_core::trace_context::{Incoming, read};

use super::{Ids, Sampling, Trace};

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const SPAN: u64 = 0xb7ad_6b71_6920_3331;

#[test]
fn a_sampled_parent_gets_a_child_whatever_the_rate() {
    let mut headers = headers(&[
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "vendor=1"),
    ]);
    let trace = Trace::begin(&headers, sampling(0), &Ids::new());
    let Trace::Recorded(place) = trace else { panic!("{trace:?}") };
    assert_eq!((place.trace_id, place.parent_id), (TRACE, SPAN));
    assert_ne!(place.span_id, SPAN);
    trace.inject(&mut headers);
    let told = read(&headers);
    assert_eq!(told, Incoming::Parent { trace_id: TRACE, span_id: place.span_id, flags: 1, sampled: Some(true) });
    assert_eq!(headers["tracestate"], "vendor=1");
}

#[test]
fn an_unsampled_parent_passes_untouched() {
    let value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02";
    let mut headers = headers(&[("traceparent", value)]);
    let trace = Trace::begin(&headers, sampling(1_000_000), &Ids::new());
    assert!(matches!(trace, Trace::Passing(_)));
    trace.inject(&mut headers);
    assert_eq!(headers["traceparent"], value);
}

#[test]
fn the_head_decides_once() {
    for (per_million, sampled) in [(1_000_000, true), (1, false)] {
        let mut headers = headers(&[("tracestate", "of=nothing")]);
        let trace = Trace::begin(&headers, sampling(per_million), &Ids::new());
        assert_eq!(trace.is_recorded(), sampled);
        trace.inject(&mut headers);
        assert!(!headers.contains_key("tracestate"));
        assert!(matches!(read(&headers), Incoming::Parent { sampled: Some(is), .. } if is == sampled), "{headers:?}");
        // The next hop follows.
        assert_eq!(Trace::begin(&headers, sampling(1_000_000), &Ids::new()).is_recorded(), sampled);
    }
}

#[test]
fn nothing_is_touched_where_nobody_traces() {
    let off = Sampling { exporting: false, logging: false, per_million: 1_000_000 };
    let mut headers = headers(&[("traceparent", "nonsense")]);
    let trace = Trace::begin(&headers, off, &Ids::new());
    assert_eq!(trace, Trace::None);
    trace.inject(&mut headers);
    assert_eq!(headers["traceparent"], "nonsense");
}

#[test]
fn chances_are_per_million() {
    let ids = Ids::new();
    let hits = (0..100_000).filter(|_| ids.chance(100_000)).count();
    assert!((9_000..11_000).contains(&hits), "{hits}");
    assert!((0..1_000).all(|_| !ids.chance(0) && ids.chance(1_000_000)));
}

fn sampling(per_million: u32) -> Sampling {
    Sampling { exporting: true, logging: false, per_million }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}
