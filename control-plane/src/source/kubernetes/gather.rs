//! What the watches say, put together: the whole of the logic, without a client and a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use kube::core::DynamicObject;
use kube::runtime::watcher;
use serde_json::Value;
use weft_index::{Kind, Object, ObjectKey};

use crate::source::{Event, FileProblem, Seen, typed};

/// Puts together what the watches of all kinds say.
#[derive(Debug)]
pub(super) struct Gatherer {
    /// Kinds of which the whole is not known yet.
    awaited: BTreeSet<Kind>,
    /// What was told of each kind.
    held: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    /// What a list that is under way has named so far.
    listed: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    /// Resources that cannot be read, each with what is wrong.
    unreadable: BTreeMap<ObjectKey, FileProblem>,
    /// Kinds that cannot be watched.
    unwatched: BTreeMap<Kind, FileProblem>,
    /// Those of which that was said since the last [`Gatherer::look_again`].
    failing: BTreeSet<Kind>,
    /// What has happened since the last [`Gatherer::seen`].
    events: Vec<Event>,
    /// Whether anything has, events or problems.
    news: bool,
}

impl Gatherer {
    /// One that waits for the whole of these kinds.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            awaited: kinds.into_iter().collect(),
            held: BTreeMap::new(),
            listed: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            unwatched: BTreeMap::new(),
            failing: BTreeSet::new(),
            events: Vec::new(),
            news: false,
        }
    }

    /// Takes in what a watch says.
    pub(super) fn take(&mut self, kind: Kind, event: watcher::Event<DynamicObject>) {
        match event {
            watcher::Event::Init => {
                self.listed.insert(kind, BTreeSet::new());
            }
            watcher::Event::InitApply(object) => {
                let key = self.apply(kind, object);
                self.listed.entry(kind).or_default().insert(key);
            }
            watcher::Event::InitDone => {
                self.listed(kind);
                self.news |= self.unwatched.remove(&kind).is_some();
            }
            watcher::Event::Apply(object) => {
                self.apply(kind, object);
            }
            watcher::Event::Delete(object) => self.delete(&key_of(kind, &object)),
        }
    }

    /// Takes in that a kind cannot be watched now. `absent`: the cluster does not have it, so that there is nothing to wait for.
    pub(super) fn fail(&mut self, kind: Kind, message: String, absent: bool) {
        if absent {
            self.listed.insert(kind, BTreeSet::new());
            self.listed(kind);
        }
        let problem = FileProblem {
            file: PathBuf::from(PLACE),
            line: 0,
            column: 0,
            field: String::new(),
            message,
            object: None,
            ignored: absent,
        };
        self.failing.insert(kind);
        if self.unwatched.get(&kind) != Some(&problem) {
            tracing::warn!(%kind, "{}", problem.message);
            self.unwatched.insert(kind, problem);
            self.news = true;
        }
    }

    /// Takes it that a kind is watched of which no failure was told since the last call. A watch that goes on where it stopped says
    /// nothing before something changes, which of some kinds takes days; one that fails says so at each try.
    pub(super) fn look_again(&mut self) {
        let failing = std::mem::take(&mut self.failing);
        let over = |kind: &&Kind| !failing.contains(kind) && !self.awaited.contains(kind);
        for kind in self.unwatched.keys().filter(over).copied().collect::<Vec<_>>() {
            tracing::info!(%kind, "is watched again");
            self.unwatched.remove(&kind);
            self.news = true;
        }
    }

    /// Kinds of which the whole is not known yet.
    pub(super) fn awaited(&self) -> &BTreeSet<Kind> {
        &self.awaited
    }

    /// Everything that happened since the last call; `None` while something is awaited, and where nothing happened.
    pub(super) fn seen(&mut self) -> Option<Seen> {
        if !self.awaited.is_empty() || !std::mem::take(&mut self.news) {
            return None;
        }
        let problems = self.unwatched.values().chain(self.unreadable.values()).cloned().collect();
        Some(Seen { events: std::mem::take(&mut self.events), problems })
    }

    fn apply(&mut self, kind: Kind, object: DynamicObject) -> ObjectKey {
        let key = key_of(kind, &object);
        self.news = true;
        match read(kind, object) {
            Ok(object) => {
                self.unreadable.remove(&key);
                self.held.entry(kind).or_default().insert(key.clone());
                self.events.push(Event::Apply(Box::new(object)));
            }
            // What was told of it before stays.
            Err((field, message)) => {
                let problem = FileProblem {
                    file: PathBuf::from(PLACE),
                    line: 0,
                    column: 0,
                    field,
                    message,
                    object: Some(key.clone()),
                    ignored: false,
                };
                tracing::warn!(resource = %key, %problem, "a resource cannot be read");
                self.unreadable.insert(key.clone(), problem);
            }
        }
        key
    }

    fn delete(&mut self, key: &ObjectKey) {
        self.news |= self.unreadable.remove(key).is_some();
        if self.held.get_mut(&key.kind).is_some_and(|held| held.remove(key)) {
            self.news = true;
            self.events.push(Event::Delete(key.clone()));
        }
    }

    /// The end of a list: what it did not name is gone.
    fn listed(&mut self, kind: Kind) {
        let named = self.listed.remove(&kind).unwrap_or_default();
        let known =
            self.held.get(&kind).into_iter().flatten().chain(self.unreadable.keys().filter(|it| it.kind == kind));
        let gone: BTreeSet<ObjectKey> = known.filter(|key| !named.contains(*key)).cloned().collect();
        for key in gone {
            self.delete(&key);
        }
        self.news |= self.awaited.remove(&kind);
    }
}

