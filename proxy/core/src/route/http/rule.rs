//! A compiled rule: what happens to the requests that it selects.

use std::sync::Arc;

use http::HeaderMap;
use http::header::MaxSizeReached;
use weft_model::policy::{PolicyId, RetryPolicy};
use weft_model::route::{HeaderModifier, HttpFilter, Timeouts, is_reserved_header};

use super::url::{Redirect, Rewrite};
use crate::ticks::below;

/// A compiled rule. A request keeps its rule until it ends, whatever happens to the snapshot it came from.
#[derive(Debug)]
pub struct Rule {
    pub(super) route: Option<PolicyId>,
    pub(super) name: Option<Arc<str>>,
    pub(super) filters: Filters,
    pub(super) redirect: Option<Redirect>,
    pub(super) backends: Box<[RuleBackend]>,
    pub(super) weights: Weights,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<RetryPolicy>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub enum Pick<'a> {
    /// Nowhere: the rule has no backend with a weight, or this share of it points to nothing. Answered 500.
    Invalid,
    /// To a service port.
    Service {
        /// Its place in [`super::HttpRoutes::backend_keys`].
        index: usize,
        /// What is changed for this backend, after the rule's own filters.
        filters: &'a Arc<Filters>,
    },
}

/// One backend of a rule.
#[derive(Debug)]
pub struct RuleBackend {
    /// Its place in [`super::HttpRoutes::backend_keys`]; `None` where the reference does not resolve.
    pub target: Option<usize>,
    /// Its share, relative to the sum.
    pub weight: u32,
    /// What is changed for this backend, after the rule's own filters.
    pub filters: Arc<Filters>,
}

impl Rule {
    /// The route it belongs to; `None` for the service's own default.
    pub fn route(&self) -> Option<&PolicyId> {
        self.route.as_ref()
    }

    /// Its name, where it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it changes, before the backend's filters.
    pub fn filters(&self) -> &Filters {
        &self.filters
    }

    /// What it answers in place of asking a backend.
    pub fn redirect(&self) -> Option<&Redirect> {
        self.redirect.as_ref()
    }

    /// Its backends, in the order of the resource.
    pub fn backends(&self) -> &[RuleBackend] {
        &self.backends
    }

    /// Its deadlines, or where it has none the service's.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Its retries, or where it has none the service's.
    pub fn retry(&self) -> Option<&RetryPolicy> {
        self.retry.as_ref()
    }

    /// Picks a backend, each with its weight's share of all `roll`s. **Cost:** logarithmic in the backends.
    pub fn pick_backend(&self, roll: u64) -> Pick<'_> {
        let backend = self.weights.pick(roll).and_then(|at| self.backends.get(at));
        match backend {
            Some(RuleBackend { target: Some(index), filters, .. }) => Pick::Service { index: *index, filters },
            _ => Pick::Invalid,
        }
    }
}

/// Weights as running sums.
#[derive(Debug)]
pub(super) struct Weights(Box<[u64]>);

impl Weights {
    pub(super) fn of(weights: impl Iterator<Item = u32>) -> Self {
        let running = weights.scan(0u64, |sum, weight| {
            *sum += u64::from(weight);
            Some(*sum)
        });
        Self(running.collect())
    }

    fn pick(&self, roll: u64) -> Option<usize> {
        let total = self.0.last().copied().filter(|&total| total > 0)?;
        let drawn = below(roll, total);
        Some(self.0.partition_point(|&sum| sum <= drawn))
    }
}

/// Changes to requests and responses; those of headers in order.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    request: Box<[HeaderModifier]>,
    response: Box<[HeaderModifier]>,
    rewrite: Option<Rewrite>,
}

impl Filters {
    /// `prefix`: by which the rule's match finds a path.
    pub(super) fn compile(filters: &[HttpFilter], prefix: &str) -> Self {
        let (mut request, mut response, mut rewrite) = (Vec::new(), Vec::new(), None);
        for filter in filters {
            match filter {
                HttpFilter::RequestHeaders(modifier) => request.push(without_reserved(modifier)),
                HttpFilter::ResponseHeaders(modifier) => response.push(without_reserved(modifier)),
                HttpFilter::Rewrite(written) => rewrite = Some(Rewrite::compile(written, prefix)),
                // The rule's: it is answered before a filter changes anything.
                HttpFilter::Redirect(_) => {}
            }
        }
        Self { request: request.into(), response: response.into(), rewrite }
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty() && self.rewrite.is_none()
    }

    /// What becomes of the request's URL.
    pub fn rewrite(&self) -> Option<&Rewrite> {
        self.rewrite.as_ref()
    }

    /// Changes a request's headers.
    ///
    /// # Errors
    /// More headers than a message can have.
    pub fn on_request(&self, headers: &mut HeaderMap) -> Result<(), MaxSizeReached> {
        self.request.iter().try_for_each(|modifier| apply(modifier, headers))
    }

    /// Changes a response's headers.
    ///
    /// # Errors
    /// More headers than a message can have.
    pub fn on_response(&self, headers: &mut HeaderMap) -> Result<(), MaxSizeReached> {
        self.response.iter().try_for_each(|modifier| apply(modifier, headers))
    }
}

fn without_reserved(modifier: &HeaderModifier) -> HeaderModifier {
    let mut kept = modifier.clone();
    kept.set.retain(|(name, _)| !is_reserved_header(name));
    kept.add.retain(|(name, _)| !is_reserved_header(name));
    kept.remove.retain(|name| !is_reserved_header(name));
    kept
}

fn apply(modifier: &HeaderModifier, headers: &mut HeaderMap) -> Result<(), MaxSizeReached> {
    for (name, value) in &modifier.set {
        headers.try_insert(name, value.clone())?;
    }
    for (name, value) in &modifier.add {
        headers.try_append(name, value.clone())?;
    }
    for name in &modifier.remove {
        headers.remove(name);
    }
    Ok(())
}
