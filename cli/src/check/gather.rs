//! Asks the API server, and decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use weft_install::Manifest;
use weft_model::kubernetes::{ENABLED, INJECT_LABEL, TRUST_BUNDLE};

use super::facts::text;
use super::{Fact, Facts, Labelled};

/// When the checks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// After the installation.
    After,
    /// Before it.
    Before,
}

/// How many objects the API server is asked for at a time.
const PAGE: usize = 500;

/// Asks for everything that the checks of a stage look at. `planned` is what will be installed, which counts before it alone.
pub(crate) async fn gather(client: &Client, stage: Stage, planned: &[Manifest], now_unix_s: u64) -> Facts {
    let version = get(client, "/version").await;
    // Whoever does not answer is not asked twenty times.
    let is_there = matches!(version, Fact::There(_));
    let (client, stage) = (is_there.then_some(client), stage);
    let definition = |name: &str| format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    let own = |kind: &str, name: &str| format!("{kind}/namespaces/weft-system/{name}");
    let map = |namespace: &str, name: &str| format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    let names = weft_install::objects::definitions();
    let names = names.iter().filter_map(|definition| definition.pointer("/metadata/name")?.as_str());
    let mut definitions = Vec::new();
    for name in names {
        definitions.push((name.to_owned(), ask(client, &definition(name)).await));
    }
    let (issuer_expiry, issuer_secret) = match (client, stage) {
        (Some(client), Stage::After) => issuer(client).await,
        _ => (Fact::Missing, Fact::Missing),
    };
    Facts {
        now_unix_s,
        nodes: ask_list(client, "/api/v1/nodes", "").await,
        rights: if stage == Stage::Before { rights(client, planned).await } else { Vec::new() },
        http_route: ask(client, &definition("httproutes.gateway.networking.k8s.io")).await,
        cilium: ask(client, &map("kube-system", "cilium-config")).await,
        felix: ask(client, "/apis/crd.projectcalico.org/v1/felixconfigurations/default").await,
        kube_proxy: ask(client, &map("kube-system", "kube-proxy")).await,
        definitions,
        control_plane: ask(client, &own("/apis/apps/v1", "deployments/weft-control-plane")).await,
        injector: ask(client, &own("/apis/apps/v1", "deployments/weft-injector")).await,
        cni: ask(client, "/apis/apps/v1/namespaces/weft-cni/daemonsets/weft-cni").await,
        webhook: ask(client, "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector").await,
        webhook_secret: match stage {
            Stage::After => ask(client, &own("/api/v1", "secrets/weft-injector-tls")).await,
            Stage::Before => Fact::Missing,
        },
        issuer_expiry,
        issuer_secret,
        record: ask(client, &map("weft-system", weft_install::objects::RECORD)).await,
        namespaces: namespaces(client).await,
        version,
    }
}

async fn namespaces(client: Option<&Client>) -> Result<Vec<Labelled>, String> {
    let list = match ask_list(client, "/api/v1/namespaces", &format!("labelSelector={INJECT_LABEL}%3D{ENABLED}")).await
    {
        Fact::There(list) => list,
        Fact::Missing => return Ok(Vec::new()),
        Fact::Unknown(why) => return Err(why),
    };
    let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let labelled = items.into_iter().map(|namespace| async move {
        let name = namespace.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let bundle = ask(client, &format!("/api/v1/namespaces/{name}/configmaps/{TRUST_BUNDLE}")).await;
        let pods = ask_list(client, &format!("/api/v1/namespaces/{name}/pods"), "").await;
        Labelled { namespace, bundle, pods }
    });
    let mut labelled = join_all(labelled).await;
    // A pod may be labelled itself, in a namespace that is not.
    let pods = match ask_list(client, "/api/v1/pods", &format!("labelSelector={INJECT_LABEL}%3D{ENABLED}")).await {
        Fact::There(mut list) => list.get_mut("items").map(Value::take),
        Fact::Missing => None,
        Fact::Unknown(why) => return Err(why),
    };
    let mut by_namespace: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for pod in pods.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let namespace = pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
        if !labelled.iter().any(|it| it.name() == namespace) {
            by_namespace.entry(namespace.to_owned()).or_default().push(pod.clone());
        }
    }
    for (name, pods) in by_namespace {
        let bundle = ask(client, &format!("/api/v1/namespaces/{name}/configmaps/{TRUST_BUNDLE}")).await;
        let namespace = json!({"metadata": {"name": name}});
        labelled.push(Labelled { namespace, bundle, pods: Fact::There(json!({"items": pods})) });
    }
    Ok(labelled)
}