/// Where a problem lies, for people.
const PLACE: &str = "kubernetes";

fn key_of(kind: Kind, object: &DynamicObject) -> ObjectKey {
    let namespace = object.metadata.namespace.as_deref().filter(|text| !text.is_empty()).unwrap_or("default");
    ObjectKey::new(kind, namespace, object.metadata.name.as_deref().unwrap_or_default())
}

/// Our kinds and routes are read as strictly as from a file: a field that is not known would be a silent no. Kubernetes' own may
/// be of a newer version than ours, and its API server has checked them.
fn read(kind: Kind, mut object: DynamicObject) -> Result<Object, (String, String)> {
    object.metadata.managed_fields = None;
    let value = serde_json::to_value(object).map_err(|error| (String::new(), error.to_string()))?;
    let lenient = |error: serde_json::Error| (String::new(), error.to_string());
    match kind {
        Kind::EndpointSlice => serde_json::from_value(value).map(Object::EndpointSlice).map_err(lenient),
        Kind::Pod => serde_json::from_value(value).map(Object::Pod).map_err(lenient),
        Kind::Service => serde_json::from_value(value).map(Object::Service).map_err(lenient),
        Kind::AuthorizationPolicy
        | Kind::GrpcRoute
        | Kind::HttpRoute
        | Kind::MeshPolicy
        | Kind::TrafficPolicy
        | Kind::Workload => {
            typed::resource(kind, &without_status(value)).map_err(|(path, message)| (path.to_string(), message))
        }
    }
}

