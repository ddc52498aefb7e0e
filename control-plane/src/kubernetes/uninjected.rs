//! Pods that should have a proxy and have none: an event at each says why and what to do, and a gauge counts them by reason. The injector
//! cannot say it: it never sees a pod that was made while it was away or before its namespace was labelled.
//!
//! All pods are watched by their metadata alone, which tells who was injected; only a pod that was not is read whole, once for each
//! time that it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PartialObjectMeta, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use weft_model::kubernetes::{DISABLED, ENABLED, INJECT_LABEL, INJECTED_BY, MIRROR, NotInjected, SYSTEM_NAMESPACES};
use weft_runtime::drain::Drain;

use crate::metrics::Metrics;

/// Who tells (events.k8s.io).
const CONTROLLER: &str = "weft.dev/control-plane";
/// How long changes are collected before pods are read.
const COLLECT: Duration = Duration::from_secs(1);
/// How long it is waited before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// For as long as nothing happens.
const IDLE: Duration = Duration::from_secs(3600);
/// Pods that are read at one time: a namespace that was just labelled may have thousands, and the API server has others to serve.
const AT_ONCE: usize = 100;

/// A namespace's name and a pod's.
type PodName = (String, String);

/// Pods without a proxy, and what is known of each.
#[derive(Debug, Default)]
struct Seen {
    /// What their labels say of namespaces that say something.
    namespaces: BTreeMap<String, String>,
    pods: BTreeMap<PodName, Bare>,
    /// Pods that a list that has begun has named so far.
    listed: BTreeSet<PodName>,
}

/// A pod without a proxy.
#[derive(Debug)]
struct Bare {
    uid: String,
    /// The version of it that `label` is of.
    version: String,
    /// What its own label says.
    label: Option<String>,
    /// What was found when it was read last: why, or `None` where nothing is amiss.
    found: Option<NotInjected>,
    /// Whether it is to be read: it is new, or has changed since.
    is_due: bool,
    /// Whether that failed. Others come first.
    has_failed: bool,
}

/// Tells of them while this replica `leads` and until the drain is over.
pub(crate) async fn tell(client: Client, metrics: Arc<Metrics>, mut leads: watch::Receiver<bool>, drain: Drain) {
    let namespaces = events(Api::<PartialObjectMeta<Namespace>>::all(client.clone()));
    let pods = events(Api::<PartialObjectMeta<Pod>>::all(client.clone()));
    let (mut namespaces, mut pods) = (pin!(namespaces), pin!(pods));
    let mut seen = Seen::default();
    let mut due: Option<Instant> = None;
    loop {
        let wait = due.unwrap_or_else(|| Instant::now() + IDLE);
        // Nothing is lost: events stay in their streams, and what was collected stays where it is.
        let after = tokio::select! {
            () = drain.cut() => return,
            changed = leads.changed() => if changed.is_err() { return } else { Duration::ZERO },
            event = namespaces.next() => match event {
                Some(event) => { seen.note_namespace(event); COLLECT },
                None => return,
            },
            event = pods.next() => match event {
                Some(event) => { seen.note_pod(event); COLLECT },
                None => return,
            },
            () = sleep_until(wait) => {
                due = None;
                if *leads.borrow() {
                    // A read that is cut off is made again.
                    tokio::select! {
                        () = drain.cut() => return,
                        () = seen.look(&client) => {}
                    }
                    metrics.set_not_injected(seen.counts());
                } else {
                    metrics.set_not_injected([]);
                }
                match seen.next_look() {
                    Some(after) => after,
                    None => continue,
                }
            }
        };
        // The first change sets the time, and those that follow do not put it off.
        due = due.or_else(|| Some(Instant::now() + after));
    }
}

/// What becomes of every object of a kind, as its metadata says. What goes wrong is tried again, and told in the log.
fn events<K>(api: Api<K>) -> impl Stream<Item = watcher::Event<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    watcher(api, watcher::Config::default()).default_backoff().filter_map(|event| async {
        event.inspect_err(|error| tracing::warn!(%error, "pods without a proxy cannot be looked for")).ok()
    })
}

