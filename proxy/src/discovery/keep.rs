//! What is in force, kept for a restart: written as the wire would tell it to somebody who knows nothing, and taken in
//! again by the way of every answer ([`super::apply`]). So it is validated once more, and there is one place that knows
//! what an answer means.

use std::collections::BTreeSet;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::time::{Instant, sleep_until};
use weft_model::resources::{
    Destination as Answered, EndpointsDelta, InboundSpec, Lifecycle, Resource, ResourceKey, Update,
};
use weft_model::{ServiceKey, WorkloadName};
use weft_proto::convert::{self, bounds};
use weft_proto::proxy::v1::WatchResponse;

use super::DESTINATIONS_MAX;
use super::service::Backend;
use super::subscriptions::{Answer, Books, Destination, std_now};
use crate::state::{SNAPSHOTS_BYTES_MAX, StateDir};

/// How long changes are gathered: what comes within it after a new stream or an edit is written once.
const GATHER_MIN: Duration = Duration::from_secs(1);

/// Of the control thread's time at most the 20th part goes into writing, however much there is and changes.
const GATHER_PER_WRITE: u32 = 20;

/// What the frame of one answer in the file takes: a tag and its length.
const FRAME_BYTES: usize = 6;

/// Writes what is in force some time after it changed. Without a directory it does nothing.
#[derive(Debug)]
pub(super) struct Keeper {
    state: Option<Arc<StateDir>>,
    due: Option<Instant>,
    /// How long changes are gathered from now on.
    gather: Duration,
    /// Whether the last one could not be written, or not all of it: said once.
    is_short: bool,
}

impl Keeper {
    pub(super) fn new(state: Option<Arc<StateDir>>) -> Self {
        Self { state, due: None, gather: GATHER_MIN, is_short: false }
    }

    /// Takes note of changes.
    pub(super) fn note(&mut self, books: &mut Books) {
        if std::mem::take(&mut books.is_unkept) && self.state.is_some() && self.due.is_none() {
            self.due = Some(Instant::now() + self.gather);
        }
    }

    /// Returns when something is to be written. **Cancel:** loses nothing.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// Writes it.
    pub(super) fn write(&mut self, books: &Books) {
        self.due = None;
        let Some(state) = &self.state else { return };
        let begin = std_now();
        let Kept { updates, left_out, .. } = books.kept(SNAPSHOTS_BYTES_MAX);
        let written = state.keep_snapshots(updates);
        let is_short = written.is_err() || left_out > 0;
        if is_short && !self.is_short {
            let error = written.err().map(|error| error.to_string()).unwrap_or_default();
            tracing::warn!(error, left_out, "not all that is known can be kept for a restart");
        }
        self.is_short = is_short;
        self.gather = GATHER_MIN.max(std_now().saturating_duration_since(begin) * GATHER_PER_WRITE);
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) updates: Vec<WatchResponse>,
    /// Destinations for which there was no room.
    pub(super) left_out: usize,
    bytes: usize,
    services: BTreeSet<ServiceKey>,
    backends: BTreeSet<ServiceKey>,
}

impl Books {
    /// Takes what was kept. Nobody has asked for it yet: what stands before the rest leads to it.
    pub(super) fn restore(&mut self, kept: Vec<WatchResponse>, own: &WorkloadName) {
        let now = self.cache.now();
        for update in kept {
            if let Ok(ResourceKey::Destination(addr)) = convert::key_of(&update)
                && self.destinations.len() < DESTINATIONS_MAX
            {
                self.destinations.entry(addr).or_insert_with(|| Destination::new(now));
            }
            self.apply(update, own);
        }
        self.publish();
        self.is_unkept = false;
    }

