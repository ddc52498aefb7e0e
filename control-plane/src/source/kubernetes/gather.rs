//! What the watches say, put together: the whole of the logic, without a client and a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicObject;
use kube::runtime::watcher;
use serde_json::Value;
use weft_index::{Kind, Object, ObjectKey};

use crate::source::{Event, FileProblem, Seen, typed};

/// A resource that a watch found, read already: as the API server's text it would take many times the room.
#[derive(Debug)]
pub(super) struct Found {
    key: ObjectKey,
    version: Version,
    /// What it says, or the field that is to blame and what is wrong with it.
    read: Result<Object, (String, String)>,
}

/// Which version of a resource it is, as the API server calls it.
pub(super) type Version = Box<str>;

/// Puts together what the watches of all kinds say.
#[derive(Debug)]
pub(super) struct Gatherer {
    /// Kinds of which the whole is not known yet.
    awaited: BTreeSet<Kind>,
    /// What was told of each kind.
    held: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    /// The newest version that was seen of everything that is there.
    versions: BTreeMap<ObjectKey, Version>,
    /// What has moved of each kind that is being compared with the API server.
    moved: BTreeMap<Kind, BTreeSet<ObjectKey>>,
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
            versions: BTreeMap::new(),
            moved: BTreeMap::new(),
            listed: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            unwatched: BTreeMap::new(),
            failing: BTreeSet::new(),
            events: Vec::new(),
            news: false,
        }
    }

    /// Takes in what a watch says.
    pub(super) fn take(&mut self, kind: Kind, event: watcher::Event<Found>) {
        match event {
            watcher::Event::Init => {
                self.listed.insert(kind, BTreeSet::new());
            }
            watcher::Event::InitApply(found) => {
                let key = self.apply(found);
                self.listed.entry(kind).or_default().insert(key);
            }
            watcher::Event::InitDone => {
                self.listed(kind);
                self.news |= self.unwatched.remove(&kind).is_some();
            }
            watcher::Event::Apply(found) => {
                self.apply(found);
            }
            watcher::Event::Delete(found) => self.delete(&found.key),
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

    /// A comparison with the API server begins: what moves from now on is not compared, because the watch is at it.
    pub(super) fn begin_comparison(&mut self, kind: Kind) {
        self.moved.insert(kind, BTreeSet::new());
    }

    /// Compares what the API server listed since the comparison began; what was missed, which is little or nothing. Nothing is known
    /// of what moved meanwhile, and of a kind that is not known as a whole yet.
    pub(super) fn compare(&mut self, kind: Kind, listed: &BTreeMap<ObjectKey, Version>) -> Vec<ObjectKey> {
        let moved = self.moved.remove(&kind).unwrap_or_default();
        if self.awaited.contains(&kind) || self.listed.contains_key(&kind) {
            return Vec::new();
        }
        let ours = self.versions.keys().filter(|key| key.kind == kind && !listed.contains_key(*key));
        let theirs = listed.iter().filter(|(key, version)| self.versions.get(*key) != Some(*version));
        theirs.map(|(key, _)| key).chain(ours).filter(|key| !moved.contains(*key)).cloned().collect()
    }

    /// There is nothing to compare with this time.
    pub(super) fn give_up_comparison(&mut self, kind: Kind) {
        self.moved.remove(&kind);
    }

    /// Kinds of which the whole is not known yet.
    pub(super) fn awaited(&self) -> &BTreeSet<Kind> {
        &self.awaited
    }

    /// Everything that happened since the last call; `None` where nothing did. While something is awaited that is part of it all, handed
    /// on so that nobody holds the whole of a large cluster as the API server writes it.
    pub(super) fn seen(&mut self) -> Option<Seen> {
        let partial = !self.awaited.is_empty();
        let is_worth = if partial { !self.events.is_empty() } else { std::mem::take(&mut self.news) };
        let problems = || self.unwatched.values().chain(self.unreadable.values()).cloned().collect();
        is_worth.then(|| Seen { problems: problems(), events: std::mem::take(&mut self.events), partial })
    }

    fn apply(&mut self, found: Found) -> ObjectKey {
        let Found { key, version, read } = found;
        self.news = true;
        self.versions.insert(key.clone(), version);
        if let Some(moved) = self.moved.get_mut(&key.kind) {
            moved.insert(key.clone());
        }
        match read {
            Ok(object) => {
                self.unreadable.remove(&key);
                self.held.entry(key.kind).or_default().insert(key.clone());
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
        self.versions.remove(key);
        if let Some(moved) = self.moved.get_mut(&key.kind) {
            moved.insert(key.clone());
        }
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

/// What a resource of a kind with this metadata is called.
pub(super) fn key_of(kind: Kind, metadata: &ObjectMeta) -> ObjectKey {
    let namespace = metadata.namespace.as_deref().filter(|text| !text.is_empty()).unwrap_or("default");
    ObjectKey::new(kind, namespace, metadata.name.as_deref().unwrap_or_default())
}

/// Which version it is.
pub(super) fn version_of(metadata: &ObjectMeta) -> Version {
    metadata.resource_version.as_deref().unwrap_or_default().into()
}

impl Found {
    /// One of Kubernetes' own kinds, which may be of a newer version than ours: what we do not know of it, its API server has checked.
    pub(super) fn lenient<K: Resource>(kind: Kind, mut object: K, read: impl FnOnce(K) -> Object) -> Self {
        let metadata = object.meta_mut();
        metadata.managed_fields = None;
        let (key, version) = (key_of(kind, metadata), version_of(metadata));
        Self { key, version, read: Ok(read(object)) }
    }

    /// One of ours, or a route: read as strictly as from a file, because a field that is not known would be a silent no.
    pub(super) fn strict(kind: Kind, mut object: DynamicObject) -> Self {
        object.metadata.managed_fields = None;
        let (key, version) = (key_of(kind, &object.metadata), version_of(&object.metadata));
        let read = serde_json::to_value(object).map_err(|error| (String::new(), error.to_string()));
        let read = read.and_then(|value| {
            typed::resource(kind, &without_status(value)).map_err(|(path, message)| (path.to_string(), message))
        });
        Self { key, version, read }
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

    fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, version: &str, spec: &Value) -> K {
        let api_version = if kind == "Service" { "v1" } else { "weft.dev/v1alpha1" };
        let metadata = json!({"namespace": "shop", "name": name, "resourceVersion": version});
        let value = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec});
        serde_json::from_value(value).unwrap()
    }

    fn service(name: &str) -> Found {
        service_at(name, "1")
    }

    fn service_at(name: &str, version: &str) -> Found {
        let spec = json!({"clusterIP": "10.96.0.1", "trafficMagic": "of a newer version"});
        Found::lenient(Kind::Service, object("Service", name, version, &spec), |it| Object::Service(Box::new(it)))
    }

    fn told(seen: &Seen) -> Vec<String> {
        let word = |event: &Event| match event {
            Event::Apply(object) => format!("+{}", object.key()),
            Event::Delete(key) => format!("-{key}"),
        };
        seen.events.iter().map(word).collect()
    }

    #[test]
    fn all_is_known_once_every_kind_is_and_not_before() {
        let mut gatherer = Gatherer::new([Kind::Service, Kind::HttpRoute]);
        for event in [Said::Init, Said::InitApply(service("a"))] {
            gatherer.take(Kind::Service, event);
        }
        let seen = gatherer.seen().unwrap();
        assert_eq!((told(&seen), seen.partial), (vec!["+Service/shop/a".to_owned()], true));
        for event in [Said::InitApply(service("b")), Said::InitDone] {
            gatherer.take(Kind::Service, event);
        }
        assert_eq!(gatherer.awaited(), &BTreeSet::from([Kind::HttpRoute]));
        gatherer.fail(Kind::HttpRoute, "the API server does not answer".to_owned(), false);
        let seen = gatherer.seen().unwrap();
        assert_eq!((told(&seen), seen.partial), (vec!["+Service/shop/b".to_owned()], true), "it may have some");
        gatherer.fail(Kind::HttpRoute, "the cluster has no HTTPRoute".to_owned(), true);
        let seen = gatherer.seen().unwrap();
        assert_eq!((told(&seen).len(), seen.partial), (0, false));
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
        let policy = |spec: Value| Found::strict(Kind::MeshPolicy, object("MeshPolicy", "p", "1", &spec));
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

    #[test]
    fn what_a_watch_missed_is_found_by_comparison() {
        let mut gatherer = Gatherer::new([Kind::Service]);
        let list = |names: &[(&str, &str)]| {
            let key = |name: &str| ObjectKey::new(Kind::Service, "shop", name);
            names.iter().map(|(name, version)| (key(name), Version::from(*version))).collect::<BTreeMap<_, _>>()
        };
        let names = |keys: Vec<ObjectKey>| keys.iter().map(|key| key.name.to_string()).collect::<Vec<_>>();
        gatherer.begin_comparison(Kind::Service);
        assert!(gatherer.compare(Kind::Service, &list(&[("a", "1")])).is_empty(), "nothing is known yet");
        gatherer.take(Kind::Service, Said::Init);
        for name in ["a", "b", "c"] {
            gatherer.take(Kind::Service, Said::InitApply(service(name)));
        }
        gatherer.take(Kind::Service, Said::InitDone);

        gatherer.begin_comparison(Kind::Service);
        let same = list(&[("a", "1"), ("b", "1"), ("c", "1")]);
        assert!(gatherer.compare(Kind::Service, &same).is_empty());

        gatherer.begin_comparison(Kind::Service);
        // Of a change, a new one and one that is gone, and once more each that the watch told of meanwhile.
        gatherer.take(Kind::Service, Said::Apply(service_at("moving", "7")));
        gatherer.take(Kind::Service, Said::Apply(service_at("leaving", "8")));
        gatherer.take(Kind::Service, Said::Delete(service_at("leaving", "9")));
        let theirs = list(&[("a", "1"), ("b", "2"), ("new", "3"), ("moving", "6"), ("leaving", "8")]);
        assert_eq!(names(gatherer.compare(Kind::Service, &theirs)), ["b", "new", "c"]);
    }
}