impl Seen {
    fn note_namespace(&mut self, event: watcher::Event<PartialObjectMeta<Namespace>>) {
        match event {
            watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace) => {
                let name = namespace.metadata.name.unwrap_or_default();
                let label = namespace.metadata.labels.unwrap_or_default().remove(INJECT_LABEL);
                match label {
                    Some(label) => self.namespaces.insert(name, label),
                    None => self.namespaces.remove(&name),
                };
            }
            watcher::Event::Delete(namespace) => {
                self.namespaces.remove(&namespace.metadata.name.unwrap_or_default());
            }
            watcher::Event::Init => self.namespaces.clear(),
            watcher::Event::InitDone => {}
        }
    }

    fn note_pod(&mut self, event: watcher::Event<PartialObjectMeta<Pod>>) {
        match event {
            watcher::Event::Apply(pod) => drop(self.put(pod)),
            watcher::Event::InitApply(pod) => {
                let name = self.put(pod);
                self.listed.insert(name);
            }
            watcher::Event::Delete(pod) => {
                self.pods.remove(&read(pod.metadata).0);
            }
            // What is known stays known: a list that begins again is no news of each.
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.pods.retain(|name, _| listed.contains(name));
            }
        }
    }

    fn put(&mut self, pod: PartialObjectMeta<Pod>) -> PodName {
        let (name, bare) = read(pod.metadata);
        let before = self.pods.remove(&name);
        if let Some(mut bare) = bare {
            if let Some(before) = before.filter(|before| before.uid == bare.uid) {
                bare.is_due = before.is_due || before.version != bare.version;
                (bare.found, bare.has_failed) = (before.found, before.has_failed);
            }
            self.pods.insert(name.clone(), bare);
        }
        name
    }

    /// Whether a pod should have a proxy, by the labels that the webhook goes by.
    fn is_wanted(&self, (namespace, _): &PodName, bare: &Bare) -> bool {
        let says = |label: Option<&String>, what: &str| label.is_some_and(|label| label == what);
        let of_namespace = self.namespaces.get(namespace);
        let wants =
            says(bare.label.as_ref(), ENABLED) || (says(of_namespace, ENABLED) && !says(bare.label.as_ref(), DISABLED));
        wants && !SYSTEM_NAMESPACES.contains(&namespace.as_str())
    }

    /// Pods that are to be read, those that could not be read before last.
    fn due(&self) -> Vec<PodName> {
        let due = self.pods.iter().filter(|(name, bare)| bare.is_due && self.is_wanted(name, bare));
        let (failed, new): (Vec<_>, Vec<_>) = due.partition(|(_, bare)| bare.has_failed);
        new.into_iter().chain(failed).map(|(name, _)| name.clone()).collect()
    }

    /// When to look again though nothing changes.
    fn next_look(&self) -> Option<Duration> {
        let due = self.due();
        let first = due.first().and_then(|name| self.pods.get(name))?;
        Some(if first.has_failed { RETRY } else { COLLECT })
    }

    /// Finds out of some pods why they have no proxy, and tells of it.
    async fn look(&mut self, client: &Client) {
        for name in self.due().into_iter().take(AT_ONCE) {
            let looked = match self.pods.get(&name) {
                Some(bare) => look_at(client, &name, bare).await,
                None => continue,
            };
            let Some(bare) = self.pods.get_mut(&name) else { continue };
            match looked {
                Ok(found) => (bare.found, bare.is_due, bare.has_failed) = (found, false, false),
                Err(error) => {
                    bare.has_failed = true;
                    let (namespace, name) = &name;
                    tracing::warn!(%error, namespace, name, "what a pod without a proxy lacks cannot be told");
                }
            }
        }
    }

    /// How many there are for each reason.
    fn counts(&self) -> BTreeMap<&'static str, i64> {
        let mut counts: BTreeMap<_, _> = NotInjected::UNWANTED.iter().map(|reason| (reason.as_str(), 0)).collect();
        for (name, bare) in &self.pods {
            if let Some(reason) = bare.found.filter(|_| self.is_wanted(name, bare)) {
                *counts.entry(reason.as_str()).or_insert(0) += 1;
            }
        }
        counts
    }
}

