//! What is read, and what is not.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Incoming, read};

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

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}
