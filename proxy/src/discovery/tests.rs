use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, sleep};
use weft_model::policy::{AuthzAction, AuthzPolicy, BackendPolicy};
use weft_model::resources::{Destination, EgressMode, EndpointsDelta, Lifecycle, Resource, ResourceKey, ServiceSpec};
use weft_model::{EndpointSpec, OriginalDst, PolicyId, ServiceKey};
use weft_proto::convert::Request;

use super::{Cause, DiscoveryError, MISSES_MAX, Resolved, Service, UNANSWERED_MAX};

mod fake;
mod resume;

use fake::{Fake, endpoint, endpoints, inbound, key, mesh, route_to, workload};

const SHOP: &str = "10.96.0.1:80";

fn dst(addr: &str) -> OriginalDst {
    OriginalDst(addr.parse().unwrap())
}

fn addr(addr: &str) -> SocketAddr {
    addr.parse().unwrap()
}

async fn resolve_service(fake: &Fake, addr: &str) -> Arc<Service> {
    match fake.discovery.resolve(dst(addr)).await {
        Ok(Resolved::Service(service)) => service,
        other => panic!("{other:?}"),
    }
}

/// A mesh in which `SHOP` is `shop/order:80` with one endpoint.
async fn shop() -> Fake {
    let fake = Fake::start();
    fake.tell_basics();
    fake.tell_service(SHOP, &key("order"), &["10.0.0.1:8080"]);
    fake.discovery.ready().await;
    fake
}

#[tokio::test(start_paused = true)]
async fn a_destination_is_asked_for_once_it_is_needed() {
    let fake = shop().await;
    assert_eq!(fake.subscribed(), [ResourceKey::Inbound, ResourceKey::Mesh]);
    let service = resolve_service(&fake, SHOP).await;
    assert_eq!(service.snapshot().own.endpoints().len(), 1);
    assert_eq!(service.snapshot().backends[0].key(), &key("order"));
    let order = || key("order");
    let want = [
        ResourceKey::Destination(addr(SHOP)),
        ResourceKey::Endpoints(order()),
        ResourceKey::Inbound,
        ResourceKey::Mesh,
        ResourceKey::Service(order()),
    ];
    assert_eq!(fake.subscribed(), want);
    fake.settled().await;
    for key in want {
        assert!(fake.said(&Request::Ack { key: key.clone(), version: fake.version(&key) }), "{key}");
    }
    // Known now: no await is needed, and nothing is said.
    let said = fake.count_said();
    let again = fake.discovery.resolve(dst(SHOP)).now_or_never().unwrap().unwrap();
    assert!(matches!(again, Resolved::Service(same) if Arc::ptr_eq(&same, &service)));
    fake.settled().await;
    assert_eq!(fake.count_said(), said);
}

