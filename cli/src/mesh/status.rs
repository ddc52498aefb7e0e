//! What the control plane says of every resource.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context as _;
use serde::Deserialize;

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// How everything stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    resources: BTreeMap<Key, Resource>,
    /// What of the files cannot be taken, one line each.
    pub files: Vec<String>,
    /// Workloads whose proxies are connected, `namespace/name`.
    pub connected: Vec<String>,
    /// How many resources each of those follows, by `namespace/name`.
    pub subscriptions: BTreeMap<String, usize>,
}

/// How one resource stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    kind: String,
    namespace: String,
    name: String,
    /// Counts its changes, by the whole control plane's count; 0: none ever was in force.
    pub version: u64,
    /// Whether all of the newest version is in force.
    pub accepted: bool,
    /// Whether all its references resolve.
    pub resolved_refs: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// `3/3 proxies`.
    pub proxies: String,
    /// Proxies that acknowledged this version.
    pub proxies_running: usize,
    /// Proxies that it concerns.
    pub proxies_concerned: usize,
    /// Proxies that refused it.
    pub refused_by: Vec<Refusal>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// Which promise is broken.
    pub condition: String,
    /// The field.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// A proxy that refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// The workload beside it.
    pub workload: String,
    /// What it said.
    pub reason: String,
}

#[derive(Deserialize)]
struct Page {
    resources: Vec<Resource>,
    files: Vec<serde_json::Value>,
    connected: Vec<Connected>,
}

#[derive(Deserialize)]
struct Connected {
    workload: String,
    subscriptions: usize,
}

impl Status {
    /// Reads the page.
    ///
    /// # Errors
    /// It is not that page.
    pub fn parse(json: &str) -> anyhow::Result<Self> {
        let page: Page =
            serde_json::from_str(json).context("the status is not what a control plane of this version says")?;
        let keyed = page.resources.into_iter().map(|resource| (resource.key(), resource));
        let connected = page.connected.iter().map(|proxy| proxy.workload.clone()).collect();
        let subscriptions = page.connected.into_iter().map(|proxy| (proxy.workload, proxy.subscriptions)).collect();
        let files = page.files.iter().map(file_problem).collect();
        Ok(Self { resources: keyed.collect(), files, connected, subscriptions })
    }

    /// How one resource stands.
    pub fn of(&self, key: &Key) -> Option<&Resource> {
        self.resources.get(key)
    }

    /// All resources.
    pub fn resources(&self) -> impl Iterator<Item = (&Key, &Resource)> {
        self.resources.iter()
    }

    /// Whether a version of a resource that is newer than `before` is accepted, and run by every proxy that it concerns.
    pub fn is_in_force(&self, key: &Key, before: &Self) -> bool {
        let former = before.of(key).map_or(0, |resource| resource.version);
        self.of(key)
            .is_some_and(|now| now.version > former && now.accepted && now.proxies_running == now.proxies_concerned)
    }

    /// Whether every resource is run by every proxy that it concerns.
    pub fn is_settled(&self) -> bool {
        self.resources.values().all(|resource| resource.proxies_running == resource.proxies_concerned)
    }

    /// One line about a resource.
    pub fn describe(&self, key: &Key) -> String {
        let Some(resource) = self.of(key) else { return format!("{key} is not known to the control plane") };
        format!("{key}: {resource}")
    }
}

impl Resource {
    fn key(&self) -> Key {
        Key { kind: self.kind.clone(), namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// What an operator should look at: problems that are more than notices, and refusals.
    pub fn complaints(&self) -> Vec<String> {
        let problems = self.problems.iter().map(|Problem { field, message, .. }| format!("{field}: {message}"));
        let refusals =
            self.refused_by.iter().map(|Refusal { workload, reason }| format!("refused by {workload}: {reason}"));
        problems.chain(refusals).collect()
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.accepted, self.resolved_refs) {
            (true, true) => "accepted",
            (true, false) => "accepted, but a reference does not resolve",
            (false, _) => "not accepted",
        };
        write!(f, "{verdict}, {}", self.proxies)?;
        self.complaints().iter().try_for_each(|complaint| write!(f, "; {complaint}"))
    }
}

/// `file:line: message`.
fn file_problem(problem: &serde_json::Value) -> String {
    let text = |name: &str| problem.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let line = problem.get("line").and_then(serde_json::Value::as_u64).unwrap_or_default();
    let field =
        Some(text("field")).filter(|field| !field.is_empty()).map_or_else(String::new, |field| format!("{field}: "));
    format!("{}:{line}: {field}{}", text("file"), text("message"))
}

/// The resources that a file speaks of. It must be written as people do: `kind` on a line of its own, `metadata` as a block or in
/// braces on one line.
pub fn keys(yaml: &str) -> Vec<Key> {
    let key = |document: &str| {
        let field = |begin: &str| document.lines().find_map(|line| line.strip_prefix(begin)).map(str::trim);
        let kind = field("kind: ")?.to_owned();
        let (namespace, name) = match field("metadata: {") {
            Some(flow) => {
                let inside = |name: &str| flow.split(['{', ',', '}']).find_map(|part| part.trim().strip_prefix(name));
                (inside("namespace: ")?, inside("name: ")?)
            }
            None => (field("  namespace: ")?, field("  name: ")?),
        };
        Some(Key { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    };
    yaml.split("\n---").filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::{Key, Status, keys};

    fn page(version: u64, accepted: bool, running: usize) -> Status {
        let json = format!(
            r#"{{"resources":[{{"kind":"Service","namespace":"shop","name":"user","version":{version},"accepted":{accepted},"resolvedRefs":true,
            "problems":[],"proxies":"{running}/2 proxies","proxiesRunning":{running},"proxiesConcerned":2,"refusedBy":[]}}],
            "files":[{{"file":"a.yaml","line":3,"field":"","message":"not UTF-8"}}],"connected":[{{"workload":"shop/a","version":"0.1.0","subscriptions":3}}]}}"#
        );
        Status::parse(&json).unwrap()
    }

    fn key() -> Key {
        Key { kind: "Service".to_owned(), namespace: "shop".to_owned(), name: "user".to_owned() }
    }

    #[test]
    fn in_force_is_newer_accepted_and_everywhere() {
        let before = page(4, true, 2);
        for (version, accepted, running, want) in
            [(5, true, 2, true), (4, true, 2, false), (5, false, 2, false), (5, true, 1, false)]
        {
            assert_eq!(
                page(version, accepted, running).is_in_force(&key(), &before),
                want,
                "{version} {accepted} {running}"
            );
        }
        assert!(before.is_in_force(&key(), &Status::default()));
    }

    #[test]
    fn a_file_names_its_resources() {
        let yaml = "kind: Service\nmetadata:\n  namespace: shop\n  name: user\n---\nkind: Nothing\n";
        assert_eq!(keys(yaml), [key()]);
        assert_eq!(keys("# why\nkind: Service\nmetadata: { name: user, namespace: shop }\n"), [key()]);
        assert_eq!(page(1, true, 2).files, ["a.yaml:3: not UTF-8"]);
    }
}