/// A kind of object as the API server calls it, and the namespace of those that are meant; empty for objects of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Created {
    namespace: String,
    group: String,
    resource: String,
}

/// What the installation creates, each kind once.
fn created(planned: &[Manifest]) -> BTreeSet<Created> {
    let kind = |object: &Value| {
        let version = text(object, "/apiVersion");
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = GroupVersionKind::gvk(group, version, text(object, "/kind"));
        let namespace = text(object, "/metadata/namespace").to_owned();
        Created { namespace, group: group.to_owned(), resource: ApiResource::from_gvk(&kind).plural }
    };
    planned.iter().map(|Manifest { object, .. }| kind(object)).collect()
}

async fn rights(client: Option<&Client>, planned: &[Manifest]) -> Vec<(String, Result<bool, String>)> {
    let Some(client) = client else { return Vec::new() };
    let mut rights = Vec::new();
    for Created { namespace, group, resource } in created(planned) {
        for verb in ["create", "patch"] {
            let attributes = json!({"group": group, "resource": resource, "namespace": namespace, "verb": verb});
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            });
            let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
            let request = http::Request::post(path).body(review.to_string().into_bytes());
            let allowed = match request {
                Ok(request) => client.request::<Value>(request).await.map_err(|error| told(&error)),
                Err(error) => Err(error.to_string()),
            };
            let allowed = allowed.map(|review| review.pointer("/status/allowed") == Some(&Value::Bool(true)));
            let place = if namespace.is_empty() { String::new() } else { format!(" in {namespace}") };
            rights.push((format!("{verb} {resource}{place}"), allowed));
        }
    }
    rights
}

async fn ask(client: Option<&Client>, path: &str) -> Fact {
    match client {
        Some(client) => get(client, path).await,
        None => Fact::Unknown("the API server does not answer".to_owned()),
    }
}

/// A whole list, page by page.
pub(crate) async fn list(client: &Client, path: &str) -> Fact {
    ask_list(Some(client), path, "").await
}

async fn ask_list(client: Option<&Client>, path: &str, query: &str) -> Fact {
    let mut all = Vec::new();
    let mut from = String::new();
    loop {
        let page = ask(client, &format!("{path}?limit={PAGE}&{query}{from}")).await;
        let Fact::There(mut page) = page else { return page };
        if let Some(items) = page.get_mut("items").and_then(Value::as_array_mut) {
            all.append(items);
        }
        match page.pointer("/metadata/continue").and_then(Value::as_str) {
            Some(next) if !next.is_empty() => from = format!("&continue={next}"),
            _ => return Fact::There(json!({"items": all})),
        }
    }
}

/// One object.
pub(crate) async fn get(client: &Client, path: &str) -> Fact {
    let request = match http::Request::get(path).body(Vec::new()) {
        Ok(request) => request,
        Err(error) => return Fact::Unknown(error.to_string()),
    };
    match client.request::<Value>(request).await {
        Ok(value) => Fact::There(value),
        Err(kube::Error::Api(status)) if status.code == 404 => Fact::Missing,
        Err(error) => Fact::Unknown(told(&error)),
    }
}

/// The control plane's figures of these names say it, so that nobody who makes this check needs to read the issuer's key.
const ISSUER_EXPIRY: &str = "weft_control_plane_issuer_expiry_timestamp_seconds";
const ISSUER_OVERDUE: &str = "weft_control_plane_issuer_overdue_timestamp_seconds";

