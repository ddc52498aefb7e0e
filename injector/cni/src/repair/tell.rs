//! What was done for a pod, told: an event at it, a line in the log, a metric.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Waiting;

/// Who tells (events.k8s.io).
const CONTROLLER: &str = "weft.dev/cni";
/// Events that are remembered, so that none is told twice.
const TOLD_MAX: usize = 1024;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Another is made in its place.
    Evicted,
    /// Nothing helped so far.
    Failed,
    /// The rules are in force.
    Set,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct How {
    how: &'static str,
}

/// How often what was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repairs(Family<How, Counter>);

impl Repairs {
    /// Counts from zero, of each kind.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let repairs = Self::default();
        for deed in [Deed::Evicted, Deed::Failed, Deed::Set] {
            drop(repairs.0.get_or_create(&How { how: deed.as_str() }));
        }
        registry.register(
            "repairs",
            "Pods that were made before the plugin was in the chain, by what was done",
            repairs.0.clone(),
        );
        repairs
    }
}

impl Deed {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Failed => "failed",
            Self::Set => "set",
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Evicted => "RedirectEvicted",
            Self::Failed => "RedirectFailed",
            Self::Set => "RedirectRepaired",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Evicted => {
                "the pod was made before weft-cni was in the node's CNI configuration, and its network cannot be reached from outside: it was evicted, so that another is made"
            }
            Self::Failed => "the redirect to the pod's proxy is not in force, and cannot be set",
            Self::Set => {
                "the pod was made before weft-cni was in the node's CNI configuration: the redirect to its proxy was set now, and it goes on"
            }
        }
    }
}

/// Who tells.
pub(super) struct Teller {
    recorder: Recorder,
    repairs: Repairs,
    /// Of which pod what was told, the latest last. Held for a moment.
    told: Mutex<VecDeque<(String, Deed)>>,
}

impl Teller {
    pub(super) fn new(client: Client, node: String, repairs: Repairs) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node) };
        Self { recorder: Recorder::new(client, reporter), repairs, told: Mutex::default() }
    }

    /// Tells of what was done, and why where that is not clear.
    pub(super) async fn tell(&self, pod: &Waiting, deed: Deed, why: &str) {
        self.repairs.0.get_or_create(&How { how: deed.as_str() }).inc();
        let message = if why.is_empty() { deed.message().to_owned() } else { format!("{}: {why}", deed.message()) };
        let (namespace, name) = (&pod.namespace, &pod.name);
        if deed == Deed::Failed {
            tracing::error!(namespace, name, why, "a pod's redirect cannot be set");
        } else {
            tracing::warn!(namespace, name, deed = deed.as_str(), "a pod had no redirect");
        }
        if !self.is_news(&pod.uid, deed) {
            return;
        }
        let event = Event {
            type_: if deed == Deed::Set { EventType::Normal } else { EventType::Warning },
            reason: deed.reason().to_owned(),
            note: Some(message),
            action: "Repair".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        };
        if let Err(error) = self.recorder.publish(&event, &about).await {
            tracing::warn!(%error, namespace, name, "an event cannot be written");
        }
    }

    /// Whether it was not told of this pod yet. Remembers it.
    fn is_news(&self, uid: &str, deed: Deed) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.iter().any(|(pod, known)| pod == uid && *known == deed) {
            return false;
        }
        if told.len() == TOLD_MAX {
            told.pop_front();
        }
        told.push_back((uid.to_owned(), deed));
        true
    }
}
