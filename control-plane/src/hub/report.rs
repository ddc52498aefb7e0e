//! What the control plane says about each resource, and to how many proxies it got.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use weft_index::{Condition, ObjectKey, ObjectStatus, Reason};
use weft_model::WorkloadName;

use super::{Hub, PeerReport, State};
use crate::source::FileProblem;

/// Resources that are looked at in one go: about a millisecond, for which proxies wait.
pub(super) const AT_ONCE: usize = 64;

/// Everything there is to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Each resource.
    pub resources: Vec<ResourceReport>,
    /// What of the source cannot be taken.
    pub files: Vec<FileProblem>,
    /// Each proxy of this replica: its workload and version.
    pub connected: Vec<ProxyReport>,
    /// Other replicas, whose proxies the resources count too.
    pub replicas: Vec<PeerReport>,
}

/// A proxy that is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyReport {
    /// `namespace/name`.
    pub workload: String,
    /// Its own version.
    pub version: String,
    /// What it asked for.
    pub subscriptions: usize,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceReport {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which of its versions is in force; 0: none ever was.
    pub version: u64,
    /// What Kubernetes calls the newest version, in force or not; `None` for a directory's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Whether the newest version is in force, in part at least; otherwise the last good one is, if there was one.
    pub is_newest: bool,
    /// Whether all of the newest version is in force.
    pub accepted: bool,
    /// Whether all its references resolve.
    pub resolved_refs: bool,
    /// What is wrong.
    pub problems: Vec<ProblemReport>,
    /// Proxies that run this version, of those that it concerns: `3/3 proxies`.
    pub proxies: String,
    /// The first number of it.
    pub proxies_running: usize,
    /// The second number of it.
    pub proxies_concerned: usize,
    /// Proxies that refused it.
    pub refused_by: Vec<RefusalReport>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemReport {
    /// `Accepted`, `ResolvedRefs`, `Notice`, or `Parsed` where the newest version could not even be read.
    pub condition: &'static str,
    /// Why, in Gateway API's word for it.
    pub reason: &'static str,
    /// The field.
    pub field: String,
    /// What is wrong and what follows.
    pub message: String,
}

/// A proxy that refused a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalReport {
    /// The workload beside it: `namespace/name`.
    pub workload: String,
    /// What it said.
    pub reason: String,
}

impl Hub {
    /// Everything there is to say now; each resource as it stood at one moment, not all at the same.
    ///
    /// **Cost:** every resource times the subscriptions that it concerns; call it when asked, not per change. Proxies are served
    /// meanwhile.
    pub fn report(&self) -> Report {
        let (keys, files, mut connected, replicas) = {
            let state = self.state();
            let mut keys: BTreeSet<ObjectKey> = state.index.keys().collect();
            keys.extend(state.files.iter().filter_map(|problem| problem.object.clone()));
            let connected = state.proxies.values().map(|proxy| ProxyReport {
                workload: proxy.workload.to_string(),
                version: proxy.version.clone(),
                subscriptions: proxy.subscriptions.len(),
            });
            (keys, state.files.clone(), connected.collect::<Vec<_>>(), state.peer_reports())
        };
        connected.sort_by(|a, b| a.workload.cmp(&b.workload));
        let keys: Vec<ObjectKey> = keys.into_iter().collect();
        let mut resources = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            let state = self.state();
            resources.extend(some.iter().filter_map(|key| state.resource_report(key)));
        }
        Report { resources, files, connected, replicas }
    }

    /// Resources by kind and whether they are accepted.
    pub(super) fn resources(&self) -> BTreeMap<(&'static str, bool), i64> {
        let keys: Vec<ObjectKey> = self.state().index.keys().collect();
        let mut counts = BTreeMap::new();
        for some in keys.chunks(AT_ONCE) {
            let state = self.state();
            for (key, status) in some.iter().filter_map(|key| Some((key, state.index.status(key)?))) {
                *counts.entry((key.kind.as_str(), status.accepted)).or_default() += 1;
            }
        }
        counts
    }
}

