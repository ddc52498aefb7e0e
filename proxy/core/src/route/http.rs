//! Every HTTPRoute attached to one service port, compiled: all (route, rule, match) in the one order that Gateway API
//! prescribes, found by path first.
//!
//! Host names are not matched: inside the mesh the service is chosen by the original destination (semantics 19).
//! A request is matched by what it looks like on arrival; normalising its path is policy's business, not routing's.

use std::sync::Arc;

use http::{HeaderMap, Method};
use weft_model::resources::ServiceSpec;
use weft_model::service::ServiceKey;

mod compile;
mod index;
mod matching;
mod rule;
mod url;

pub use rule::{Filters, Pick, Rule, RuleBackend};
pub use url::{Asked, Redirect, Rewrite};

use compile::Candidate;
use index::PathIndex;

/// What of a request is matched.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path, without the query.
    pub path: &'a str,
    /// Its query, without the `?`.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// The compiled routes of a service port.
#[derive(Debug)]
pub struct HttpRoutes {
    /// In the order of precedence; candidates of one path stand together.
    candidates: Box<[Candidate]>,
    index: PathIndex,
    rules: Box<[Arc<Rule>]>,
    /// What holds where no route is attached at all.
    fallback: Option<Arc<Rule>>,
    backend_keys: Box<[ServiceKey]>,
}

impl HttpRoutes {
    /// Compiles the routes of a service port. Where none is attached, everything goes to the service itself.
    ///
    /// **Cost:** n log n in the number of matches.
    pub fn compile(spec: &ServiceSpec) -> Self {
        compile::compile(spec)
    }

    /// Finds the rule for a request; `None` where routes are attached and none matches.
    ///
    /// **Cost:** one walk down the path and a scan of the matches that share a matching path; no allocation. The rule
    /// can be kept (`Arc::clone`) for as long as the request lives.
    pub fn select(&self, request: &RequestView<'_>) -> Option<&Arc<Rule>> {
        if let Some(rule) = &self.fallback {
            return Some(rule);
        }
        let candidate = self.index.buckets(request.path).find_map(|bucket| {
            let candidates = self.candidates.get(bucket)?;
            candidates.iter().find(|candidate| candidate.matches(request))
        })?;
        self.rules.get(candidate.rule)
    }

    /// Every service port that some rule sends requests to, each once; [`Pick::Service`] names its place here.
    pub fn backend_keys(&self) -> &[ServiceKey] {
        &self.backend_keys
    }

    /// All rules, in the order of the resources; for display and for registering metrics.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }
}

#[cfg(test)]
mod tests;
