//! Pods that were made before the plugin was in the chain. Their container that proves capture waits, and fails when nobody comes: here
//! somebody does. The rules are set in the pod's own network, from outside, and it goes on as if they had been there; where its network
//! cannot be found, as with a runtime that keeps it in a virtual machine, it is evicted, so that another is made in its place.
//!
//! Only pods are looked at whose container is waiting or has failed, so a node at rest costs nothing. What is decided is pure
//! ([`judge`]); what was done is an event at the pod, a line in the log and a metric.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::EvictParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use weft_init::{Options, told};
use weft_model::kubernetes::{INIT_CONTAINER, REDIRECT};
use weft_runtime::drain::Drain;

use crate::keep::Standing;
use crate::rules::RulesError;
use crate::{namespace, rules};

mod tell;

pub(crate) use tell::Repairs;
use tell::{Deed, Teller};

/// Processes of the whole node.
const PROC: &str = "/proc";
/// How often a pod that waits is looked at, from when it is there to when its network is.
const LOOK: Duration = Duration::from_millis(200);
/// How long after a failure the next try is.
const RETRY: Duration = Duration::from_secs(5);
/// For as long as nothing happens.
const IDLE: Duration = Duration::from_secs(3600);

/// Who repairs.
#[derive(Clone)]
pub(crate) struct Repair {
    pub(crate) client: Client,
    pub(crate) node: String,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) repairs: Repairs,
}

/// A pod that waits for its rules.
#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    namespace: String,
    name: String,
    uid: String,
    /// How often its container has begun, which with `uid` tells one wait from another.
    begun: i32,
    options: Result<Options, String>,
}

/// What became of a pod that waits.
enum Outcome {
    /// There is nothing more to do for this wait.
    Done,
    /// It is looked at again, sooner or later.
    Again(Duration),
}

impl Repair {
    /// Looks after the node's pods until the drain begins.
    pub(crate) async fn run(self, drain: Drain) {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let mut events = pin!(watcher(pods, of_node).default_backoff());
        let teller = Teller::new(self.client.clone(), self.node.clone(), self.repairs.clone());
        let mut waiting = Waits::default();
        loop {
            let next = waiting.next().unwrap_or_else(|| Instant::now() + IDLE);
            // Nothing is lost: events stay in their stream, and who waits is remembered.
            tokio::select! {
                () = drain.draining() => return,
                event = events.next() => match event {
                    Some(Ok(event)) => waiting.note(event, Instant::now()),
                    Some(Err(error)) => tracing::warn!(%error, node = self.node, "the node's pods cannot be watched"),
                    None => return,
                },
                () = sleep_until(next) => {
                    if let Some(pod) = waiting.due(Instant::now()) {
                        let outcome = Box::pin(self.look_at(&pod, &teller)).await;
                        waiting.settle(&pod, &outcome, Instant::now());
                    }
                }
            }
        }
    }

    async fn look_at(&self, pod: &Waiting, teller: &Teller) -> Outcome {
        let options = match &pod.options {
            Ok(options) => options.clone(),
            Err(why) => {
                teller.tell(pod, Deed::Failed, why).await;
                return Outcome::Done;
            }
        };
        let uid = pod.uid.clone();
        let Ok(found) = spawn_blocking(move || mend(Path::new(PROC), &uid, &options)).await else {
            return Outcome::Again(RETRY);
        };
        match found {
            Ok(Mended::Already) => Outcome::Done,
            Ok(Mended::Now) => {
                teller.tell(pod, Deed::Set, "").await;
                Outcome::Done
            }
            Ok(Mended::NoNetwork) => Box::pin(self.evict(pod, teller)).await,
            Err(error) => {
                teller.tell(pod, Deed::Failed, &told(&error)).await;
                Outcome::Again(RETRY)
            }
        }
    }

