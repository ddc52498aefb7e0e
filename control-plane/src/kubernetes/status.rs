//! What became of each resource, written into its status: by the replica that holds the Lease, and only where it says something new.
//! Nobody but us writes the status of our own kinds. That of a route belongs to every controller that has a part in it, so that we
//! change our own entries and leave the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use weft_crds::{RefusedBy, ResourceStatus};
use weft_index::Kind;
use weft_runtime::drain::Drain;

use crate::hub::{Hub, ResourceReport};
use crate::source::kubernetes::resource;
use crate::status::{COLLECT, SHARE_MAX};

/// Who has written what we write (server-side apply).
const FIELD_MANAGER: &str = "weft-control-plane";

/// Who we are among the controllers of a route (Gateway API: a domain and a path).
const CONTROLLER: &str = "weft.dev/mesh";

/// Problems that a status names; a resource with more is told how many.
const PROBLEMS_MAX: usize = 16;

/// Kinds whose status says something of the mesh.
const STATUS: [Kind; 6] = [
    Kind::AuthorizationPolicy,
    Kind::GrpcRoute,
    Kind::HttpRoute,
    Kind::MeshPolicy,
    Kind::TrafficPolicy,
    Kind::Workload,
];

/// What was written last, by kind, namespace and name.
type Written = BTreeMap<(Kind, String, String), ResourceReport>;

/// Writes status while this replica `leads` and until the drain is over.
pub(crate) async fn keep(client: Client, hub: Arc<Hub>, mut leads: watch::Receiver<bool>, drain: Drain) {
    let mut news = hub.news();
    let mut written = Written::new();
    loop {
        // Nothing is lost: both are states that are looked at below.
        tokio::select! {
            () = drain.cut() => return,
            changed = news.changed() => if changed.is_err() { return },
            changed = leads.changed() => match changed {
                // What another replica wrote meanwhile is not known.
                Ok(()) => written.clear(),
                Err(_) => return,
            }
        }
        if !*leads.borrow() {
            continue;
        }
        let (begun, reporting) = (Instant::now(), Arc::clone(&hub));
        let Ok(report) = tokio::task::spawn_blocking(move || reporting.report()).await else { return };
        let took = begun.elapsed();
        tokio::select! {
            () = drain.cut() => return,
            () = write_all(&client, report.resources, &mut written) => {}
        }
        sleep(COLLECT.max(took * (SHARE_MAX - 1))).await;
    }
}

async fn write_all(client: &Client, resources: Vec<ResourceReport>, written: &mut Written) {
    let mut now = Written::new();
    for report in resources {
        let Some(kind) = STATUS.into_iter().find(|kind| kind.as_str() == report.kind) else { continue };
        let key = (kind, report.namespace.clone(), report.name.clone());
        if written.get(&key) == Some(&report) {
            now.insert(key, report);
            continue;
        }
        match write(client, kind, &report).await {
            Ok(()) => drop(now.insert(key, report)),
            // It is gone; its deletion is on its way to us.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            // Somebody changed it meanwhile; its new version is on its way to us.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    kind = report.kind,
                    namespace = report.namespace,
                    name = report.name,
                    "no status written"
                );
            }
        }
    }
    *written = now;
}

async fn write(client: &Client, kind: Kind, report: &ResourceReport) -> Result<(), kube::Error> {
    let api = Api::namespaced_with(client.clone(), &report.namespace, &resource(kind));
    match kind {
        Kind::GrpcRoute | Kind::HttpRoute => write_route(&api, report).await,
        _ => write_own(&api, kind, report).await,
    }
}

async fn write_own(api: &Api<DynamicObject>, kind: Kind, report: &ResourceReport) -> Result<(), kube::Error> {
    let applied = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": {"name": report.name},
        "status": own_status(report),
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&report.name, &params, &Patch::Apply(&applied)).await.map(drop)
}

fn own_status(report: &ResourceReport) -> ResourceStatus {
    let refused = report.refused_by.iter();
    ResourceStatus {
        accepted: report.accepted,
        problems: problems(report, |_condition| true),
        proxies: report.proxies.clone(),
        refused_by: refused.map(|by| RefusedBy { workload: by.workload.clone(), reason: by.reason.clone() }).collect(),
    }
}

/// What is wrong in words, of the conditions that are asked for.
fn problems(report: &ResourceReport, of: impl Fn(&str) -> bool) -> Vec<String> {
    let found = report.problems.iter().filter(|problem| of(problem.condition));
    let mut texts: Vec<String> = found
        .map(|problem| match problem.field.as_str() {
            "" => problem.message.clone(),
            field => format!("{field}: {}", problem.message),
        })
        .collect();
    if texts.len() > PROBLEMS_MAX {
        let more = texts.len() - PROBLEMS_MAX;
        texts.truncate(PROBLEMS_MAX);
        texts.push(format!("and {more} more"));
    }
    texts
}

async fn write_route(api: &Api<DynamicObject>, report: &ResourceReport) -> Result<(), kube::Error> {
    let mut route = api.get(&report.name).await?;
    // A newer version than the one that we speak of is spoken of when it has come to us.
    if route.metadata.generation != report.generation {
        return Ok(());
    }
    let now = Time(jiff::Timestamp::now());
    let Some(parents) = route_parents(&route.data, report, &json!(now)) else { return Ok(()) };
    route.data["status"] = json!({"parents": parents});
    api.replace_status(&report.name, &PostParams::default(), &route).await.map(drop)
}

