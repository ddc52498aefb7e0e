//! From an answer on the stream to a snapshot, and the only writer of snapshots. An answer is believed as a whole or
//! refused as a whole; a refused one changes nothing and the control plane is told which field was wrong.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_model::resources::{
    Destination, EndpointsDelta, InboundSpec, MeshSpec, Resource, ResourceKey, ServiceSpec, Update,
};
use weft_model::{ServiceKey, WorkloadName};
use weft_proto::convert::{self, Request};
use weft_proto::proxy::v1::WatchResponse;
use weft_proxy_core::authz::Policies;
use weft_proxy_core::route::http::HttpRoutes;
use weft_tls::TrustBundle;

use super::BACKENDS_OF_SERVICE_MAX;
use super::service::{Backend, Inbound, Mesh, Service, ServiceSnapshot, Workload};
use super::subscriptions::{Answer, Books, Staged, std_now};

/// What became of an answer.
enum Applied {
    /// It is in force.
    Now,
    /// It will be, once its backends are known; it is acknowledged then.
    Later,
    /// Nobody asks for it any more.
    Stale,
}

/// Why an answer was refused though each of its fields is valid.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("service.http_routes: {count} different backends are more than {BACKENDS_OF_SERVICE_MAX}")]
    Backends { count: usize },
    #[error("mesh.trust_anchors: {0}")]
    Bundle(weft_tls::bundle::BundleError),
    #[error("destination.workload.endpoint.addr: {answered} is not {asked}")]
    OtherAddress { asked: SocketAddr, answered: SocketAddr },
    #[error("inbound.workload: {0} is not this workload")]
    OtherWorkload(WorkloadName),
    #[error("endpoints.reset: a change to endpoints of which the whole was never told on this stream")]
    WithoutBase,
}

impl Books {
    /// Takes an answer: publishes and acknowledges it, or refuses it.
    pub(super) fn apply(&mut self, response: WatchResponse, own: &WorkloadName) {
        let version = response.version;
        let key = match convert::key_of(&response) {
            Ok(key) => key,
            Err(invalid) => {
                // Without its key it cannot even be refused.
                self.cache.stats.refused.inc();
                tracing::warn!(error = %invalid, "discovery answer without a valid key");
                return;
            }
        };
        if !self.is_subscribed(&key) {
            return;
        }
        let applied = Update::try_from(response)
            .map_err(|invalid| invalid.to_string())
            .and_then(|update| self.take(update, own).map_err(|refused| refused.to_string()));
        match applied {
            Ok(Applied::Now) => self.accept(key, version),
            Ok(Applied::Later | Applied::Stale) => (),
            Err(reason) => {
                self.cache.stats.refused.inc();
                tracing::warn!(%key, version, reason, "discovery answer refused, the last good one stays");
                self.say(Request::Nack { key, version, reason });
            }
        }
    }

    fn accept(&mut self, key: ResourceKey, version: u64) {
        self.cache.stats.accepted.inc();
        tracing::debug!(%key, version, "in force");
        self.is_unkept = true;
        if self.is_stale && self.is_up {
            // An acknowledged version is one that readers see.
            self.publish();
        }
        self.say(Request::Ack { key, version });
    }

    /// Answers that were under way when we unsubscribed are passed over in silence.
    fn is_subscribed(&self, key: &ResourceKey) -> bool {
        match key {
            ResourceKey::Destination(addr) => self.destinations.contains_key(addr),
            ResourceKey::Endpoints(key) => self.backends.contains_key(key),
            ResourceKey::Inbound | ResourceKey::Mesh => true,
            ResourceKey::Service(key) => self.services.contains_key(key),
        }
    }

    fn take(&mut self, update: Update, own: &WorkloadName) -> Result<Applied, Refused> {
        let Update { key, version, resource } = update;
        match (key, resource) {
            (ResourceKey::Destination(addr), Resource::Destination(answer)) => self.take_destination(addr, answer),
            (ResourceKey::Endpoints(key), Resource::Endpoints(delta)) => self.take_endpoints(&key, &delta),
            (ResourceKey::Service(_), Resource::Service(spec)) => self.take_service(version, spec),
            (_, Resource::Inbound(spec)) => self.take_inbound(spec, own),
            (_, Resource::Mesh(spec)) => self.take_mesh(spec),
            // `convert` refuses an answer of another kind than its key.
            (_, Resource::Destination(_) | Resource::Endpoints(_) | Resource::Service(_)) => Ok(Applied::Stale),
        }
    }

