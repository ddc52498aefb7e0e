//! A restart while the control plane is away, on paused time.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tempfile::TempDir;
use tokio::time::sleep;
use weft_model::WorkloadName;
use weft_model::policy::BackendPolicy;
use weft_model::resources::{Destination, EndpointsDelta, Lifecycle, Resource, ResourceKey, ServiceSpec};
use weft_proto::convert::Request;

use super::fake::{Fake, endpoint, endpoints, inbound, key, route_to, workload};
use super::{SHOP, addr, dst, resolve_service};
use crate::discovery::Resolved;
use crate::state::testing::in_memory;
use crate::state::{Kind, StateDir};

const POD: &str = "10.0.0.5:9000";

/// Longer than changes are gathered.
const KEPT_WITHIN: Duration = Duration::from_millis(1_100);

fn state(there: &TempDir) -> Arc<StateDir> {
    let identity = "spiffe://cluster.local/ns/shop/sa/own".parse().unwrap();
    Arc::new(StateDir::open(there.path(), &identity, &WorkloadName::new("shop", "own-1"), "").unwrap())
}

/// A mesh in which `SHOP` is split over two backends, one of which came by deltas, and `POD` is dialled directly.
async fn kept_shop(there: &TempDir) {
    let fake = Fake::start_with(Some(state(there)));
    fake.tell_basics();
    fake.tell_service(SHOP, &key("order"), &["10.0.0.1:8080"]);
    let mut spec = ServiceSpec::plain(key("order"));
    spec.http_routes = vec![route_to(&[("order", 90), ("order-v2", 10)])];
    fake.tell(ResourceKey::Service(key("order")), Resource::Service(spec));
    let v2 = ResourceKey::Endpoints(key("order-v2"));
    fake.tell(v2.clone(), Resource::Endpoints(endpoints(&["10.0.2.1:80", "10.0.2.2:80"])));
    let pod = Destination::Workload(workload(POD, "order-1", "order"));
    fake.tell(ResourceKey::Destination(addr(POD)), Resource::Destination(pod));
    fake.tell(ResourceKey::Destination(addr("10.1.2.3:1")), Resource::Destination(Destination::NotFound));
    let delta = EndpointsDelta {
        reset: false,
        upserted: vec![endpoint("10.0.2.3:80")],
        removed: vec![addr("10.0.2.1:80")],
        policy: BackendPolicy::default(),
    };
    for asked in [SHOP, POD, "10.1.2.3:1"] {
        fake.discovery.resolve(dst(asked)).await.unwrap();
    }
    fake.tell(v2, Resource::Endpoints(delta));
    let mut drained = inbound();
    drained.lifecycle = Lifecycle::Terminating;
    fake.tell(ResourceKey::Inbound, Resource::Inbound(drained));
    sleep(KEPT_WITHIN).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_a_control_plane_knows_what_was_in_force() {
    let there = in_memory();
    kept_shop(&there).await;
    let fake = Fake::start_with(Some(state(&there)));
    fake.go_down();
    assert!(fake.discovery.is_ready());
    let found = |addr: &str| fake.discovery.resolve(dst(addr)).now_or_never();
    let Some(Ok(Resolved::Service(service))) = found(SHOP) else { panic!("{:?}", found(SHOP)) };
    let snapshot = service.snapshot();
    assert_eq!(snapshot.routes.backend_keys(), [key("order"), key("order-v2")]);
    let v2 = snapshot.backends[1].endpoints();
    let folded: Vec<_> = v2.endpoints().iter().map(|endpoint| endpoint.spec().clone()).collect();
    assert_eq!(folded, [endpoint("10.0.2.2:80"), endpoint("10.0.2.3:80")]);
    assert!(matches!(found(POD), Some(Ok(Resolved::Workload(_)))));
    // A miss was not kept, and a drain begins only when a control plane says so.
    assert!(found("10.1.2.3:1").is_none());
    assert_eq!(fake.discovery.inbound().unwrap().spec.lifecycle, Lifecycle::Serving);
    sleep(Duration::from_secs(600)).await;
    assert!(matches!(found(SHOP), Some(Ok(Resolved::Service(same))) if Arc::ptr_eq(&same, &service)));
}

#[tokio::test(start_paused = true)]
async fn the_answers_of_a_control_plane_replace_what_was_restored() {
    let there = in_memory();
    kept_shop(&there).await;
    let fake = Fake::start_with(Some(state(&there)));
    fake.go_down();
    let service = resolve_service(&fake, SHOP).await;
    sleep(Duration::from_secs(30)).await;

    fake.tell_basics();
    fake.tell_service(SHOP, &key("order"), &["10.0.0.2:8080"]);
    fake.tell(ResourceKey::Destination(addr(POD)), Resource::Destination(Destination::NotFound));
    fake.go_up();
    sleep(Duration::from_secs(11)).await;
    assert!(fake.said(&Request::Subscribe(ResourceKey::Endpoints(key("order-v2")))));
    let snapshot = service.snapshot();
    assert_eq!(snapshot.own.endpoints().endpoints()[0].spec().addr.0, addr("10.0.0.2:8080"));
    assert_eq!(snapshot.backends.len(), 1, "the routes of before are gone");
    assert!(matches!(fake.discovery.resolve(dst(POD)).await, Ok(Resolved::NotFound)));
    // What the answers made of it is what the next restart finds.
    sleep(KEPT_WITHIN).await;
    let next = Fake::start_with(Some(state(&there)));
    next.go_down();
    let service = resolve_service(&next, SHOP).await;
    assert_eq!(service.snapshot().own.endpoints().endpoints()[0].spec().addr.0, addr("10.0.0.2:8080"));
    assert!(next.discovery.resolve(dst(POD)).now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_restored_and_is_not_used_is_given_up() {
    let there = in_memory();
    kept_shop(&there).await;
    let fake = Fake::start_with(Some(state(&there)));
    fake.tell_basics();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.subscribed().len(), 7, "{:?}", fake.subscribed());
    sleep(Duration::from_secs(330)).await;
    assert_eq!(fake.subscribed(), [ResourceKey::Inbound, ResourceKey::Mesh]);
}

#[tokio::test(start_paused = true)]
async fn changes_are_gathered_before_they_are_written() {
    let there = in_memory();
    let fake = Fake::start_with(Some(state(&there)));
    fake.tell_basics();
    fake.discovery.ready().await;
    let file = there.path().join(Kind::Snapshots.name());
    sleep(Duration::from_millis(900)).await;
    assert!(!file.exists());
    sleep(KEPT_WITHIN).await;
    let first = fs::read(&file).unwrap();
    // Nothing changes, nothing is written.
    fs::remove_file(&file).unwrap();
    sleep(Duration::from_secs(60)).await;
    assert!(!file.exists());
    // What is told again after another stream is the same.
    fake.go_down();
    sleep(Duration::from_secs(1)).await;
    fake.go_up();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(fs::read(&file).unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_another_workload_in_the_file_is_not_taken() {
    let there = in_memory();
    kept_shop(&there).await;
    let mut kept = state(&there).snapshots().unwrap();
    let mut foreign = inbound();
    foreign.workload = WorkloadName::new("shop", "somebody-else");
    let update =
        weft_model::resources::Update { key: ResourceKey::Inbound, version: 0, resource: Resource::Inbound(foreign) };
    kept[1] = (&update).into();
    state(&there).keep_snapshots(kept).unwrap();
    let fake = Fake::start_with(Some(state(&there)));
    fake.go_down();
    // Refused as it would be on the stream, and the rest is taken.
    assert!(!fake.discovery.is_ready() && fake.discovery.mesh().is_some());
    assert_eq!(fake.discovery.cache.stats.refused.get(), 1);
}
