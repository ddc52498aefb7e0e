//! Whom to trust, told to pods: a ConfigMap in every namespace that is labelled for injection, or has a pod that is (semantics 34). The
//! kubelet mounts it, and a container that starts after a rotation finds what holds then.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{ObjectMeta, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use weft_model::kubernetes::{ENABLED, INJECT_LABEL, SYSTEM_NAMESPACES, TRUST_ANCHORS_KEY, TRUST_BUNDLE};
use weft_runtime::drain::Drain;
use weft_tls::TrustBundle;

/// Who has written what we write (server-side apply).
const FIELD_MANAGER: &str = "weft-control-plane";
/// How long it is waited before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often every ConfigMap is written again, for one that somebody changed or removed.
const REWRITE_EVERY: Duration = Duration::from_secs(60);

/// Writes the bundle into every labelled namespace, while this replica `leads` and until the drain is over.
pub(crate) async fn keep(
    client: Client,
    mut bundle: watch::Receiver<Arc<TrustBundle>>,
    mut leads: watch::Receiver<bool>,
    drain: Drain,
) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let config = watcher::Config::default().labels(&format!("{INJECT_LABEL}={ENABLED}"));
    let mut events = pin!(watcher(namespaces, config.clone()).default_backoff());
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(client.clone());
    let mut pods = pin!(watcher(pods, config).default_backoff());
    let mut labelled: BTreeMap<String, bool> = BTreeMap::new();
    let (mut rewrite, mut retry) = (Instant::now() + REWRITE_EVERY, None);
    loop {
        let due = retry.unwrap_or(rewrite).min(rewrite);
        // Nothing is lost: each is a state that is looked at below, or an event that stays in its stream.
        tokio::select! {
            () = drain.cut() => return,
            changed = bundle.changed() => if changed.is_err() { return } else { forget(&mut labelled) },
            changed = leads.changed() => if changed.is_err() { return } else { forget(&mut labelled) },
            event = events.next() => match event {
                Some(Ok(event)) => note(&mut labelled, event),
                Some(Err(error)) => tracing::warn!(%error, "labelled namespaces cannot be watched"),
                None => return,
            },
            pod = pods.next() => match pod {
                Some(Ok(event)) => note_pod(&mut labelled, event),
                Some(Err(error)) => tracing::warn!(%error, "labelled pods cannot be watched"),
                None => return,
            },
            () = sleep_until(due) => {
                retry = None;
                if due == rewrite {
                    forget(&mut labelled);
                    rewrite = Instant::now() + REWRITE_EVERY;
                }
            }
        }
        if !*leads.borrow() {
            continue;
        }
        let pem = bundle.borrow().to_pem();
        let mut gone = Vec::new();
        for (namespace, written) in labelled.iter_mut().filter(|(_, written)| !**written) {
            match write(&client, namespace, &pem).await {
                Ok(()) => *written = true,
                // That of a pod that was labelled itself.
                Err(kube::Error::Api(status)) if status.code == 404 => gone.push(namespace.clone()),
                Err(error) => {
                    tracing::warn!(
                        namespace,
                        error = &error as &dyn std::error::Error,
                        "no trust bundle could be written"
                    );
                    retry = Some(Instant::now() + RETRY);
                }
            }
        }
        labelled.retain(|namespace, _| !gone.contains(namespace));
    }
}

/// Takes in what became of a namespace.
fn note(labelled: &mut BTreeMap<String, bool>, event: watcher::Event<Namespace>) {
    let name = |namespace: Namespace| namespace.metadata.name.unwrap_or_default();
    match event {
        watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace) => {
            let is_going = namespace.metadata.deletion_timestamp.is_some();
            let name = name(namespace);
            if is_going {
                labelled.remove(&name);
            } else {
                labelled.entry(name).or_insert(false);
            }
        }
        watcher::Event::Delete(namespace) => {
            labelled.remove(&name(namespace));
        }
        // A namespace that has gone meanwhile is found out when it is written to.
        watcher::Event::Init | watcher::Event::InitDone => {}
    }
}

/// Takes in what became of a pod that is labelled itself, whose namespace need not be.
fn note_pod(labelled: &mut BTreeMap<String, bool>, event: watcher::Event<PartialObjectMeta<Pod>>) {
    let (watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event else { return };
    let namespace = pod.metadata.namespace.unwrap_or_default();
    if !SYSTEM_NAMESPACES.contains(&namespace.as_str()) {
        labelled.entry(namespace).or_insert(false);
    }
}

/// Everything is to be written again.
fn forget(labelled: &mut BTreeMap<String, bool>) {
    labelled.values_mut().for_each(|written| *written = false);
}

async fn write(client: &Client, namespace: &str, pem: &str) -> Result<(), kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(TRUST_BUNDLE.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(TRUST_ANCHORS_KEY.to_owned(), pem.to_owned())])),
        ..ConfigMap::default()
    };
    // It is ours alone: what somebody else wrote there would be trusted by every proxy of the namespace.
    api.patch(TRUST_BUNDLE, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&map)).await.map(drop)
}
