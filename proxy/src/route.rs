//! Chapter 3: which backend a connection or request is for, and by which rule. It takes one snapshot and answers from
//! it; nothing after it looks at routes again, so that all parts of a decision agree.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_model::policy::{RetryBudget, RetryPolicy};
use weft_model::route::Timeouts;
use weft_model::{PolicyId, ServiceKey};
use weft_proxy_core::route::http::{Filters, Pick, Redirect, RequestView, Rule};

use crate::discovery::{Backend, Service, WorkloadSnapshot};
use crate::error::Reason;
use crate::resolve::Target;

/// Where something goes, and by which rule.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    /// Where it goes.
    pub(crate) to: To,
    /// The service whose retry budget pays; `None` where nothing is retried elsewhere.
    pub(crate) service: Option<Arc<Service>>,
    /// What retries may cost.
    pub(crate) retry_budget: RetryBudget,
    /// The rule of an HTTP request.
    rule: Option<Arc<Rule>>,
    /// What the chosen backend changes, after the rule.
    backend_filters: Option<Arc<Filters>>,
}

/// A destination before balancing.
#[derive(Clone, Debug)]
pub(crate) enum To {
    /// The very address, in plaintext: the application beside us, or something outside the mesh.
    Addr(SocketAddr),
    /// One of a service's endpoints.
    Backend {
        /// Its endpoints.
        backend: Arc<Backend>,
        /// Whether a client keeps its endpoint.
        client_ip_affinity: bool,
    },
    /// One workload, as it is known now.
    Workload(Arc<WorkloadSnapshot>),
}

/// Why a request goes nowhere.
#[derive(Clone, Debug)]
pub(crate) enum Unrouted {
    /// It is refused.
    Refused(Reason),
    /// It is told to ask elsewhere.
    Redirected(Redirected),
}

/// A request that a rule answers with another address.
#[derive(Clone, Debug)]
pub(crate) struct Redirected {
    rule: Arc<Rule>,
    /// The service port that was asked.
    pub(crate) service: ServiceKey,
}

impl Redirected {
    /// The route, for the record.
    pub(crate) fn route(&self) -> Option<&PolicyId> {
        self.rule.route()
    }

    /// Where to, and by which status. `None`: the rule has no redirect after all, which is not how this was made.
    pub(crate) fn redirect(&self) -> Option<&Redirect> {
        self.rule.redirect()
    }

    /// The changes to make to the answer.
    pub(crate) fn filters(&self) -> &Filters {
        self.rule.filters()
    }
}

impl Routed {
    fn plain(to: To) -> Self {
        Self { to, service: None, retry_budget: RetryBudget::default(), rule: None, backend_filters: None }
    }

    /// The changes to make, in order.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &Filters> {
        self.rule.as_deref().map(Rule::filters).into_iter().chain(self.backend_filters.as_deref())
    }

    /// The deadlines of the rule.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.rule.as_deref().map(Rule::timeouts).unwrap_or_default()
    }

    /// The retries that the rule asks for.
    pub(crate) fn retry(&self) -> Option<&RetryPolicy> {
        self.rule.as_deref().and_then(Rule::retry)
    }

    /// The route, for the record.
    pub(crate) fn route(&self) -> Option<&PolicyId> {
        self.rule.as_deref().and_then(Rule::route)
    }

    /// The service port that is meant in the end, for the record.
    pub(crate) fn destination(&self) -> Option<&ServiceKey> {
        match &self.to {
            To::Addr(_) => None,
            To::Backend { backend, .. } => Some(backend.key()),
            To::Workload(workload) => workload.destination.service.as_ref(),
        }
    }
}

/// Routes bytes: rules are about HTTP, so bytes go to the service itself.
pub(crate) fn tcp(target: &Target) -> Routed {
    match target {
        Target::Application(dst) | Target::Passthrough(dst) => Routed::plain(To::Addr(dst.0)),
        Target::Workload(workload) => Routed::plain(To::Workload(workload.snapshot())),
        Target::Service(service) => {
            let snapshot = service.snapshot();
            let backend = Arc::clone(&snapshot.own);
            let to = To::Backend { backend, client_ip_affinity: snapshot.spec.client_ip_affinity };
            let retry_budget = snapshot.spec.retry_budget;
            Routed { service: Some(Arc::clone(service)), retry_budget, ..Routed::plain(to) }
        }
    }
}

/// Routes a request. `roll` chooses among weighted backends.
///
/// **Cost:** reference counts; no allocation.
///
/// # Errors
/// A redirect, [`Reason::NoRoute`] and [`Reason::BackendInvalid`].
pub(crate) fn http(target: &Target, request: &RequestView<'_>, roll: u64) -> Result<Routed, Unrouted> {
    let Target::Service(service) = target else { return Ok(tcp(target)) };
    let snapshot = service.snapshot();
    let rule = snapshot.routes.select(request).ok_or(Unrouted::Refused(Reason::NoRoute))?;
    if rule.redirect().is_some() {
        let redirected = Redirected { rule: Arc::clone(rule), service: snapshot.spec.key.clone() };
        return Err(Unrouted::Redirected(redirected));
    }
    let Pick::Service { index, filters } = rule.pick_backend(roll) else {
        return Err(Unrouted::Refused(Reason::BackendInvalid));
    };
    let backend = snapshot.backends.get(index).ok_or(Unrouted::Refused(Reason::Internal))?;
    Ok(Routed {
        to: To::Backend { backend: Arc::clone(backend), client_ip_affinity: snapshot.spec.client_ip_affinity },
        service: Some(Arc::clone(service)),
        retry_budget: snapshot.spec.retry_budget,
        rule: Some(Arc::clone(rule)),
        backend_filters: Some(Arc::clone(filters)),
    })
}