/// Asks a pod of the control plane, by way of the API server: until when its issuer is valid, and what it says of the Secret that the
/// issuer comes from.
async fn issuer(client: &Client) -> (Fact, Fact) {
    let pods = "/api/v1/namespaces/weft-system/pods";
    let list = match ask_list(Some(client), pods, "labelSelector=app%3Dweft-control-plane").await {
        Fact::There(list) => list,
        other => return (other.clone(), other),
    };
    let running = |pod: &&Value| text(pod, "/status/phase") == "Running";
    let pod = list.get("items").and_then(Value::as_array).and_then(|pods| pods.iter().find(running));
    let Some(name) = pod.map(|pod| text(pod, "/metadata/name")) else { return (Fact::Missing, Fact::Missing) };
    let page = |page: &str| format!("{pods}/{name}:{CONTROL_PLANE_ADMIN_PORT}/proxy/{page}");
    let expiry = match get_text(client, &page("metrics")).await {
        Ok(figures) => figure(&figures, ISSUER_EXPIRY)
            .map_or(Fact::Missing, |end| Fact::There(json!({"end": end, "overdue": figure(&figures, ISSUER_OVERDUE)}))),
        Err(why) => Fact::Unknown(why),
    };
    let secret = match get(client, &page("rotation")).await {
        Fact::There(mut rotation) => {
            rotation.get_mut("issuerSecret").map_or(Fact::Missing, |it| Fact::There(it.take()))
        }
        other => other,
    };
    (expiry, secret)
}

async fn get_text(client: &Client, path: &str) -> Result<String, String> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    client.request_text(request).await.map_err(|error| told(&error))
}

/// Where the control plane answers people.
const CONTROL_PLANE_ADMIN_PORT: u16 = 14011;

