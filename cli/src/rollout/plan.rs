//! Which workloads are restarted, and whether one is ready.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;
use weft_injector::patch::{Installation, Outcome, inject};

use super::Asked;
use crate::check::{has_proxy, is_running, version_of};

/// What can be restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    DaemonSet,
    Deployment,
    StatefulSet,
}

/// Every kind.
pub(super) const KINDS: [Kind; 3] = [Kind::DaemonSet, Kind::Deployment, Kind::StatefulSet];

impl Kind {
    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::DaemonSet => "daemonsets",
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
        }
    }

    fn named(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| format!("{kind:?}") == name)
    }
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Workload {
    pub(super) namespace: String,
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl Workload {
    /// Where the API server has it.
    pub(super) fn path(&self) -> String {
        let Self { namespace, kind, name } = self;
        format!("/apis/apps/v1/namespaces/{namespace}/{}/{name}", kind.plural())
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What a namespace holds.
#[derive(Clone, Debug)]
pub(super) struct Gathered {
    pub(super) namespace: String,
    pub(super) pods: Vec<Value>,
    pub(super) replica_sets: Vec<Value>,
    pub(super) workloads: Vec<(Kind, Value)>,
}

/// What is restarted, and what should be and is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In their order.
    pub(super) restarted: Vec<Workload>,
    /// Each with why not.
    pub(super) left: Vec<(String, String)>,
}

/// Decides it.
pub(super) fn plan(namespaces: &[Gathered], asked: &Asked) -> Plan {
    let mut restarted = BTreeSet::new();
    let mut left = BTreeMap::new();
    for Gathered { namespace, pods, replica_sets, workloads } in namespaces {
        for pod in pods.iter().filter(|pod| is_running(pod) && is_due(pod, asked)) {
            let owner = match owner(pod) {
                Some(("ReplicaSet", name)) => replica_sets.iter().find(|set| name_of(set) == name).and_then(owner),
                other => other,
            };
            let workload = owner.and_then(|(kind, name)| {
                Some(Workload { namespace: namespace.clone(), kind: Kind::named(kind)?, name: name.to_owned() })
            });
            let Some(workload) = workload else {
                let whose = owner.map_or_else(|| "nobody's".to_owned(), |(kind, name)| format!("{kind} {name}'s"));
                let why = format!("it is {whose}: who made it must make it again");
                left.insert(format!("Pod {namespace}/{}", name_of(pod)), why);
                continue;
            };
            let object =
                workloads.iter().find(|(kind, object)| *kind == workload.kind && name_of(object) == workload.name);
            match object.and_then(|(_, object)| hindrance(object)) {
                Some(why) => drop(left.insert(workload.to_string(), why.to_owned())),
                None => drop(restarted.insert(workload)),
            }
        }
    }
    Plan { restarted: restarted.into_iter().collect(), left: left.into_iter().collect() }
}

/// Whether a pod should have another proxy than it has.
fn is_due(pod: &Value, asked: &Asked) -> bool {
    if has_proxy(pod) {
        return asked.all || version_of(pod) != asked.version;
    }
    // One that is left alone on purpose would be left alone again.
    let nowhere = Installation::default();
    matches!(inject(pod, &nowhere), Ok(Outcome::Injected(_)))
}

/// Kind and name of the one that makes a pod again.
fn owner(object: &Value) -> Option<(&str, &str)> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some((owner["kind"].as_str()?, owner["name"].as_str()?))
}

fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// Why a changed template makes no new pods.
fn hindrance(workload: &Value) -> Option<&'static str> {
    if workload.pointer("/spec/paused") == Some(&Value::Bool(true)) {
        return Some("it is paused: kubectl rollout resume");
    }
    let strategy = workload.pointer("/spec/updateStrategy/type").and_then(Value::as_str);
    (strategy == Some("OnDelete")).then_some("its pods are replaced only when they are deleted (OnDelete)")
}

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Ready,
    /// It will not become ready by itself.
    Stuck(String),
    /// For what.
    Waiting(String),
}

/// Judges it by what its controller wrote.
pub(super) fn progress(kind: Kind, object: &Value) -> Progress {
    let count = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64);
    if count("/status/observedGeneration").unwrap_or(0) < count("/metadata/generation").unwrap_or(0) {
        return Progress::Waiting("its controller has not seen it yet".to_owned());
    }
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let exceeded =
        |condition: &Value| condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded";
    if conditions.into_iter().flatten().any(exceeded) {
        return Progress::Stuck("its rollout has stopped (ProgressDeadlineExceeded)".to_owned());
    }
    let status = |name: &str| count(&format!("/status/{name}")).unwrap_or(0);
    let (want, updated, ready, all) = match kind {
        Kind::DaemonSet => {
            let want = status("desiredNumberScheduled");
            (want, status("updatedNumberScheduled"), status("numberAvailable"), want)
        }
        Kind::Deployment => (
            count("/spec/replicas").unwrap_or(1),
            status("updatedReplicas"),
            status("availableReplicas"),
            status("replicas"),
        ),
        Kind::StatefulSet => {
            let want = count("/spec/replicas").unwrap_or(1);
            // Pods below the partition keep their revision on purpose.
            let kept = count("/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0).min(want);
            (want, (status("updatedReplicas") + kept).min(want), status("readyReplicas"), status("replicas"))
        }
    };
    if updated < want {
        Progress::Waiting(format!("{updated} of {want} pods are new"))
    } else if all > want {
        Progress::Waiting(format!("{} old pods end", all - want))
    } else if ready < want {
        Progress::Waiting(format!("{ready} of {want} pods are ready"))
    } else {
        Progress::Ready
    }
}