    /// What is in force, in at most so many bytes: first what holds for all, then destinations, the last used first, each
    /// followed by what it leads to. Misses and peers are left to be asked for again.
    fn kept(&self, bytes_max: usize) -> Kept {
        let mut kept = Kept::default();
        if let Some(mesh) = self.cache.mesh.get() {
            kept.take(vec![update(ResourceKey::Mesh, Resource::Mesh(mesh.spec.clone()))]);
        }
        if let Some(inbound) = self.cache.inbound.get() {
            // A drain has no way back, so it begins on the word of a control plane and not on that of a file, which may
            // be of an earlier life of the workload.
            let spec = InboundSpec { lifecycle: Lifecycle::Serving, ..inbound.spec.clone() };
            kept.take(vec![update(ResourceKey::Inbound, Resource::Inbound(spec))]);
        }
        let now = self.cache.now();
        let mut destinations: Vec<_> = self.destinations.iter().filter(|(addr, _)| addr.port() != 0).collect();
        destinations.sort_by_key(|(_, entry)| entry.used.idle(now));
        for (addr, entry) in destinations {
            let Some(group) = self.group(*addr, entry, &kept) else { continue };
            if kept.bytes.saturating_add(size(&group)) > bytes_max {
                kept.left_out += 1;
            } else {
                kept.take(group);
            }
        }
        kept
    }

    /// A destination and all it leads to that is not kept yet; `None` where that is not complete or not worth it.
    fn group(&self, addr: SocketAddr, entry: &Destination, kept: &Kept) -> Option<Vec<Update>> {
        let destination = |answer| update(ResourceKey::Destination(addr), Resource::Destination(answer));
        let key = match entry.answer.as_ref()? {
            Answer::NotFound | Answer::PortNotFound => return None,
            Answer::Workload(workload) => {
                let answer = workload.snapshot().destination.clone();
                return Some(vec![destination(Answered::Workload(answer))]);
            }
            Answer::Service(key) => key,
        };
        let snapshot = self.services.get(key)?.service.as_ref()?.snapshot();
        let mut group = vec![destination(Answered::Service(key.clone()))];
        if !kept.services.contains(key) {
            group.push(update(ResourceKey::Service(key.clone()), Resource::Service(snapshot.spec.clone())));
        }
        let mut backends: Vec<&Backend> = snapshot.backends.iter().chain([&snapshot.own]).map(|b| &**b).collect();
        backends.sort_by_key(|backend| backend.key());
        backends.dedup_by_key(|backend| backend.key());
        backends.retain(|backend| !kept.backends.contains(backend.key()));
        group.extend(backends.into_iter().flat_map(whole));
        Some(group)
    }
}

impl Kept {
    fn take(&mut self, group: Vec<Update>) {
        self.bytes = self.bytes.saturating_add(size(&group));
        for update in group {
            self.updates.push((&update).into());
            match update.key {
                ResourceKey::Endpoints(key) => self.backends.insert(key),
                ResourceKey::Service(key) => self.services.insert(key),
                ResourceKey::Destination(_) | ResourceKey::Inbound | ResourceKey::Mesh => continue,
            };
        }
    }
}

/// All endpoints of a backend, whatever changes they came by: one answer, or more where one may not hold so many.
fn whole(backend: &Backend) -> Vec<Update> {
    let set = backend.endpoints();
    let mut specs = set.endpoints().iter().map(|endpoint| endpoint.spec().clone());
    let mut answers = Vec::with_capacity(1);
    // Once at least: no endpoint is an answer too.
    while answers.is_empty() || specs.len() > 0 {
        let upserted = specs.by_ref().take(bounds::ENDPOINTS_MAX).collect();
        let reset = answers.is_empty();
        let delta = EndpointsDelta { reset, upserted, removed: Vec::new(), policy: *set.policy() };
        answers.push(update(ResourceKey::Endpoints(backend.key().clone()), Resource::Endpoints(delta)));
    }
    answers
}

/// An answer without a version: it is of no stream, and never acknowledged.
fn update(key: ResourceKey, resource: Resource) -> Update {
    Update { key, version: 0, resource }
}