    /// Has the pod made anew, which helps once the plugin is in the chain.
    async fn evict(&self, pod: &Waiting, teller: &Teller) -> Outcome {
        if self.standing.borrow().file.is_none() {
            return Outcome::Again(RETRY);
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        match pods.evict(&pod.name, &EvictParams::default()).await {
            Ok(_) => {
                teller.tell(pod, Deed::Evicted, "").await;
                Outcome::Done
            }
            Err(error) => {
                teller.tell(pod, Deed::Failed, &format!("it cannot be evicted: {error}")).await;
                Outcome::Again(RETRY)
            }
        }
    }
}

/// What was found in a pod's network.
enum Mended {
    /// The rules were there.
    Already,
    /// No process of the pod is to be seen.
    NoNetwork,
    /// They were not, and are now.
    Now,
}

fn mend(proc: &Path, uid: &str, options: &Options) -> Result<Mended, RulesError> {
    let network = namespace::of_pod(proc, uid).map_err(|source| {
        let path = proc.to_owned();
        RulesError::Namespace(namespace::NamespaceError::Enter { path, source })
    })?;
    let Some(network) = network else { return Ok(Mended::NoNetwork) };
    match rules::compare(&network, options) {
        Ok(()) => Ok(Mended::Already),
        Err(error) if error.is_difference() => rules::set(&network, options).map(|()| Mended::Now),
        Err(error) => Err(error),
    }
}

/// Whether a pod waits for rules that somebody else sets, and with what options; `None` for every other pod, and for one that is not
/// there yet or no longer.
fn judge(pod: &Pod) -> Option<Waiting> {
    let text = pod.annotations().get(REDIRECT)?;
    let spec = pod.spec.as_ref()?;
    // Its network is the node's, whatever somebody wrote onto it.
    if spec.host_network == Some(true) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return None;
    }
    let containers = status.init_container_statuses.as_deref().unwrap_or_default();
    let prover = containers.iter().find(|container| container.name == INIT_CONTAINER)?;
    let has_begun =
        prover.restart_count > 0 || prover.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    let waits = match prover.state.as_ref()? {
        ContainerState { terminated: Some(ended), .. } => ended.exit_code != 0,
        ContainerState { running: Some(_), .. } => true,
        // Of one that has never run the image may be on its way, and its network not there.
        ContainerState { .. } => has_begun,
    };
    waits.then(|| Waiting {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        begun: prover.restart_count,
        options: Options::from_annotation(text)
            .map_err(|error| format!("the annotation {REDIRECT} makes no sense: {error}")),
    })
}

/// Pods that wait, and when each is looked at next; by uid.
#[derive(Debug, Default)]
struct Waits {
    pods: BTreeMap<String, (Waiting, Option<Instant>)>,
    /// Who a list that has begun has named so far.
    listed: BTreeSet<String>,
}

impl Waits {
    fn note(&mut self, event: watcher::Event<Pod>, now: Instant) {
        match event {
            watcher::Event::Apply(pod) => self.put(&pod, now),
            watcher::Event::InitApply(pod) => {
                self.put(&pod, now);
                self.listed.extend(pod.uid());
            }
            watcher::Event::Delete(pod) => drop(self.pods.remove(&pod.uid().unwrap_or_default())),
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.pods.retain(|uid, _| listed.contains(uid));
            }
        }
    }

    fn put(&mut self, pod: &Pod, now: Instant) {
        let uid = pod.uid().unwrap_or_default();
        match judge(pod) {
            None => drop(self.pods.remove(&uid)),
            // The same wait goes on, whatever else has changed of the pod.
            Some(waiting) if self.pods.get(&uid).is_some_and(|(known, _)| *known == waiting) => {}
            Some(waiting) => drop(self.pods.insert(uid, (waiting, Some(now)))),
        }
    }

    fn next(&self) -> Option<Instant> {
        self.pods.values().filter_map(|(_, at)| *at).min()
    }

    fn due(&self, now: Instant) -> Option<Waiting> {
        let due = self.pods.values().filter(|(_, at)| at.is_some_and(|at| at <= now));
        due.min_by_key(|(_, at)| *at).map(|(pod, _)| pod.clone())
    }

    fn settle(&mut self, pod: &Waiting, outcome: &Outcome, now: Instant) {
        // Meanwhile its next wait may have begun.
        if let Some((_, at)) = self.pods.get_mut(&pod.uid).filter(|(known, _)| known == pod) {
            *at = match outcome {
                Outcome::Done => None,
                Outcome::Again(after) => Some(now + (*after).max(LOOK)),
            };
        }
    }
}

#[cfg(test)]
mod tests;