/// The entries of all controllers, with ours as they should be; `None` where they are so already.
fn route_parents(route: &Value, report: &ResourceReport, now: &Value) -> Option<Vec<Value>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let before = list(&route["status"]["parents"]);
    let (ours, others): (Vec<Value>, Vec<Value>) =
        before.iter().cloned().partition(|entry| entry["controllerName"] == CONTROLLER);
    // GEP-1294 has a word of its own for a route that gives way to one of another kind.
    let conflicted = report.problems.iter().any(|problem| problem.condition == "Conflicted");
    let bad = if conflicted { "Conflicted" } else { "UnsupportedValue" };
    let mine = list(&route["spec"]["parentRefs"]).into_iter().filter(is_service).map(|parent| {
        let old = ours.iter().find(|entry| entry["parentRef"] == parent);
        let conditions = [
            condition(report, old, now, "Accepted", &["Accepted", "Conflicted", "Parsed"], bad),
            condition(report, old, now, "ResolvedRefs", &["ResolvedRefs"], "BackendNotFound"),
        ];
        json!({"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions})
    });
    let after: Vec<Value> = others.into_iter().chain(mine).collect();
    // An order of theirs that is not ours is no difference.
    let same = after.len() == before.len() && after.iter().all(|entry| before.contains(entry));
    (!same).then_some(after)
}

fn is_service(parent: &Value) -> bool {
    let is = |name: &str, want: &str, default: &str| parent[name].as_str().unwrap_or(default) == want;
    is("kind", "Service", "Gateway") && is("group", "", "gateway.networking.k8s.io")
}

/// A condition (Gateway API: `metav1.Condition`), whose time is that of its last change.
fn condition(report: &ResourceReport, old: Option<&Value>, now: &Value, name: &str, of: &[&str], bad: &str) -> Value {
    let wrong = problems(report, |condition| of.contains(&condition));
    let status = if wrong.is_empty() { "True" } else { "False" };
    let conditions = old.and_then(|old| old["conditions"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let before = conditions.iter().find(|condition| condition["type"] == name && condition["status"] == status);
    json!({
        "type": name,
        "status": status,
        "reason": if wrong.is_empty() { name } else { bad },
        "message": wrong.join("; "),
        "observedGeneration": report.generation,
        "lastTransitionTime": before.map_or(now, |before| &before["lastTransitionTime"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::ProblemReport;

    fn report(problems: &[(&'static str, &str, &str)]) -> ResourceReport {
        let problem = |(condition, field, message): &(&'static str, &str, &str)| ProblemReport {
            condition,
            field: (*field).to_owned(),
            message: (*message).to_owned(),
        };
        ResourceReport {
            kind: "HTTPRoute",
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            version: 7,
            generation: Some(3),
            accepted: problems.is_empty(),
            resolved_refs: true,
            problems: problems.iter().map(problem).collect(),
            proxies: "2/3 proxies".to_owned(),
            proxies_running: 2,
            proxies_concerned: 3,
            refused_by: Vec::new(),
        }
    }

    #[test]
    fn our_own_kinds_are_told_what_is_wrong_and_how_far_they_got() {
        let status = own_status(&report(&[("Accepted", "spec.x", "bad"), ("Notice", "", "well")]));
        assert_eq!((status.accepted, status.proxies.as_str()), (false, "2/3 proxies"));
        assert_eq!(status.problems, ["spec.x: bad", "well"]);
        let many = vec![("Accepted", "spec.x", "bad"); PROBLEMS_MAX + 3];
        assert_eq!(own_status(&report(&many)).problems.last().unwrap(), "and 3 more");
    }

    #[test]
    fn a_route_has_an_entry_of_ours_for_each_service_and_those_of_others_stay() {
        let theirs = json!({"controllerName": "example.org/other", "parentRef": {"name": "gateway"}, "conditions": []});
        let service = json!({"group": "", "kind": "Service", "name": "cart"});
        let mut route = json!({
            "spec": {"parentRefs": [service, {"name": "gateway"}]},
            "status": {"parents": [theirs]},
        });
        let first = route_parents(&route, &report(&[]), &json!("t1")).unwrap();
        assert_eq!((&first[0], &first[1]["parentRef"], first.len()), (&theirs, &service, 2));
        let accepted = &first[1]["conditions"][0];
        assert_eq!(accepted["observedGeneration"], 3);
        assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("True"), &json!("Accepted")));

        route["status"]["parents"] = json!(first);
        assert_eq!(route_parents(&route, &report(&[]), &json!("t2")), None, "nothing new, nothing written");
        let broken = report(&[("ResolvedRefs", "spec.rules[0]", "there is no Service x")]);
        let second = route_parents(&route, &broken, &json!("t3")).unwrap();
        let [accepted, resolved] = [0, 1].map(|i| &second[1]["conditions"][i]);
        assert_eq!((&accepted["status"], &accepted["lastTransitionTime"]), (&json!("True"), &json!("t1")));
        assert_eq!((&resolved["status"], &resolved["lastTransitionTime"]), (&json!("False"), &json!("t3")));
        assert_eq!(resolved["message"], "spec.rules[0]: there is no Service x");

        let conflicted = report(&[("Conflicted", "spec.parentRefs[0]", "another comes first")]);
        let third = route_parents(&route, &conflicted, &json!("t3")).unwrap();
        let accepted = &third[1]["conditions"][0];
        assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("Conflicted")));

        route["spec"]["parentRefs"] = json!([{"name": "gateway"}]);
        assert_eq!(route_parents(&route, &report(&[]), &json!("t4")).unwrap(), [theirs], "no part in it any more");
    }
}