/// What is written there is ours, or another controller's, and may be of another version.
fn without_status(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    value
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event as Said;
    use serde_json::json;

    use super::*;

    fn object(kind: &str, name: &str, spec: &Value) -> DynamicObject {
        let version = if kind == "Service" { "v1" } else { "weft.dev/v1alpha1" };
        let value =
            json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": "shop", "name": name}, "spec": spec});
        serde_json::from_value(value).unwrap()
    }

    fn service(name: &str) -> DynamicObject {
        object("Service", name, &json!({"clusterIP": "10.96.0.1", "trafficMagic": "of a newer version"}))
    }

    fn told(seen: &Seen) -> Vec<String> {
        let word = |event: &Event| match event {
            Event::Apply(object) => format!("+{}", object.key()),
            Event::Delete(key) => format!("-{key}"),
        };
        seen.events.iter().map(word).collect()
    }

    #[test]
    fn nothing_is_told_before_all_is_known() {
        let mut gatherer = Gatherer::new([Kind::Service, Kind::HttpRoute]);
        for event in [Said::Init, Said::InitApply(service("a")), Said::InitDone] {
            gatherer.take(Kind::Service, event);
            assert_eq!(gatherer.seen(), None);
        }
        assert_eq!(gatherer.awaited(), &BTreeSet::from([Kind::HttpRoute]));
        gatherer.fail(Kind::HttpRoute, "the API server does not answer".to_owned(), false);
        assert_eq!(gatherer.seen(), None, "it may have some");
        gatherer.fail(Kind::HttpRoute, "the cluster has no HTTPRoute".to_owned(), true);
        let seen = gatherer.seen().unwrap();
        assert_eq!(told(&seen), ["+Service/shop/a"]);
        assert_eq!(seen.problems.len(), 1, "{:?}", seen.problems);
        gatherer.fail(Kind::HttpRoute, "the cluster has no HTTPRoute".to_owned(), true);
        assert_eq!(gatherer.seen(), None, "told once");
    }

    #[test]
    fn a_watch_that_goes_on_without_a_word_is_no_problem_any_more() {
        let mut gatherer = Gatherer::new([Kind::Service, Kind::HttpRoute]);
        gatherer.fail(Kind::HttpRoute, "the API server does not answer".to_owned(), false);
        for event in [Said::Init, Said::InitDone] {
            gatherer.take(Kind::Service, event);
        }
        let problems = |gatherer: &mut Gatherer| gatherer.seen().map(|seen| seen.problems.len());
        for _ in 0..2 {
            gatherer.look_again();
        }
        for event in [Said::Init, Said::InitDone] {
            gatherer.take(Kind::HttpRoute, event);
        }
        assert_eq!(problems(&mut gatherer), Some(0));
        gatherer.fail(Kind::Service, "connection refused".to_owned(), false);
        assert_eq!(problems(&mut gatherer), Some(1));
        gatherer.look_again();
        gatherer.fail(Kind::Service, "connection refused".to_owned(), false);
        gatherer.look_again();
        assert_eq!(problems(&mut gatherer), None, "it fails still");
        gatherer.look_again();
        assert_eq!(problems(&mut gatherer), Some(0));
    }

    #[test]
    fn what_a_new_list_does_not_name_is_gone() {
        let mut gatherer = Gatherer::new([Kind::Service]);
        let list = |names: &[&str], gatherer: &mut Gatherer| {
            gatherer.take(Kind::Service, Said::Init);
            for name in names {
                gatherer.take(Kind::Service, Said::InitApply(service(name)));
            }
            gatherer.take(Kind::Service, Said::InitDone);
            told(&gatherer.seen().unwrap())
        };
        assert_eq!(list(&["a", "b"], &mut gatherer), ["+Service/shop/a", "+Service/shop/b"]);
        assert_eq!(list(&["b"], &mut gatherer), ["+Service/shop/b", "-Service/shop/a"]);
        gatherer.take(Kind::Service, Said::Delete(service("a")));
        assert_eq!(gatherer.seen(), None, "it was gone before");
    }

    #[test]
    fn what_cannot_be_read_is_named_and_costs_nobody_but_itself() {
        let mut gatherer = Gatherer::new([Kind::MeshPolicy]);
        let policy = |spec: Value| object("MeshPolicy", "p", &spec);
        gatherer.take(Kind::MeshPolicy, Said::Init);
        gatherer.take(Kind::MeshPolicy, Said::InitApply(policy(json!({}))));
        gatherer.take(Kind::MeshPolicy, Said::InitDone);
        assert_eq!(told(&gatherer.seen().unwrap()), ["+MeshPolicy/shop/p"]);
        gatherer.take(Kind::MeshPolicy, Said::Apply(policy(json!({"mtls": {"mode": "Strickt"}}))));
        let seen = gatherer.seen().unwrap();
        assert_eq!((told(&seen).len(), seen.problems.len()), (0, 1));
        assert_eq!(seen.problems[0].field, "spec.mtls.mode");
        assert!(seen.problems[0].message.contains("Strickt"), "{:?}", seen.problems);
        gatherer.take(Kind::MeshPolicy, Said::Apply(policy(json!({"mtls": {"mode": "Strict"}}))));
        assert!(gatherer.seen().unwrap().problems.is_empty());
    }
}
