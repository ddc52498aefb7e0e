//! What the cluster is given: Services whose slices are made by hand, and pods that no kubelet runs.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::eventually;
use super::scale::Size;

pub(super) const NAMESPACE: &str = "weft-scale";
pub(super) const PORT: u16 = 80;
/// What the pods' port is.
const TARGET: u16 = 8080;
/// The Service whose pods are rolled.
pub(super) const ROLLED: &str = "rolled";
/// A node of which there is nothing but its name: no other pod is put there, and nobody runs those that are.
const NODE: &str = "weft-scale";
/// Requests to the API server at once.
const AT_ONCE: usize = 8;

/// The cluster, as its administrator.
#[derive(Clone)]
pub(super) struct Objects {
    client: Client,
    services: Api<Service>,
    pub(super) slices: Api<EndpointSlice>,
    pods: Api<Pod>,
}

impl Objects {
    pub(super) fn new(client: Client) -> Self {
        let (services, slices) =
            (Api::namespaced(client.clone(), NAMESPACE), Api::namespaced(client.clone(), NAMESPACE));
        Self { services, slices, pods: Api::namespaced(client.clone(), NAMESPACE), client }
    }

    /// Makes the namespace and the node.
    pub(super) async fn make_place(&self) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        create(&namespaces, json!({"metadata": {"name": NAMESPACE}})).await?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        create(&nodes, json!({"metadata": {"name": NODE}, "spec": {"unschedulable": true}})).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        eventually("the namespace has a service account", async || accounts.get_opt("default").await.ok().flatten())
            .await
            .map(drop)
    }

    /// Makes the Services, each with its slices; returns the addresses of the Services.
    pub(super) async fn make_services(&self, size: Size) -> anyhow::Result<Vec<String>> {
        let selector = json!({"selector": {"app": ROLLED}});
        let all = (0..size.services).map(|at| (service_name(at), json!({}))).chain([(ROLLED.to_owned(), selector)]);
        let made = stream::iter(all.map(|(name, spec)| async move { self.make_service(&name, spec).await }));
        let addresses = made.buffered(AT_ONCE).try_collect().await?;
        let slices = (0..size.services * size.slices).map(|at| async move {
            let (service, slice) = (at / size.slices, at % size.slices);
            create::<EndpointSlice>(&self.slices, slice_of(size, service, slice)).await.map(drop)
        });
        stream::iter(slices).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(addresses)
    }

    async fn make_service(&self, name: &str, mut spec: Value) -> anyhow::Result<String> {
        spec["ports"] = json!([{"name": "http", "port": PORT, "targetPort": TARGET}]);
        let made =
            create(&self.services, json!({"metadata": {"name": name, "labels": not_for_the_node()}, "spec": spec}));
        made.await?.spec.and_then(|spec| spec.cluster_ip).with_context(|| format!("Service {name} has no address"))
    }

    /// Makes a pod that is ready at an address; returns its uid.
    pub(super) async fn make_pod(&self, name: &str, app: &str, ip: Ipv4Addr) -> anyhow::Result<String> {
        let container =
            |name: &str| json!({"name": name, "image": "weft.test/none", "ports": [{"containerPort": TARGET}]});
        let spec = json!({"nodeName": NODE, "containers": [container("app"), container("weft-proxy")]});
        let made =
            create(&self.pods, json!({"metadata": {"name": name, "labels": {"app": app}}, "spec": spec})).await?;
        let condition = json!([{"type": "Ready", "status": "True"}]);
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": condition});
        let patch = Patch::Merge(json!({"status": status}));
        self.pods.patch_status(name, &PatchParams::default(), &patch).await.context("a pod's status")?;
        made.metadata.uid.context("a pod without a uid")
    }

    /// Tells a pod to end; it does once [`Objects::end_pod`] says so.
    pub(super) async fn terminate_pod(&self, name: &str) -> anyhow::Result<()> {
        self.pods.delete(name, &DeleteParams::default().grace_period(30)).await.context("deleting a pod").map(drop)
    }

    /// Ends it.
    pub(super) async fn end_pod(&self, name: &str) -> anyhow::Result<()> {
        self.pods.delete(name, &DeleteParams::default().grace_period(0)).await.context("ending a pod").map(drop)
    }

    /// Takes all of it away.
    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        let at_once = DeleteParams::default().grace_period(0);
        self.pods.delete_collection(&at_once, &ListParams::default()).await?;
        Api::<Namespace>::all(self.client.clone()).delete(NAMESPACE, &at_once).await?;
        Api::<Node>::all(self.client.clone()).delete(NODE, &at_once).await?;
        Ok(())
    }
}

/// Makes an object of what is written there.
pub(super) async fn create<K>(api: &Api<K>, object: Value) -> anyhow::Result<K>
where
    K: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let typed = serde_json::from_value(object.clone()).with_context(|| format!("writing {object}"))?;
    api.create(&PostParams::default(), &typed).await.with_context(|| format!("making {}", object["metadata"]["name"]))
}

/// What kube-proxy leaves alone: hundreds of thousands of rules in one node are no part of what is measured.
fn not_for_the_node() -> Value {
    json!({"service.kubernetes.io/service-proxy-name": "none"})
}

pub(super) fn service_name(at: usize) -> String {
    format!("s{at}")
}

/// The slice of this number.
pub(super) fn slice_name(service: usize, slice: usize) -> String {
    format!("s{service}-{slice}")
}

fn slice_of(size: Size, service: usize, slice: usize) -> Value {
    let mut labels = not_for_the_node();
    labels["kubernetes.io/service-name"] = json!(service_name(service));
    let endpoint = |at: usize| {
        let address = address(128, (service * size.slices + slice) * size.endpoints + at);
        let (zone, node) = (format!("zone-{}", at % 3), format!("node-{at}"));
        json!({"addresses": [address], "conditions": {"ready": true}, "zone": zone, "nodeName": node})
    };
    json!({
        "metadata": {"name": slice_name(service, slice), "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": TARGET}],
        "endpoints": (0..size.endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

/// The `i`th address of those that begin with 10 and this number.
#[expect(clippy::cast_possible_truncation, reason = "sizes are far below what three octets hold")]
pub(super) fn address(from: u8, i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, from + (i >> 16) as u8, (i >> 8) as u8, i as u8)
}

/// An endpoint there, as the wire says it.
pub(super) fn endpoint(ip: Ipv4Addr) -> String {
    format!("{ip}:{TARGET}")
}
