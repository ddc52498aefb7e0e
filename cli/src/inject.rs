//! What the webhook does to pods, done to files: every workload of a stream of YAML documents gets the proxy, and no byte of the
//! rest changes. The decision is `weft_injector`'s; this finds the pods in a text, and puts the outcome back into it.

// Where in a text each thing stands.
mod tree;
// Changes, as edits of a text.
mod splice;

use std::fmt;

use serde_json::Value;
use weft_injector::patch::{Installation, Outcome, inject};
use weft_model::kubernetes::SYSTEM_NAMESPACES;

use splice::Unspliced;

/// What became of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Injected {
    /// It, with proxies.
    pub(crate) text: String,
    /// What was found in it, in its order.
    pub(crate) found: Vec<Found>,
}

/// An object of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Kind, namespace and name.
    pub(crate) object: String,
    pub(crate) fate: Fate,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its pods get a proxy.
    Injected,
    /// It has pods, and is left alone.
    LeftAlone(String),
    /// It has none.
    NoPods,
}

/// A document that nothing can be done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Which one, from 1.
    document: usize,
    /// The line that it begins in, from 1.
    line: usize,
    /// Kind, namespace and name, where that much could be read.
    object: String,
    /// The field, or nothing for the whole document.
    field: String,
    message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { document, line, object, field, message } = self;
        write!(f, "document {document} (line {line})")?;
        for part in [object, field].into_iter().filter(|part| !part.is_empty()) {
            write!(f, ": {part}")?;
        }
        write!(f, ": {message}")
    }
}

/// Adds proxies to the workloads of a text.
///
/// # Errors
/// Every document that makes no sense.
pub(crate) fn text(text: &str, installation: &Installation) -> Result<Injected, Vec<Refused>> {
    let mut injected = Injected::default();
    let mut refused = Vec::new();
    for (i, (line, part)) in split(text).into_iter().enumerate() {
        match document(part, installation) {
            Ok((text, found)) => {
                injected.text.push_str(&text);
                injected.found.extend(found);
            }
            Err(all) => refused.extend(all.into_iter().map(|Complaint { below, object, field, message }| Refused {
                document: i + 1,
                line: line + below,
                object,
                field,
                message,
            })),
        }
    }
    if refused.is_empty() { Ok(injected) } else { Err(refused) }
}

/// Cuts a text before each line that begins a document; nothing is lost. What comes before the first one belongs to it where it says
/// nothing itself.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts: Vec<(usize, usize)> = vec![(1, 0)];
    let (mut at, mut empty) = (0, true);
    for (line, content) in (1..).zip(text.split_inclusive('\n')) {
        let begins = content
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if begins && !empty {
            parts.push((line, at));
        }
        let said = content.trim_start();
        empty = empty && !begins && (said.is_empty() || said.starts_with(['#', '%']));
        at += content.len();
    }
    let ends = parts.iter().skip(1).map(|(_, begin)| *begin).chain([text.len()]);
    parts.iter().zip(ends).map(|((line, begin), end)| (*line, text.get(*begin..end).unwrap_or_default())).collect()
}

struct Complaint {
    /// How many lines behind the document's first one.
    below: usize,
    object: String,
    field: String,
    message: String,
}

fn document(text: &str, installation: &Installation) -> Result<(String, Vec<Found>), Vec<Complaint>> {
    let whole = |message: String| vec![Complaint { below: 0, object: String::new(), field: String::new(), message }];
    let broken = |(below, message)| vec![Complaint { below, object: String::new(), field: String::new(), message }];
    let old = read(text).map_err(broken)?;
    if old.is_null() {
        return Ok((text.to_owned(), Vec::new()));
    }
    if !old.is_object() {
        return Err(whole("is no object: one is a mapping with apiVersion, kind and metadata".to_owned()));
    }
    let mut new = old.clone();
    let mut found = Vec::new();
    let mut complaints = Vec::new();
    object(&mut new, "", None, installation, &mut found, &mut complaints);
    if !complaints.is_empty() {
        return Err(complaints);
    }
    if new == old {
        return Ok((text.to_owned(), found));
    }
    let name = || found.iter().map(|found| found.object.as_str()).collect::<Vec<_>>().join(", ");
    let unspliced = |field: String| {
        let message =
            "is written in a way that nothing can be added to (an alias, a merge key?): write it out".to_owned();
        vec![Complaint { below: 0, object: name(), field, message }]
    };
    let spliced = splice::spliced(text, &old, &new).map_err(|Unspliced { field }| unspliced(field))?;
    // Aliases may have carried a change elsewhere.
    if read(&spliced).as_ref() != Ok(&new) {
        return Err(unspliced(String::new()));
    }
    Ok((spliced, found))
}

