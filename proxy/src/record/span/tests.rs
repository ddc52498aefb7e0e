//! What is read, decided and told onwards.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::{Incoming, read};
use super::{Ids, Sampling, Trace};

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const SPAN: u64 = 0xb7ad_6b71_6920_3331;

#[test]
fn traceparent_is_read_strictly() {
    let parent = |flags| Incoming::Parent { trace_id: TRACE, span_id: SPAN, flags, sampled: Some(flags & 1 == 1) };
    for (value, want) in [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", parent(1)),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", parent(0)),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", parent(3)),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff", parent(3)),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", parent(1)),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", parent(1)),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more", Incoming::None),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", Incoming::None),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Incoming::None),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", Incoming::None),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", Incoming::None),
        ("00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01", Incoming::None),
        ("00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-001", Incoming::None),
        ("00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Incoming::None),
        ("00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Incoming::None),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", Incoming::None),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1", Incoming::None),
        ("", Incoming::None),
        ("00-é", Incoming::None),
    ] {
        assert_eq!(read(&headers(&[("traceparent", value)])), want, "{value:?}");
    }
}

#[test]
fn two_traceparents_are_none() {
    let value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(read(&headers(&[("traceparent", value), ("traceparent", value)])), Incoming::None);
}

#[test]
fn b3_is_read_where_there_is_no_traceparent() {
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let parent = |trace_id, sampled| Incoming::Parent {
        trace_id,
        span_id: SPAN,
        flags: u8::from(sampled == Some(true)),
        sampled,
    };
    let single = |rest: &str| read(&headers(&[("b3", &format!("{trace}-{span}{rest}"))]));
    assert_eq!(single(""), parent(TRACE, None));
    assert_eq!(single("-1"), parent(TRACE, Some(true)));
    assert_eq!(single("-d"), parent(TRACE, Some(true)));
    assert_eq!(single("-0-b7ad6b7169203331"), parent(TRACE, Some(false)));
    assert_eq!(single("-x"), Incoming::None);
    assert_eq!(single("-1-short"), Incoming::None);
    assert_eq!(single("-1-b7ad6b7169203331-more"), Incoming::None);
    assert_eq!(read(&headers(&[("b3", "0")])), Incoming::Denied);
    assert_eq!(
        read(&headers(&[("b3", "8448eb211c80319c-b7ad6b7169203331-1")])),
        parent(0x8448_eb21_1c80_319c, Some(true))
    );
    let several = |more: &[(&str, &str)]| {
        let mut all = vec![("x-b3-traceid", trace), ("x-b3-spanid", span)];
        all.extend(more);
        read(&headers(&all))
    };
    assert_eq!(several(&[]), parent(TRACE, None));
    assert_eq!(several(&[("x-b3-sampled", "1")]), parent(TRACE, Some(true)));
    assert_eq!(several(&[("x-b3-flags", "1")]), parent(TRACE, Some(true)));
    assert_eq!(several(&[("x-b3-sampled", "0")]), parent(TRACE, Some(false)));
    assert_eq!(several(&[("x-b3-sampled", "2")]), Incoming::None);
    assert_eq!(read(&headers(&[("x-b3-traceid", trace)])), Incoming::None);
    assert_eq!(read(&headers(&[("x-b3-sampled", "0")])), Incoming::Denied);
    let both = [("traceparent", "nonsense"), ("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1")];
    assert_eq!(read(&headers(&both)), Incoming::None, "a traceparent that is there decides");
}

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