/// Reads a pod, and writes the event where it lacks a proxy for a reason that was not told yet.
async fn look_at(
    client: &Client,
    (namespace, name): &PodName,
    bare: &Bare,
) -> Result<Option<NotInjected>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let found = pods.get_opt(name).await?.as_ref().and_then(why);
    let Some(reason) = found.filter(|_| found != bare.found) else { return Ok(found) };
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    match events.create(&PostParams::default(), &event(namespace, name, &bare.uid, reason)).await {
        Ok(_) => tracing::info!(namespace, name, reason = reason.as_str(), "a pod has no proxy"),
        // Told before, by us or by whoever led before us.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

/// What a pod's metadata says of it; nothing where it has a proxy, wants none, or goes.
fn read(mut meta: ObjectMeta) -> (PodName, Option<Bare>) {
    let name = (meta.namespace.take().unwrap_or_default(), meta.name.take().unwrap_or_default());
    let label = meta.labels.unwrap_or_default().remove(INJECT_LABEL);
    let injected = meta.annotations.is_some_and(|annotations| annotations.contains_key(INJECTED_BY));
    if injected || meta.deletion_timestamp.is_some() || label.as_deref() == Some(DISABLED) {
        return (name, None);
    }
    let (uid, version) = (meta.uid.unwrap_or_default(), meta.resource_version.unwrap_or_default());
    (name, Some(Bare { uid, version, label, found: None, is_due: true, has_failed: false }))
}

/// Why a pod has no proxy; `None` for one that has run to its end.
fn why(pod: &Pod) -> Option<NotInjected> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default();
    Some(if pod.metadata.annotations.as_ref().is_some_and(|it| it.contains_key(MIRROR)) {
        NotInjected::Static
    } else if host_network {
        NotInjected::HostNetwork
    } else if has_proxy(pod) {
        NotInjected::HasProxy
    } else {
        NotInjected::Older
    })
}

fn has_proxy(pod: &Pod) -> bool {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.into_iter().any(|container| container.name == weft_model::kubernetes::PROXY_CONTAINER)
}