impl State {
    /// `None`: it has gone meanwhile.
    fn resource_report(&self, key: &ObjectKey) -> Option<ResourceReport> {
        let never =
            ObjectStatus { version: 0, is_newest: false, accepted: false, resolved_refs: true, problems: Vec::new() };
        let has_file = || self.file_problems(key).next().is_some();
        let status = self.index.status(key).or_else(|| has_file().then_some(never))?;
        let mut problems: Vec<ProblemReport> = status
            .problems
            .iter()
            .map(|problem| ProblemReport {
                condition: match problem.condition {
                    Condition::Accepted => "Accepted",
                    Condition::Notice => "Notice",
                    Condition::ResolvedRefs => "ResolvedRefs",
                },
                reason: problem.reason.as_str(),
                field: problem.field.clone(),
                message: problem.message.clone(),
            })
            .collect();
        let (mut accepted, mut is_newest) = (status.accepted, status.is_newest);
        for problem in self.file_problems(key) {
            (accepted, is_newest) = (false, false);
            let kept = if status.version > 0 { "; the last good version stays in force" } else { "" };
            let message = format!("{}: {}{kept}", problem.place(), problem.message);
            let reason = Reason::UnsupportedValue.as_str();
            problems.push(ProblemReport { condition: "Parsed", reason, field: problem.field.clone(), message });
        }
        let generation = self.generations.get(key).copied();
        let Spread { concerned, mut refused } = self.spread_of(key, status.version);
        let (mut running, mut concerned) = (concerned.values().filter(|running| **running).count(), concerned.len());
        for theirs in self.peers_on(key) {
            concerned += theirs.concerned;
            // A replica that is behind us, or before us, speaks of another version.
            if Some(theirs.generation) == generation {
                running += theirs.running;
                refused.extend(theirs.refused.iter().cloned());
            }
        }
        Some(ResourceReport {
            kind: key.kind.as_str(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            version: status.version,
            generation,
            is_newest,
            accepted,
            resolved_refs: status.resolved_refs,
            problems,
            proxies: format!("{running}/{concerned} proxies"),
            proxies_running: running,
            proxies_concerned: concerned,
            refused_by: refused.into_iter().collect(),
        })
    }

    /// Which proxies have asked for something that the resource has a part in, and whether they acknowledged all of it
    /// in a version that has it. Of two streams of one workload the newer counts.
    pub(super) fn spread_of(&self, key: &ObjectKey, version: u64) -> Spread<'_> {
        let mut newest = BTreeMap::new();
        let mut spread = Spread::default();
        for watched in self.index.concerns(key).iter().flat_map(|affected| self.watched(affected)) {
            let Some(answer) = self.answers.get(&watched) else { continue };
            let wanted = watched.key();
            // An answer whose value the resource did not change has it in an older version already.
            let enough = answer.version.min(version);
            for id in &answer.subscribers {
                let Some(proxy) = self.proxies.get(id) else { continue };
                let Some(subscription) = proxy.subscriptions.get(&wanted) else { continue };
                let have = newest.entry(&proxy.workload).or_insert(*id);
                if *have > *id {
                    continue;
                }
                let is_first = *have < *id;
                *have = *id;
                let running = subscription.acked >= enough && subscription.acked > 0;
                let entry = spread.concerned.entry(&proxy.workload).or_insert(true);
                *entry = if is_first { running } else { *entry && running };
                if let Some((nacked, reason)) = &subscription.nacked
                    && *nacked >= enough
                {
                    let workload = proxy.workload.to_string();
                    spread.refused.insert(RefusalReport { workload, reason: reason.clone() });
                }
            }
        }
        spread
    }
}

/// How far a version got among our own proxies.
#[derive(Default)]
pub(super) struct Spread<'a> {
    /// Each workload that it concerns, and whether it runs it.
    pub(super) concerned: BTreeMap<&'a WorkloadName, bool>,
    /// Who refused it.
    pub(super) refused: BTreeSet<RefusalReport>,
}