/// The value of a document. An error says how many lines below the first one it is.
fn read(text: &str) -> Result<Value, (usize, String)> {
    if text.lines().all(|line| matches!(line.trim(), "" | "---" | "...") || line.trim_start().starts_with('#')) {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().and_then(|at| usize::try_from(at.line()).ok()).unwrap_or(1);
        // The place is said once, counted from the text's first line.
        let message = error.without_snippet().to_string();
        (line.saturating_sub(1), format!("not YAML: {}", message.split(" at line ").next().unwrap_or_default()))
    })
}

/// Adds proxies to an object, or to those of a list. `kind` is what an element of a list is that does not say.
fn object(
    value: &mut Value,
    path: &str,
    kind: Option<&str>,
    installation: &Installation,
    found: &mut Vec<Found>,
    complaints: &mut Vec<Complaint>,
) {
    let says = value.get("kind").and_then(Value::as_str).or(kind).unwrap_or_default().to_owned();
    let named = named(value, &says);
    if says.is_empty() {
        let field = join(path, "kind");
        complaints.push(Complaint { below: 0, object: named, field, message: "missing".to_owned() });
        return;
    }
    if let (Some(of), Some(items)) = (says.strip_suffix("List"), value.get_mut("items").and_then(Value::as_array_mut)) {
        let of = Some(of).filter(|of| !of.is_empty());
        for (i, item) in items.iter_mut().enumerate() {
            object(item, &join(path, &format!("items[{i}]")), of, installation, found, complaints);
        }
        return;
    }
    let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let (never, group) = (SYSTEM_NAMESPACES.contains(&namespace), group(value).to_owned());
    let Some(place) = place_of_pod(&says, &group, kind.is_some()) else {
        found.push(Found { object: named, fate: Fate::NoPods });
        return;
    };
    let field = place.trim_start_matches('/').replace('/', ".");
    let Some(pod) = value.pointer_mut(place).filter(|pod| pod.is_object()) else {
        complaints.push(Complaint {
            below: 0,
            object: named,
            field: join(path, &field),
            message: "missing".to_owned(),
        });
        return;
    };
    if never {
        let fate = Fate::LeftAlone("nothing in its namespace gets a proxy".to_owned());
        found.push(Found { object: named, fate });
        return;
    }
    match inject(pod, installation) {
        Ok(Outcome::Injected(with)) => {
            *pod = with;
            found.push(Found { object: named, fate: Fate::Injected });
        }
        Ok(Outcome::Skipped(skip)) => {
            found.push(Found { object: named, fate: Fate::LeftAlone(skip.message().to_owned()) });
        }
        Err(problems) => complaints.extend(problems.into_iter().map(|problem| Complaint {
            below: 0,
            object: named.clone(),
            field: join(path, &join(&field, &problem.field)),
            message: problem.message,
        })),
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn group(value: &Value) -> &str {
    let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    version.split_once('/').map_or("", |(group, _)| group)
}

/// Where an object of a kind has its pod. An element of a typed list need not say its group.
fn place_of_pod(kind: &str, group: &str, in_list: bool) -> Option<&'static str> {
    let (place, want) = match kind {
        "Pod" => ("", ""),
        "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet" => ("/spec/template", "apps"),
        "ReplicationController" => ("/spec/template", ""),
        "Job" => ("/spec/template", "batch"),
        "CronJob" => ("/spec/jobTemplate/spec/template", "batch"),
        _ => return None,
    };
    (group == want || in_list && group.is_empty()).then_some(place)
}

fn named(value: &Value, kind: &str) -> String {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or("without a name");
    let kind = if kind.is_empty() { "an object" } else { kind };
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests;
