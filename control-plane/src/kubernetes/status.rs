//! What became of each resource, written into its status: by the replica that holds the Lease, and only where it says something new.
//! Nobody but us writes the status of our own kinds. That of a route belongs to every controller that has a part in it, so that we
//! change our own entries and leave the others.

use std::collections::{BTreeMap, BTreeSet};
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

use crate::hub::{Hub, ProblemReport, ResourceReport};
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
        problems: texts(report.problems.iter()),
        proxies: report.proxies.clone(),
        refused_by: refused.map(|by| RefusedBy { workload: by.workload.clone(), reason: by.reason.clone() }).collect(),
    }
}

/// What is wrong, in words.
fn texts<'a>(problems: impl Iterator<Item = &'a ProblemReport>) -> Vec<String> {
    let text = |problem: &ProblemReport| match problem.field.as_str() {
        "" => problem.message.clone(),
        field => format!("{field}: {}", problem.message),
    };
    let mut texts: Vec<String> = problems.map(text).collect();
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
    let rules = route["spec"]["rules"].as_array().map_or(0, Vec::len);
    let parents = list(&route["spec"]["parentRefs"]);
    let mine = parents.into_iter().enumerate().filter(|(_, parent)| is_service(parent)).map(|(at, parent)| {
        let old = ours.iter().find(|entry| entry["parentRef"] == parent).map(|old| list(&old["conditions"]));
        let conditions = merged(old.unwrap_or_default(), conditions(report, at, rules), report.generation, now);
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

/// What is said of a route at one of its parents.
struct Said {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// Conditions of a route at its `parent`th parent; of those that may be absent, the ones that hold.
///
/// A route with a rule in force is accepted, and what of it is not in force makes it `PartiallyInvalid` (Gateway API,
/// `RouteParentStatus`).
fn conditions(report: &ResourceReport, parent: usize, rules: usize) -> Vec<Said> {
    let here = |problem: &&ProblemReport| index(&problem.field, "spec.parentRefs[").is_none_or(|at| at == parent);
    let of = |conditions: &[&str]| -> Vec<&ProblemReport> {
        report.problems.iter().filter(here).filter(|it| conditions.contains(&it.condition)).collect()
    };
    let (of_rules, of_all): (Vec<_>, Vec<_>) =
        of(&["Accepted", "Parsed"]).into_iter().partition(|it| index(&it.field, "spec.rules[").is_some());
    let broken: BTreeSet<usize> = of_rules.iter().filter_map(|problem| broken_rule(&problem.field)).collect();
    let holds = report.is_newest && of_all.is_empty() && (rules == 0 || broken.len() < rules);
    let mut said = Vec::new();
    if holds {
        said.push(Said { kind: "Accepted", holds, reason: "Accepted", message: String::new() });
        if !of_rules.is_empty() {
            let message = format!("Dropped Rule: {}", words(&of_rules));
            said.push(Said { kind: "PartiallyInvalid", holds: true, reason: "UnsupportedValue", message });
        }
    } else {
        let wrong: Vec<_> = of_all.into_iter().chain(of_rules).collect();
        let reason = wrong.first().map_or("UnsupportedValue", |first| first.reason);
        said.push(Said { kind: "Accepted", holds, reason, message: words(&wrong) });
    }
    let unresolved = of(&["ResolvedRefs"]);
    let reason = unresolved.first().map_or("ResolvedRefs", |first| first.reason);
    let message = words(&unresolved);
    said.push(Said { kind: "ResolvedRefs", holds: unresolved.is_empty(), reason, message });
    said
}

/// The number in a field of a list, as in `spec.rules[3].filters`.
fn index(field: &str, list: &str) -> Option<usize> {
    field.strip_prefix(list)?.split_once(']')?.0.parse().ok()
}

/// The rule that a problem puts out of force: of its filters, or of it as a whole. Others leave a part of it out.
fn broken_rule(field: &str) -> Option<usize> {
    let (_, rest) = field.strip_prefix("spec.rules[")?.split_once(']')?;
    if rest.is_empty() || rest.starts_with(".filters") { index(field, "spec.rules[") } else { None }
}

fn words(problems: &[&ProblemReport]) -> String {
    texts(problems.iter().copied()).join("; ")
}

/// Puts our conditions (`metav1.Condition`) among those that stand there: others' stay where they are, and a time is that of the last
/// change.
fn merged(mut old: Vec<Value>, said: Vec<Said>, generation: Option<i64>, now: &Value) -> Vec<Value> {
    old.retain(|it| it["type"] != "PartiallyInvalid" || said.iter().any(|said| said.kind == "PartiallyInvalid"));
    for Said { kind, holds, reason, message } in said {
        let status = if holds { "True" } else { "False" };
        let at = old.iter().position(|it| it["type"] == kind);
        let before = at.and_then(|at| old.get(at)).filter(|it| it["status"] == status);
        let since = before.map_or_else(|| now.clone(), |before| before["lastTransitionTime"].clone());
        let new = json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": since,
        });
        match at.and_then(|at| old.get_mut(at)) {
            Some(place) => *place = new,
            None => old.push(new),
        }
    }
    old
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(problems: &[(&'static str, &str, &str)]) -> ResourceReport {
        let problem = |(condition, field, message): &(&'static str, &str, &str)| ProblemReport {
            condition,
            reason: if *condition == "Conflicted" { condition } else { "UnsupportedValue" },
            field: (*field).to_owned(),
            message: (*message).to_owned(),
        };
        ResourceReport {
            kind: "HTTPRoute",
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            version: 7,
            generation: Some(3),
            is_newest: true,
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

        route["spec"]["parentRefs"] = json!([{"name": "gateway"}]);
        assert_eq!(route_parents(&route, &report(&[]), &json!("t4")).unwrap(), [theirs], "no part in it any more");
    }

    /// Status and reason of each condition at a parent.
    fn said(report: &ResourceReport, parent: usize, rules: usize) -> Vec<(&'static str, bool, &'static str)> {
        conditions(report, parent, rules).iter().map(|said| (said.kind, said.holds, said.reason)).collect()
    }

    #[test]
    fn a_parent_is_told_what_concerns_it() {
        let mut one = report(&[("Accepted", "spec.parentRefs[1]", "there is no Service x")]);
        one.problems[0].reason = "NoMatchingParent";
        let resolved = ("ResolvedRefs", true, "ResolvedRefs");
        assert_eq!(said(&one, 0, 1), [("Accepted", true, "Accepted"), resolved]);
        assert_eq!(said(&one, 1, 1), [("Accepted", false, "NoMatchingParent"), resolved]);
    }

    #[test]
    fn a_route_with_a_rule_in_force_is_accepted_in_part() {
        let resolved = ("ResolvedRefs", true, "ResolvedRefs");
        let partly = [("Accepted", true, "Accepted"), ("PartiallyInvalid", true, "UnsupportedValue"), resolved];
        let not = [("Accepted", false, "UnsupportedValue"), resolved];
        let filter = ("Accepted", "spec.rules[0].filters[1]", "CORS is not supported");
        assert_eq!(said(&report(&[filter]), 0, 2), partly);
        assert_eq!(said(&report(&[filter]), 0, 1), not, "no rule is left");
        assert_eq!(said(&report(&[("Accepted", "spec.rules[0].timeouts.request", "odd")]), 0, 1), partly);
        assert_eq!(said(&report(&[("Accepted", "spec.rules", "too many")]), 0, 2), not);
        assert_eq!(said(&ResourceReport { is_newest: false, ..report(&[filter]) }, 0, 2), not, "an older one holds");
        let told = conditions(&report(&[filter]), 0, 2);
        assert_eq!(told[1].message, "Dropped Rule: spec.rules[0].filters[1]: CORS is not supported");
    }

    #[test]
    fn conditions_of_others_stay_where_they_are_and_a_mended_route_is_whole() {
        let now = json!("t2");
        let theirs = json!({"type": "example.org/Seen", "status": "True"});
        let partly = json!({"type": "PartiallyInvalid", "status": "True", "lastTransitionTime": "t1"});
        let accepted = json!({"type": "Accepted", "status": "True", "lastTransitionTime": "t1"});
        let merged = merged(vec![partly, theirs.clone(), accepted], conditions(&report(&[]), 0, 1), Some(4), &now);
        let kinds: Vec<_> = merged.iter().map(|it| it["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["example.org/Seen", "Accepted", "ResolvedRefs"]);
        assert_eq!((&merged[0], &merged[1]["lastTransitionTime"]), (&theirs, &json!("t1")));
        assert_eq!((&merged[1]["observedGeneration"], &merged[2]["lastTransitionTime"]), (&json!(4), &now));
    }
}