#[tokio::test(start_paused = true)]
async fn an_ipv4_mapped_address_is_the_ipv4_address() {
    let fake = shop().await;
    let service = resolve_service(&fake, SHOP).await;
    assert!(Arc::ptr_eq(&service, &resolve_service(&fake, "[::ffff:10.96.0.1]:80").await));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_destination_fails_after_three_seconds_and_never_passes_as_outside() {
    let fake = shop().await;
    let begin = Instant::now();
    let error = fake.discovery.resolve(dst("10.96.0.9:80")).await.unwrap_err();
    assert_eq!(error, DiscoveryError::Unavailable { dst: dst("10.96.0.9:80"), cause: Cause::Deadline });
    assert_eq!(error.reason().as_str(), "discovery-unavailable");
    assert_eq!(begin.elapsed().as_secs(), 3);
    assert_eq!(fake.discovery.cache.stats.lookups_timed_out.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_is_not_found_before_its_endpoints_are() {
    let fake = Fake::start();
    fake.tell_basics();
    fake.tell(ResourceKey::Destination(addr(SHOP)), Resource::Destination(Destination::Service(key("order"))));
    fake.tell(ResourceKey::Service(key("order")), Resource::Service(ServiceSpec::plain(key("order"))));
    let waiting = fake.discovery.resolve(dst(SHOP));
    let telling = async {
        sleep(Duration::from_secs(2)).await;
        fake.tell(ResourceKey::Endpoints(key("order")), Resource::Endpoints(endpoints(&["10.0.0.1:8080"])));
    };
    let (found, ()) = tokio::join!(waiting, telling);
    assert!(matches!(found, Ok(Resolved::Service(service)) if service.snapshot().own.endpoints().len() == 1));
}

#[tokio::test(start_paused = true)]
async fn before_the_mesh_is_told_nothing_is_outside() {
    let fake = Fake::start();
    let error = fake.discovery.resolve(dst("192.0.2.1:80")).await.unwrap_err();
    assert!(matches!(error, DiscoveryError::Unavailable { cause: Cause::Deadline, .. }));
    assert!(!fake.discovery.is_ready());
    fake.tell_basics();
    fake.discovery.ready().await;
    assert!(fake.discovery.is_ready());
    assert!(matches!(fake.discovery.resolve(dst("192.0.2.1:80")).await, Ok(Resolved::Outside)));
}

#[tokio::test(start_paused = true)]
async fn outside_needs_no_lookup_unless_an_egress_policy_asks() {
    let fake = shop().await;
    assert!(matches!(fake.discovery.resolve(dst("192.0.2.1:80")).now_or_never(), Some(Ok(Resolved::Outside))));
    let mut strict = mesh();
    strict.egress = EgressMode::MeshOnly;
    fake.tell(ResourceKey::Mesh, Resource::Mesh(strict));
    fake.settled().await;
    let outside = ResourceKey::Destination(addr("192.0.2.1:80"));
    fake.tell(outside.clone(), Resource::Destination(Destination::NotFound));
    assert!(matches!(fake.discovery.resolve(dst("192.0.2.1:80")).await, Ok(Resolved::Outside)));
    assert!(fake.subscribed().contains(&outside));
    // A machine of the mesh outside of its networks is found.
    let machine = Destination::Workload(workload("192.0.2.2:80", "vm-1", "vm"));
    fake.tell(ResourceKey::Destination(addr("192.0.2.2:80")), Resource::Destination(machine));
    assert!(matches!(fake.discovery.resolve(dst("192.0.2.2:80")).await, Ok(Resolved::Workload(_))));
}

#[tokio::test(start_paused = true)]
async fn a_miss_is_believed_for_a_short_time() {
    let fake = shop().await;
    let asked = ResourceKey::Destination(addr("10.1.2.3:1"));
    fake.tell(asked.clone(), Resource::Destination(Destination::NotFound));
    assert!(matches!(fake.discovery.resolve(dst("10.1.2.3:1")).await, Ok(Resolved::NotFound)));
    assert!(matches!(fake.discovery.resolve(dst("10.1.2.3:1")).now_or_never(), Some(Ok(Resolved::NotFound))));
    sleep(Duration::from_secs(16)).await;
    assert!(!fake.subscribed().contains(&asked));
}

#[tokio::test(start_paused = true)]
async fn a_miss_that_comes_to_be_is_told() {
    let fake = shop().await;
    let asked = ResourceKey::Destination(addr(SHOP));
    fake.tell(asked.clone(), Resource::Destination(Destination::PortNotFound));
    assert!(matches!(fake.discovery.resolve(dst(SHOP)).await, Ok(Resolved::PortNotFound)));
    fake.tell(asked, Resource::Destination(Destination::Service(key("order"))));
    fake.settled().await;
    resolve_service(&fake, SHOP).await;
}

#[tokio::test(start_paused = true)]
async fn a_port_scan_fills_nothing() {
    let fake = shop().await;
    fake.answer_unknown_with_not_found();
    for port in 1..=u16::try_from(MISSES_MAX + 500).unwrap() {
        let found = fake.discovery.resolve(OriginalDst((addr("10.1.2.3:0").ip(), port).into())).await;
        assert!(matches!(found, Ok(Resolved::NotFound)), "{found:?}");
    }
    fake.settled().await;
    assert!(fake.subscribed().len() <= MISSES_MAX + 2, "{}", fake.subscribed().len());
}

#[tokio::test(start_paused = true)]
async fn unanswered_lookups_are_bounded_and_counted() {
    let fake = shop().await;
    let ask = |n: usize| {
        let port = u16::try_from(n + 1).unwrap();
        fake.discovery.resolve(OriginalDst((addr("10.1.2.3:0").ip(), port).into()))
    };
    let results = futures::future::join_all((0..UNANSWERED_MAX + 10).map(ask)).await;
    let full = |r: &&Result<_, _>| matches!(r, Err(DiscoveryError::Unavailable { cause: Cause::Full, .. }));
    assert_eq!(results.iter().filter(full).count(), 10);
    assert_eq!(fake.discovery.cache.stats.lookups_refused.get(), 10);
    // Nobody waits any more: the questions are taken back.
    sleep(Duration::from_secs(20)).await;
    assert_eq!(fake.subscribed(), [ResourceKey::Inbound, ResourceKey::Mesh]);
    resolve_service(&fake, SHOP).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_control_plane_costs_nothing_that_is_known() {
    let fake = shop().await;
    let service = resolve_service(&fake, SHOP).await;
    let endpoint = Arc::clone(&service.snapshot().own.endpoints().endpoints()[0]);
    let mut inbound_changes = fake.discovery.inbound_changes();
    inbound_changes.mark_unchanged();

    fake.go_down();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fake.discovery.cache.stats.connected.get(), 0);
    assert!(matches!(fake.discovery.resolve(dst(SHOP)).now_or_never(), Some(Ok(Resolved::Service(_)))));
    assert!(fake.discovery.is_ready());

    fake.go_up();
    sleep(Duration::from_secs(11)).await;
    assert_eq!(fake.discovery.cache.stats.connected.get(), 1);
    assert!(fake.subscribed().contains(&ResourceKey::Endpoints(key("order"))));
    // The same endpoint with its counters, though the whole set was told again.
    assert!(Arc::ptr_eq(&endpoint, &service.snapshot().own.endpoints().endpoints()[0]));
    assert!(!inbound_changes.has_changed().unwrap(), "nothing new, nobody is woken");
    fake.tell(ResourceKey::Endpoints(key("order")), Resource::Endpoints(endpoints(&["10.0.0.2:8080"])));
    fake.settled().await;
    assert_eq!(service.snapshot().own.endpoints().endpoints()[0].spec().addr.0, addr("10.0.0.2:8080"));
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_while_the_stream_is_down_is_answered_when_it_is_back() {
    let fake = shop().await;
    fake.go_down();
    sleep(Duration::from_millis(10)).await;
    let waiting = fake.discovery.resolve(dst(SHOP));
    let back = async {
        sleep(Duration::from_millis(500)).await;
        fake.go_up();
    };
    let (found, ()) = tokio::join!(waiting, back);
    assert!(matches!(found, Ok(Resolved::Service(_))), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn the_hello_comes_first_on_every_stream() {
    let fake = shop().await;
    fake.go_down();
    sleep(Duration::from_secs(1)).await;
    fake.go_up();
    sleep(Duration::from_secs(11)).await;
    assert!(fake.streams() >= 2);
    assert!(fake.each_stream_began_with_hello());
}

#[tokio::test(start_paused = true)]
async fn idle_destinations_are_given_up_after_five_minutes() {
    let fake = shop().await;
    let service = resolve_service(&fake, SHOP).await;
    let backend = Arc::clone(&service.snapshot().own);
    let endpoint = Arc::clone(&backend.endpoints().endpoints()[0]);
    drop((service, backend));
    sleep(Duration::from_secs(290)).await;
    assert_eq!(fake.subscribed().len(), 5);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(fake.subscribed(), [ResourceKey::Inbound, ResourceKey::Mesh]);
    assert_eq!(fake.discovery.cache.stats.subscriptions.get(), 2, "the gauge says so, too");
    assert!(endpoint.is_gone(), "pools must let go of it");
    resolve_service(&fake, SHOP).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_or_used_is_not_given_up() {
    let fake = shop().await;
    fake.tell_service("10.96.0.2:80", &key("user"), &["10.0.1.1:8080"]);
    let held = resolve_service(&fake, SHOP).await;
    for _ in 0..30 {
        drop(resolve_service(&fake, "10.96.0.2:80").await);
        sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(fake.subscribed().len(), 8);
    fake.tell(ResourceKey::Endpoints(key("order")), Resource::Endpoints(endpoints(&["10.0.0.7:8080"])));
    fake.settled().await;
    assert_eq!(held.snapshot().own.endpoints().endpoints()[0].spec().addr.0, addr("10.0.0.7:8080"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_while_the_stream_is_down() {
    let fake = shop().await;
    drop(resolve_service(&fake, SHOP).await);
    fake.go_down();
    sleep(Duration::from_secs(3_600)).await;
    assert!(matches!(fake.discovery.resolve(dst(SHOP)).now_or_never(), Some(Ok(Resolved::Service(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_bad_version_is_refused_by_field_and_the_last_good_one_stays() {
    let fake = shop().await;
    let service = resolve_service(&fake, SHOP).await;
    let key = ResourceKey::Endpoints(key("order"));
    let mut bad = endpoints(&["10.0.0.2:8080"]);
    bad.upserted[0].weight = 0;
    let version = fake.tell(key.clone(), Resource::Endpoints(bad));
    fake.settled().await;
    let reason = "endpoints.upserted[0].weight: 0 is not from 1 to 1000000".to_owned();
    assert!(fake.said(&Request::Nack { key, version, reason }));
    assert_eq!(service.snapshot().own.endpoints().endpoints()[0].spec().addr.0, addr("10.0.0.1:8080"));
    assert_eq!(fake.discovery.cache.stats.refused.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_valid_and_still_wrong_is_refused() {
    let fake = shop().await;
    resolve_service(&fake, SHOP).await;
    let mut foreign = inbound();
    foreign.workload = weft_model::WorkloadName::new("shop", "somebody-else");
    let mut anchors = mesh();
    anchors.trust_anchors = vec![vec![1, 2, 3]];
    let elsewhere = Destination::Workload(workload("10.0.0.66:80", "evil", "evil"));
    let delta = |reset| EndpointsDelta { reset, ..endpoints(&["10.0.0.2:8080"]) };
    for (key, resource, want) in [
        (ResourceKey::Inbound, Resource::Inbound(foreign), "inbound.workload: shop/somebody-else is not"),
        (ResourceKey::Mesh, Resource::Mesh(anchors), "mesh.trust_anchors: "),
        (
            ResourceKey::Destination(addr(SHOP)),
            Resource::Destination(elsewhere),
            "destination.workload.endpoint.addr: 10.0.0.66:80 is not 10.96.0.1:80",
        ),
    ] {
        let version = fake.tell(key.clone(), resource);
        fake.settled().await;
        assert!(fake.refusal(&key, version).starts_with(want), "{:?}", fake.refusal(&key, version));
    }
    // Without a base on this stream there is nothing that a delta could change.
    fake.tell_service("10.96.0.2:80", &key("user"), &[]);
    let key = ResourceKey::Endpoints(key("user"));
    let version = fake.tell(key.clone(), Resource::Endpoints(delta(false)));
    let error = fake.discovery.resolve(dst("10.96.0.2:80")).await.unwrap_err();
    assert!(matches!(error, DiscoveryError::Unavailable { cause: Cause::Deadline, .. }));
    assert!(fake.refusal(&key, version).starts_with("endpoints.reset: "));
}

#[tokio::test(start_paused = true)]
async fn a_new_route_is_in_force_only_with_its_backends() {
    let fake = shop().await;
    let service = resolve_service(&fake, SHOP).await;
    let mut spec = ServiceSpec::plain(key("order"));
    spec.http_routes = vec![route_to(&[("order", 90), ("order-v2", 10)])];
    let asked = ResourceKey::Service(key("order"));
    let version = fake.tell(asked.clone(), Resource::Service(spec));
    fake.settled().await;
    let ack = Request::Ack { key: asked, version };
    assert!(fake.subscribed().contains(&ResourceKey::Endpoints(key("order-v2"))));
    assert_eq!(service.snapshot().backends.len(), 1, "the old routes stay");
    assert!(!fake.said(&ack));

    fake.tell(ResourceKey::Endpoints(key("order-v2")), Resource::Endpoints(endpoints(&["10.0.2.1:8080"])));
    fake.settled().await;
    let snapshot = service.snapshot();
    let keys: Vec<ServiceKey> = snapshot.backends.iter().map(|backend| backend.key().clone()).collect();
    assert_eq!(snapshot.routes.backend_keys(), keys);
    assert_eq!(keys, [key("order"), key("order-v2")]);
    assert!(fake.said(&ack));

    // Away again: the backend goes, but not under the hands of who still holds the old routes.
    fake.tell(ResourceKey::Service(key("order")), Resource::Service(ServiceSpec::plain(key("order"))));
    sleep(Duration::from_secs(12)).await;
    assert_eq!(snapshot.backends[1].endpoints().active_len(), 1);
    assert!(fake.subscribed().contains(&ResourceKey::Endpoints(key("order-v2"))));
    drop(snapshot);
    sleep(Duration::from_secs(12)).await;
    assert!(!fake.subscribed().contains(&ResourceKey::Endpoints(key("order-v2"))));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_endpoint_is_woken() {
    let fake = Fake::start();
    fake.tell_basics();
    fake.tell_service(SHOP, &key("order"), &[]);
    let service = resolve_service(&fake, SHOP).await;
    let backend = Arc::clone(&service.snapshot().own);
    let mut changes = backend.changes();
    assert!(backend.endpoints().is_empty());
    let mut delta = endpoints(&["10.0.0.1:8080"]);
    delta.reset = false;
    fake.tell(ResourceKey::Endpoints(key("order")), Resource::Endpoints(delta));
    changes.changed().await.unwrap();
    assert_eq!(backend.endpoints().active_len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_workload_stays_current_while_it_is_held_and_empties_when_it_goes() {
    let fake = shop().await;
    let pod = ResourceKey::Destination(addr("10.0.0.5:9000"));
    let first = workload("10.0.0.5:9000", "order-1", "order");
    fake.tell(pod.clone(), Resource::Destination(Destination::Workload(first)));
    let Ok(Resolved::Workload(held)) = fake.discovery.resolve(dst("10.0.0.5:9000")).await else { panic!("a workload") };
    let second = workload("10.0.0.5:9000", "user-1", "user");
    fake.tell(pod.clone(), Resource::Destination(Destination::Workload(second)));
    fake.settled().await;
    let identity = held.snapshot().endpoints.endpoints()[0].spec().identity.clone().unwrap();
    assert_eq!(identity.service_account(), "user");
    fake.tell(pod, Resource::Destination(Destination::NotFound));
    fake.settled().await;
    assert!(held.snapshot().endpoints.is_empty());
}

#[tokio::test(start_paused = true)]
async fn policy_and_lifecycle_wake_sleepers() {
    let fake = shop().await;
    let mut changes = fake.discovery.inbound_changes();
    changes.mark_unchanged();
    let mut spec = inbound();
    spec.authz.push(AuthzPolicy {
        id: PolicyId::new("AuthorizationPolicy", "shop", "nobody"),
        action: AuthzAction::Deny,
        ports: Vec::new(),
        rules: vec![weft_model::policy::AuthzRule::default()],
    });
    fake.tell(ResourceKey::Inbound, Resource::Inbound(spec.clone()));
    changes.changed().await.unwrap();
    assert!(!fake.discovery.inbound().unwrap().policies.judge(80, None, None).is_allow());
    spec.lifecycle = Lifecycle::Terminating;
    fake.tell(ResourceKey::Inbound, Resource::Inbound(spec));
    changes.changed().await.unwrap();
    assert_eq!(fake.discovery.inbound().unwrap().spec.lifecycle, Lifecycle::Terminating);
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_named_once_it_is_known_and_only_by_its_own_identity() {
    let fake = shop().await;
    let peer = addr("10.0.0.8:0");
    let known = workload("10.0.0.8:0", "storefront-1", "storefront");
    let identity = known.endpoint.identity.clone().unwrap();
    let other = workload("10.0.0.9:0", "user-1", "user").endpoint.identity.unwrap();
    fake.tell(ResourceKey::Destination(peer), Resource::Destination(Destination::Workload(known)));
    assert_eq!(fake.discovery.peer_workload(peer.ip(), &identity), None);
    fake.settled().await;
    let name = fake.discovery.peer_workload(peer.ip(), &identity).unwrap();
    assert_eq!(name.to_string(), "shop/storefront-1");
    assert_eq!(fake.discovery.peer_workload(peer.ip(), &other), None);

    // Asked once, however often it is needed before there is an answer.
    for _ in 0..3 {
        assert_eq!(fake.discovery.peer_workload(addr("10.0.0.9:0").ip(), &other), None);
        fake.settled().await;
    }
    let asked = Request::Subscribe(ResourceKey::Destination(addr("10.0.0.9:0")));
    assert_eq!(fake.times_said(&asked), 1);
}

#[tokio::test(start_paused = true)]
async fn the_dump_shows_what_is_known_and_no_header_values() {
    let fake = shop().await;
    let mut spec = ServiceSpec::plain(key("order"));
    let mut route = route_to(&[("order", 1)]);
    let secret = (http::header::AUTHORIZATION, http::HeaderValue::from_static("Bearer secret"));
    let modifier = weft_model::route::HeaderModifier { set: vec![secret], ..Default::default() };
    route.rules[0].filters.push(weft_model::route::HttpFilter::RequestHeaders(modifier));
    spec.http_routes = vec![route];
    fake.tell(ResourceKey::Service(key("order")), Resource::Service(spec));
    let _held = resolve_service(&fake, SHOP).await;
    let dump = fake.discovery.dump().to_string();
    for shown in
        ["shop/order:80", "10.0.0.1:8080", "authorization", "HTTPRoute/shop/canary", "10.0.0.0/8", "shop/own-1"]
    {
        assert!(dump.contains(shown), "{shown} in {dump}");
    }
    assert!(!dump.contains("secret"), "{dump}");
}

#[test]
fn endpoints_of_tests_are_valid() {
    let EndpointSpec { weight, .. } = endpoint("10.0.0.1:80");
    assert_eq!((weight, endpoints(&[]).policy), (1, BackendPolicy::default()));
}
