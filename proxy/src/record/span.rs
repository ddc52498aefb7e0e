//! A request's place in a trace: read from its headers, decided at the head, told to the next hop, exported where it is
//! sampled.
//!
//! W3C trace context is read and written; B3, single header and several, is read where there is no `traceparent`.
//! Parsing is strict: what is malformed is no context at all. Across an application the trace holds together only if
//! the application passes the headers on (semantics 47).

mod export;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue};
use weft_proxy_core::trace_context::{self, Incoming, TRACEPARENT, TRACESTATE};

pub(crate) use self::export::Exporter;
pub(super) use self::export::SPANS_QUEUED_MAX;
use super::facts::HttpFacts;

/// W3C's flag for "the caller may have recorded this".
const SAMPLED: u8 = 1;

/// Which requests are traced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    /// Whether spans have a place to go.
    pub(super) exporting: bool,
    /// Whether the access log wants trace ids.
    pub(super) logging: bool,
    /// Of requests without a parent, how many begin a recorded trace.
    pub(super) per_million: u32,
}

/// A finished request that is sampled.
#[derive(Debug)]
pub(super) struct Finished {
    /// All of it.
    pub(super) facts: Arc<HttpFacts>,
    /// When it was over.
    pub(super) at: SystemTime,
}

/// A request's place in a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trace {
    /// Nobody asked.
    #[default]
    None,
    /// Known, but not ours to add to: the headers travel as they came.
    Passing(Place),
    /// The head of a trace that is not recorded; told onwards, so that the next hop does not decide again.
    Unsampled(Place),
    /// A span of ours.
    Recorded(Place),
}

/// Ids as W3C defines them; none is zero but `parent_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    trace_id: u128,
    /// Ours where it is recorded, else the caller's.
    span_id: u64,
    /// The caller's span; 0 at the head of a trace.
    parent_id: u64,
    flags: u8,
}

impl Trace {
    /// Reads the caller's context and decides.
    pub(super) fn begin(headers: &HeaderMap, sampling: Sampling, ids: &Ids) -> Self {
        if !sampling.exporting && !sampling.logging {
            return Self::None;
        }
        let heads = |ids: &Ids| ids.chance(sampling.per_million);
        match trace_context::read(headers) {
            Incoming::Denied => Self::None,
            Incoming::None if !sampling.exporting || sampling.per_million == 0 => Self::None,
            Incoming::None => {
                let sampled = heads(ids);
                let flags = if sampled { SAMPLED } else { 0 };
                let place = Place { trace_id: ids.trace_id(), span_id: ids.span_id(), parent_id: 0, flags };
                if sampled { Self::Recorded(place) } else { Self::Unsampled(place) }
            }
            Incoming::Parent { trace_id, span_id, flags, sampled } => {
                let decided_here = sampled.is_none() && sampling.exporting;
                let sampled = sampled.unwrap_or_else(|| sampling.exporting && heads(ids));
                let flags = if sampled { flags | SAMPLED } else { flags & !SAMPLED };
                if sampled && sampling.exporting {
                    return Self::Recorded(Place { trace_id, span_id: ids.span_id(), parent_id: span_id, flags });
                }
                let place = Place { trace_id, span_id, parent_id: span_id, flags };
                if decided_here { Self::Unsampled(place) } else { Self::Passing(place) }
            }
        }
    }

    /// Writes what the next hop is to see.
    pub(super) fn inject(&self, headers: &mut HeaderMap) {
        let (Self::Unsampled(place) | Self::Recorded(place)) = self else { return };
        let text = format!("00-{:032x}-{:016x}-{:02x}", place.trace_id, place.span_id, place.flags);
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(TRACEPARENT, value);
        }
        if place.parent_id == 0 {
            // Vendors' state of a trace that this is not.
            headers.remove(TRACESTATE);
        }
    }

    /// Whether there is a span to export.
    pub(super) fn is_recorded(&self) -> bool {
        matches!(self, Self::Recorded(_))
    }

    /// The trace id, where there is a span to look at.
    pub(super) fn recorded_id(&self) -> Option<u128> {
        match self {
            Self::Recorded(place) => Some(place.trace_id),
            Self::None | Self::Passing(_) | Self::Unsampled(_) => None,
        }
    }

    /// Trace id and span id, where known.
    pub(super) fn ids(&self) -> Option<(u128, u64)> {
        match self {
            Self::None => None,
            Self::Passing(place) | Self::Recorded(place) | Self::Unsampled(place) => {
                Some((place.trace_id, place.span_id))
            }
        }
    }
}

/// A worker's source of ids and chances. Not for secrets: a trace id hides nothing.
///
/// **Source:** `SplitMix64` (Steele, Lea, Flood 2014), started from the standard library's random keys.
pub(super) struct Ids(Cell<u64>);

impl Ids {
    pub(super) fn new() -> Self {
        Self(Cell::new(RandomState::new().hash_one(0)))
    }

    fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn trace_id(&self) -> u128 {
        (u128::from(self.next()) << 64 | u128::from(self.next())).max(1)
    }

    fn span_id(&self) -> u64 {
        self.next().max(1)
    }

    fn chance(&self, per_million: u32) -> bool {
        self.next() % 1_000_000 < u64::from(per_million)
    }
}

#[cfg(test)]
mod tests;