/// What is told at a pod, once: its name is the pod's uid, whoever writes it.
fn event(namespace: &str, name: &str, uid: &str, reason: NotInjected) -> Event {
    let kind = if reason == NotInjected::Older { "Warning" } else { "Normal" };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("weft-not-injected.{uid}")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        action: Some("Inject".to_owned()),
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        note: Some(format!("no proxy was added: {}", reason.message())),
        reason: Some("NotInjected".to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some("weft-control-plane".to_owned()),
        type_: Some(kind.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meta(label: Option<&str>, injected: bool) -> ObjectMeta {
        let label = label.map(|label| (INJECT_LABEL.to_owned(), label.to_owned()));
        let by = injected.then(|| (INJECTED_BY.to_owned(), "0.1.0".to_owned()));
        ObjectMeta {
            namespace: Some("shop".to_owned()),
            name: Some("cart".to_owned()),
            uid: Some("7".to_owned()),
            labels: Some(label.into_iter().collect()),
            annotations: Some(by.into_iter().collect()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn who_should_have_a_proxy_is_what_the_webhook_goes_by() {
        for (namespace, of_namespace, of_pod, injected, want) in [
            ("shop", Some(ENABLED), None, false, true),
            ("shop", Some(ENABLED), None, true, false),
            ("shop", Some(ENABLED), Some(DISABLED), false, false),
            ("shop", Some(ENABLED), Some("odd"), false, true),
            ("shop", None, Some("odd"), false, false),
            ("shop", None, Some(ENABLED), false, true),
            ("shop", Some(DISABLED), Some(ENABLED), false, true),
            ("shop", None, None, false, false),
            ("kube-system", Some(ENABLED), Some(ENABLED), false, false),
        ] {
            let mut seen = Seen::default();
            seen.namespaces.extend(of_namespace.map(|label| (namespace.to_owned(), label.to_owned())));
            let ((_, name), bare) = read(meta(of_pod, injected));
            seen.pods.extend(bare.map(|bare| ((namespace.to_owned(), name), bare)));
            assert_eq!(!seen.due().is_empty(), want, "{namespace} {of_namespace:?} {of_pod:?} {injected}");
        }
    }

    #[test]
    fn why_is_found_in_the_pod() {
        let pod = |value| serde_json::from_value::<Pod>(value).unwrap();
        let containers = json!([{"name": "app"}]);
        for (spec, status, want) in [
            (json!({"containers": containers}), json!({}), Some(NotInjected::Older)),
            (json!({"containers": containers}), json!({"phase": "Running"}), Some(NotInjected::Older)),
            (json!({"containers": containers}), json!({"phase": "Succeeded"}), None),
            (json!({"containers": containers, "hostNetwork": true}), json!({}), Some(NotInjected::HostNetwork)),
            (json!({"containers": [{"name": "weft-proxy"}]}), json!({}), Some(NotInjected::HasProxy)),
        ] {
            let found = pod(json!({"metadata": {}, "spec": spec, "status": status}));
            assert_eq!(why(&found), want, "{found:?}");
        }
        let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
        let found = pod(json!({"metadata": mirror, "spec": {"containers": [], "hostNetwork": true}}));
        assert_eq!(why(&found), Some(NotInjected::Static));
    }

    fn partial(version: &str) -> PartialObjectMeta<Pod> {
        let metadata = ObjectMeta { resource_version: Some(version.to_owned()), ..meta(None, false) };
        PartialObjectMeta { metadata, ..PartialObjectMeta::default() }
    }

    /// One pod that was read and found to be older than its label.
    fn known() -> Seen {
        let mut seen = Seen::default();
        seen.namespaces.insert("shop".to_owned(), ENABLED.to_owned());
        seen.note_pod(watcher::Event::Apply(partial("1")));
        for bare in seen.pods.values_mut() {
            (bare.found, bare.is_due) = (Some(NotInjected::Older), false);
        }
        seen
    }

    fn older(seen: &Seen) -> i64 {
        seen.counts()[NotInjected::Older.as_str()]
    }

    #[test]
    fn a_pod_that_changes_is_looked_at_again_and_counts_until_then() {
        let mut seen = known();
        assert_eq!((seen.due().len(), older(&seen)), (0, 1));
        seen.note_pod(watcher::Event::Apply(partial("2")));
        assert_eq!((seen.due().len(), older(&seen)), (1, 1));
        seen.note_pod(watcher::Event::Delete(partial("3")));
        assert_eq!((seen.due().len(), older(&seen)), (0, 0));
    }

    #[test]
    fn a_list_that_begins_again_is_no_news_of_who_is_still_there() {
        let mut seen = known();
        for event in [watcher::Event::Init, watcher::Event::InitApply(partial("1")), watcher::Event::InitDone] {
            seen.note_pod(event);
            assert_eq!((seen.due().len(), older(&seen)), (0, 1));
        }
        seen.note_pod(watcher::Event::Init);
        seen.note_pod(watcher::Event::InitDone);
        assert_eq!(older(&seen), 0, "it went while nobody watched");
    }

    #[test]
    fn a_pod_that_cannot_be_read_does_not_stand_in_the_way_of_others() {
        let mut seen = known();
        for bare in seen.pods.values_mut() {
            (bare.is_due, bare.has_failed) = (true, true);
        }
        assert_eq!(seen.next_look(), Some(RETRY));
        let mut other = partial("1");
        other.metadata.name = Some("zebra".to_owned());
        seen.note_pod(watcher::Event::Apply(other));
        assert_eq!(seen.due().first().map(|(_, name)| name.as_str()), Some("zebra"));
        assert_eq!(seen.next_look(), Some(COLLECT));
    }
}