/// A figure without labels, of Prometheus' text.
fn figure(figures: &str, name: &str) -> Option<f64> {
    figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// An error with what it came from.
pub(crate) fn told(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.extend([": ", &more]);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::body::Bytes;
    use kube::client::Body;
    use weft_install::{Layer, Values};

    use super::*;

    /// An API server that answers from a function: a status and a body.
    fn server(answer: fn(&str) -> (u16, Value)) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| async move {
            let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            let (status, body) = answer(&path);
            let body = Full::new(Bytes::from(body.to_string()));
            Ok::<_, std::io::Error>(Response::builder().status(status).body(body).unwrap())
        });
        Client::new(service, "default")
    }

    fn refusal(code: u16) -> (u16, Value) {
        (
            code,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "No", "code": code}),
        )
    }

    #[tokio::test]
    async fn what_is_there_is_told_from_what_is_missing_and_what_is_hidden() {
        let client = server(|path| match path {
            "/version" => (200, json!({"gitVersion": "v1.34.0"})),
            "/api/v1/namespaces/kube-system/configmaps/cilium-config" => refusal(403),
            "/api/v1/nodes?limit=500&" => (200, json!({"metadata": {"continue": "x"}, "items": [1]})),
            "/api/v1/nodes?limit=500&&continue=x" => (200, json!({"metadata": {}, "items": [2, 3]})),
            "/api/v1/namespaces?limit=500&labelSelector=weft.dev/inject%3Denabled" => {
                (200, json!({"items": [{"metadata": {"name": "shop", "labels": {"weft.dev/inject": "enabled"}}}]}))
            }
            "/api/v1/namespaces/shop/pods?limit=500&" => (200, json!({"items": [{}]})),
            "/api/v1/pods?limit=500&labelSelector=weft.dev/inject%3Denabled" => {
                let pod = |namespace: &str| json!({"metadata": {"namespace": namespace}});
                (200, json!({"items": [pod("shop"), pod("lone")]}))
            }
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => (201, json!({"status": {"allowed": true}})),
            _ => refusal(404),
        });
        let facts = gather(&client, Stage::Before, &planned(&[]), 7).await;
        assert_eq!(facts.version, Fact::There(json!({"gitVersion": "v1.34.0"})));
        assert_eq!(facts.nodes, Fact::There(json!({"items": [1, 2, 3]})));
        assert!(matches!(&facts.cilium, Fact::Unknown(why) if why.contains("no")), "{:?}", facts.cilium);
        assert_eq!((&facts.kube_proxy, &facts.webhook), (&Fact::Missing, &Fact::Missing));
        let namespaces = facts.namespaces.unwrap();
        assert_eq!(
            (&namespaces[0].bundle, &namespaces[0].pods),
            (&Fact::Missing, &Fact::There(json!({"items": [{}]})))
        );
        let names: Vec<&str> = namespaces.iter().map(Labelled::name).collect();
        assert_eq!(names, ["shop", "lone"]);
        let asked: Vec<&str> = facts.rights.iter().map(|(what, _)| what.as_str()).collect();
        for want in ["create customresourcedefinitions", "patch clusterroles", "create deployments in weft-system"] {
            assert!(asked.contains(&want), "{want}: {asked:?}");
        }
        assert!(facts.rights.iter().all(|(_, allowed)| *allowed == Ok(true)));
    }

    /// What is installed where this is set.
    fn planned(set: &[&str]) -> Vec<Manifest> {
        let (values, set) = Values::read(set.iter().map(|text| Layer::set(text).unwrap()).collect::<Vec<_>>()).unwrap();
        weft_install::installed(&values, &set)
    }

    #[test]
    fn a_right_is_asked_for_where_something_will_be_created() {
        let has = |set: &[&str], namespace: &str, group: &str, resource: &str| {
            let [namespace, group, resource] = [namespace, group, resource].map(str::to_owned);
            created(&planned(set)).contains(&Created { namespace, group, resource })
        };
        let plugin = ["cni.enabled=true"].as_slice();
        let none: &[&str] = &[];
        for (set, namespace, group, resource, want) in [
            (none, "", "", "namespaces", true),
            (none, "", "apiextensions.k8s.io", "customresourcedefinitions", true),
            (none, "", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", true),
            (none, "weft-system", "policy", "poddisruptionbudgets", true),
            (none, "weft-system", "", "configmaps", true),
            (none, "weft-cni", "apps", "daemonsets", false),
            (plugin, "weft-cni", "apps", "daemonsets", true),
            (plugin, "weft-cni", "", "serviceaccounts", true),
            (plugin, "weft-cni", "rbac.authorization.k8s.io", "rolebindings", true),
            (none, "", "scheduling.k8s.io", "priorityclasses", false),
            (
                &["priorityClass.create=true", "priorityClass.name=weft"],
                "",
                "scheduling.k8s.io",
                "priorityclasses",
                true,
            ),
            (
                &["controlPlane.autoscaling.enabled=true"],
                "weft-system",
                "autoscaling",
                "horizontalpodautoscalers",
                true,
            ),
            (&["crds.enabled=false"], "", "apiextensions.k8s.io", "customresourcedefinitions", false),
        ] {
            assert_eq!(has(set, namespace, group, resource), want, "{set:?}: {namespace} {group} {resource}");
        }
    }

    #[tokio::test]
    async fn the_issuers_end_is_asked_of_a_control_plane_that_runs() {
        let client = server(|path| match path {
            "/api/v1/namespaces/weft-system/pods?limit=500&labelSelector=app%3Dweft-control-plane" => {
                let pod = |name: &str, phase: &str| json!({"metadata": {"name": name}, "status": {"phase": phase}});
                (200, json!({"items": [pod("a", "Pending"), pod("b", "Running")]}))
            }
            // A text, with quotes around it because this server speaks JSON alone.
            "/api/v1/namespaces/weft-system/pods/b:14011/proxy/metrics" => (200, json!("figures")),
            "/api/v1/namespaces/weft-system/pods/b:14011/proxy/rotation" => {
                (200, json!({"state": "Steady", "issuerSecret": {"name": "weft-issuer", "problem": null}}))
            }
            _ => refusal(404),
        });
        let secret = Fact::There(json!({"name": "weft-issuer", "problem": null}));
        assert_eq!(issuer(&client).await, (Fact::Missing, secret), "it answered, and does not say until when");
        let away = server(|path| if path.contains("/b:") { refusal(503) } else { (200, json!({"items": []})) });
        assert_eq!(issuer(&away).await, (Fact::Missing, Fact::Missing));
        let figures = "# TYPE x gauge\nweft_control_plane_issuer_expiry_timestamp_seconds 1.8e9\n# EOF\n";
        assert_eq!(figure(figures, ISSUER_EXPIRY), Some(1_800_000_000.0));
        assert_eq!(figure("weft_control_plane_issuer_expiry_timestamp_seconds_more 1\n", ISSUER_EXPIRY), None);
    }

    #[tokio::test]
    async fn an_api_server_that_does_not_answer_is_asked_once() {
        let client = server(|path| if path == "/version" { refusal(500) } else { panic!("{path} was asked for") });
        let facts = gather(&client, Stage::Before, &planned(&[]), 7).await;
        assert!(matches!(facts.version, Fact::Unknown(_)) && facts.rights.is_empty() && facts.namespaces.is_err());
    }
}