/// What a group takes in the file.
fn size(group: &[Update]) -> usize {
    group.iter().map(|update| WatchResponse::from(update).encoded_len() + FRAME_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use weft_model::resources::ServiceSpec;

    use super::*;
    use crate::discovery::Discovery;

    fn endpoints(count: usize) -> Resource {
        let endpoint = |n: usize| weft_model::EndpointSpec {
            addr: weft_model::EndpointAddr(([10, 1, 0, 0], u16::try_from(n + 1).unwrap()).into()),
            identity: None,
            workload: None,
            zone: None,
            weight: 1,
            health: weft_model::Health::Ready,
        };
        let upserted = (0..count).map(endpoint).collect();
        let policy = weft_model::policy::BackendPolicy::default();
        Resource::Endpoints(EndpointsDelta { reset: true, upserted, removed: Vec::new(), policy })
    }

    /// Books with three services of so many endpoints each, the first one used last.
    fn books(count: usize) -> (Discovery, Books) {
        let (discovery, mut inbox) = Discovery::new(Duration::MAX);
        let mut told = Vec::new();
        for n in 0..3_u8 {
            let key = ServiceKey::new("shop", &format!("order-{n}"), 80);
            let asked = ResourceKey::Destination(([10, 96, 0, n], 80).into());
            told.push(update(asked, Resource::Destination(Answered::Service(key.clone()))));
            told.push(update(ResourceKey::Service(key.clone()), Resource::Service(ServiceSpec::plain(key.clone()))));
            told.push(update(ResourceKey::Endpoints(key), endpoints(count)));
        }
        let told = told.iter().map(WatchResponse::from).collect();
        inbox.restore(told, &WorkloadName::new("shop", "own-1"));
        (discovery, inbox.books)
    }

    fn destinations(kept: &Kept) -> usize {
        let keys = kept.updates.iter().map(|update| convert::key_of(update).unwrap());
        keys.filter(|key| matches!(key, ResourceKey::Destination(_))).count()
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_the_last_used_is_kept() {
        let (_discovery, books) = books(100);
        let all = books.kept(usize::MAX);
        assert_eq!((destinations(&all), all.left_out), (3, 0));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(books.cache.find(([10, 96, 0, 2], 80).into()).is_some());
        let one = books.kept(all.bytes / 2);
        assert_eq!((destinations(&one), one.left_out), (1, 2));
        assert!(one.services.contains(&ServiceKey::new("shop", "order-2", 80)));
        let none = books.kept(10);
        assert_eq!((none.updates.len(), none.left_out), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_bound_is_one_of_bytes_in_the_file() {
        let (_discovery, books) = books(100);
        let kept = books.kept(usize::MAX);
        let file = crate::fuzzing::write_snapshots(kept.updates);
        assert!(file.len() <= kept.bytes + 64, "{} is more than {}", file.len(), kept.bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn more_endpoints_than_one_answer_holds_are_kept_as_several() {
        let (_discovery, mut first) = books(bounds::ENDPOINTS_MAX);
        let key = ServiceKey::new("shop", "order-0", 80);
        let Resource::Endpoints(mut more) = endpoints(3) else { unreachable!() };
        more.reset = false;
        for (n, spec) in more.upserted.iter_mut().enumerate() {
            spec.addr.0 = ([10, 2, 0, 0], u16::try_from(n + 1).unwrap()).into();
        }
        let own = WorkloadName::new("shop", "own-1");
        first.apply((&update(ResourceKey::Endpoints(key.clone()), Resource::Endpoints(more))).into(), &own);
        let (discovery, mut inbox) = Discovery::new(Duration::MAX);
        inbox.restore(first.kept(usize::MAX).updates, &own);
        let found = discovery.cache.find(([10, 96, 0, 0], 80).into());
        let Some(Some(crate::discovery::cache::Known::Service(service))) = found else { panic!("{found:?}") };
        assert_eq!(service.snapshot().own.endpoints().len(), bounds::ENDPOINTS_MAX + 3);
    }
}
