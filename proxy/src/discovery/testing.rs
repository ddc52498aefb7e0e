//! A service as routes see it, for tests that do not resolve an address to it.

use std::sync::Arc;

use weft_model::ServiceKey;
use weft_model::resources::{EndpointsDelta, ServiceSpec};
use weft_proxy_core::route::http::HttpRoutes;

use super::service::{Backend, Service, ServiceSnapshot};
use super::subscriptions::std_now;

/// A service whose backends have these endpoints; those that are not named have none.
pub(crate) fn service(spec: ServiceSpec, endpoints: &[(ServiceKey, EndpointsDelta)]) -> Arc<Service> {
    let now = std_now();
    let none = EndpointsDelta {
        reset: true,
        upserted: Vec::new(),
        removed: Vec::new(),
        policy: weft_model::policy::BackendPolicy::default(),
    };
    let backend = |key: &ServiceKey| {
        let told = endpoints.iter().find(|(named, _)| named == key).map_or(&none, |(_, delta)| delta);
        Arc::new(Backend::new(key.clone(), told, now))
    };
    let routes = HttpRoutes::compile(&spec);
    let backends = routes.backend_keys().iter().map(backend).collect();
    let own = backend(&spec.key);
    let key = spec.key.clone();
    Arc::new(Service::new(key, ServiceSnapshot { spec, routes, backends, own }, now))
}
