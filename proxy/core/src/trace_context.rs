//! Reads trace context from headers. What comes in is hostile.
//!
//! **Source:** W3C Trace Context (Recommendation, level 1, and the random flag of level 2); openzipkin/b3-propagation.

#![warn(clippy::indexing_slicing)]

use http::{HeaderMap, HeaderName};

/// The span that asks (W3C).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems add to it (W3C).
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What the caller said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// "Do not trace this", without a context (B3).
    Denied,
    /// Nothing that can be read.
    None,
    /// Its span.
    Parent {
        /// Never zero.
        trace_id: u128,
        /// Never zero.
        span_id: u64,
        /// The flags of W3C that we know; from B3 none but sampled.
        flags: u8,
        /// `None`: the decision is left to us (B3).
        sampled: Option<bool>,
    },
}

/// Reads what the caller said: W3C where it is there, else B3; of what cannot be read, nothing.
pub fn read(headers: &HeaderMap) -> Incoming {
    if headers.contains_key(TRACEPARENT) {
        return only(headers, &TRACEPARENT).and_then(w3c).unwrap_or(Incoming::None);
    }
    if headers.contains_key(B3) {
        return only(headers, &B3).and_then(b3_single).unwrap_or(Incoming::None);
    }
    b3_several(headers).unwrap_or(Incoming::None)
}

/// The one value of a header; a second one makes it ambiguous.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?
}

fn w3c(value: &str) -> Option<Incoming> {
    let version = u8::try_from(hex(value.get(..2)?, 2)?).ok()?;
    // 0xff is forbidden; version 0 ends here; a later version may go on after another dash.
    let rest = value.get(55..)?;
    if version == 0xff || (version == 0 && !rest.is_empty()) || !(rest.is_empty() || rest.starts_with('-')) {
        return None;
    }
    let mut parts = value.get(3..55)?.split('-');
    let trace_id = hex(parts.next()?, 32).filter(|id| *id != 0)?;
    let span_id = u64::try_from(hex(parts.next()?, 16)?).ok().filter(|id| *id != 0)?;
    let flags = u8::try_from(hex(parts.next()?, 2)?).ok()?;
    if parts.next().is_some() || value.get(2..3) != Some("-") {
        return None;
    }
    // Sampled, and whether the trace id is random; what a later version adds is not ours to repeat.
    let flags = flags & 0x03;
    Some(Incoming::Parent { trace_id, span_id, flags, sampled: Some(flags & 1 == 1) })
}

/// `{trace id}-{span id}[-{sampled}[-{parent span id}]]`, or a decision alone.
fn b3_single(value: &str) -> Option<Incoming> {
    if value == "0" {
        return Some(Incoming::Denied);
    }
    let mut parts = value.split('-');
    let (trace_id, span_id) = (b3_trace_id(parts.next()?)?, b3_span_id(parts.next()?)?);
    let sampled = match parts.next() {
        None => None,
        Some("0") => Some(false),
        Some("1" | "d") => Some(true),
        Some(_) => return None,
    };
    let parent = parts.next();
    let parent_is_good = parent.is_none_or(|parent| hex(parent, 16).is_some());
    (parent_is_good && parts.next().is_none()).then(|| b3_parent(trace_id, span_id, sampled))
}

fn b3_several(headers: &HeaderMap) -> Option<Incoming> {
    let sampled = match only(headers, &B3_SAMPLED) {
        _ if only(headers, &B3_FLAGS) == Some("1") => Some(true),
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        Some(_) => return None,
        None => None,
    };
    let Some(trace_id) = only(headers, &B3_TRACE_ID) else {
        return (sampled == Some(false)).then_some(Incoming::Denied);
    };
    let (trace_id, span_id) = (b3_trace_id(trace_id)?, b3_span_id(only(headers, &B3_SPAN_ID)?)?);
    Some(b3_parent(trace_id, span_id, sampled))
}

fn b3_parent(trace_id: u128, span_id: u64, sampled: Option<bool>) -> Incoming {
    Incoming::Parent { trace_id, span_id, flags: u8::from(sampled == Some(true)), sampled }
}

/// 128 bits, or the older 64.
fn b3_trace_id(text: &str) -> Option<u128> {
    hex(text, 32).or_else(|| hex(text, 16)).filter(|id| *id != 0)
}

fn b3_span_id(text: &str) -> Option<u64> {
    u64::try_from(hex(text, 16)?).ok().filter(|id| *id != 0)
}

/// Exactly so many lower-case hexadecimal digits; at most 32.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let legal = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    if text.len() != digits || !text.bytes().all(legal) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests;