    fn take_destination(&mut self, addr: SocketAddr, answer: Destination) -> Result<Applied, Refused> {
        let (now, since) = (std_now(), self.cache.now());
        let Some(entry) = self.destinations.get_mut(&addr) else { return Ok(Applied::Stale) };
        let before = match &entry.answer {
            Some(Answer::Workload(workload)) => Some(Arc::clone(workload)),
            _ => None,
        };
        let (answer, service) = match answer {
            Destination::NotFound => (Answer::NotFound, None),
            Destination::PortNotFound => (Answer::PortNotFound, None),
            Destination::Service(key) => (Answer::Service(key.clone()), Some(key)),
            Destination::Workload(workload) => {
                let answered = workload.endpoint.addr.0;
                if answered != addr {
                    // Traffic would go where the application did not send it.
                    return Err(Refused::OtherAddress { asked: addr, answered });
                }
                let workload = match &before {
                    Some(same) => {
                        same.apply(workload, now);
                        Arc::clone(same)
                    }
                    None => Arc::new(Workload::new(workload, now)),
                };
                (Answer::Workload(workload), None)
            }
        };
        if let (Some(gone), false) = (before, matches!(answer, Answer::Workload(_))) {
            gone.retire(now);
        }
        entry.since = since;
        entry.answer = Some(answer);
        self.is_stale = true;
        if let Some(key) = service {
            self.need_service(&key);
        }
        self.settle(addr);
        self.bound_misses();
        Ok(Applied::Now)
    }

    fn take_endpoints(&mut self, key: &ServiceKey, delta: &EndpointsDelta) -> Result<Applied, Refused> {
        let now = std_now();
        let Some(entry) = self.backends.get_mut(key) else { return Ok(Applied::Stale) };
        if !delta.reset && !entry.has_base {
            return Err(Refused::WithoutBase);
        }
        entry.has_base = true;
        match &entry.backend {
            Some(backend) => backend.apply(delta, now),
            None => {
                entry.backend = Some(Arc::new(Backend::new(key.clone(), delta, now)));
                let waits = |staged: &Staged| &staged.spec.key == key || staged.routes.backend_keys().contains(key);
                let services = self.services.iter().filter(|(_, entry)| entry.staged.as_ref().is_some_and(waits));
                let waiting: Vec<_> = services.map(|(key, _)| key.clone()).collect();
                for service in waiting {
                    self.promote(&service);
                }
            }
        }
        Ok(Applied::Now)
    }

    fn take_service(&mut self, version: u64, spec: ServiceSpec) -> Result<Applied, Refused> {
        let key = spec.key.clone();
        let Some(entry) = self.services.get_mut(&key) else { return Ok(Applied::Stale) };
        if entry.service.as_ref().is_some_and(|service| service.snapshot().spec == spec) {
            // The same again, after a new stream.
            entry.staged = None;
            return Ok(Applied::Now);
        }
        let routes = HttpRoutes::compile(&spec);
        let needed: Vec<ServiceKey> = routes.backend_keys().to_vec();
        if needed.len() > BACKENDS_OF_SERVICE_MAX {
            return Err(Refused::Backends { count: needed.len() });
        }
        entry.staged = Some(Staged { version, spec, routes });
        for backend in &needed {
            self.need_endpoints(backend);
        }
        self.promote(&key);
        Ok(Applied::Later)
    }

    /// Puts a staged version in force if all its backends are known, so that no request ever waits for the endpoints of
    /// a route that is new.
    fn promote(&mut self, key: &ServiceKey) {
        let Some(entry) = self.services.get_mut(key) else { return };
        let known = |key: &ServiceKey| self.backends.get(key).and_then(|entry| entry.backend.clone());
        let Some(staged) = &entry.staged else { return };
        let backends: Option<Box<[_]>> = staged.routes.backend_keys().iter().map(known).collect();
        let (Some(backends), Some(own)) = (backends, known(key)) else { return };
        let Some(Staged { version, spec, routes }) = entry.staged.take() else { return };
        let snapshot = ServiceSnapshot { spec, routes, backends, own };
        match &entry.service {
            Some(service) => service.publish(snapshot),
            None => {
                entry.service = Some(Arc::new(Service::new(key.clone(), snapshot, std_now())));
                self.settle_service(key);
            }
        }
        self.accept(ResourceKey::Service(key.clone()), version);
    }

    fn take_inbound(&mut self, spec: InboundSpec, own: &WorkloadName) -> Result<Applied, Refused> {
        if &spec.workload != own {
            return Err(Refused::OtherWorkload(spec.workload));
        }
        // Sleeping connections are woken only by what is new: after each new stream the same comes again.
        if self.cache.inbound.get().is_none_or(|inbound| inbound.spec != spec) {
            let policies = Policies::compile(&spec);
            self.cache.inbound.publish(Inbound { spec, policies });
        }
        Ok(Applied::Now)
    }

    fn take_mesh(&mut self, spec: MeshSpec) -> Result<Applied, Refused> {
        if self.cache.mesh.get().is_none_or(|mesh| mesh.spec != spec) {
            let trust = TrustBundle::from_der(&spec.trust_anchors).map_err(Refused::Bundle)?;
            self.cache.mesh.publish(Mesh { spec, trust });
        }
        Ok(Applied::Now)
    }
}
