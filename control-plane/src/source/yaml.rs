//! YAML documents as resources. Each document stands alone: one that is bad costs nobody but itself. A document is read
//! twice, first as a tree that knows where each thing stands, then as its kind, so that every complaint names line,
//! column and field.

mod node;

use serde_json::Value;
use weft_index::{Kind, Object, ObjectKey};
use weft_model::identity::{is_dns_label, is_dns_subdomain};

use self::node::Node;
use super::typed::{self, FieldPath};

/// What a document is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// The line it begins in, from 1.
    pub(crate) line: u64,
    pub(crate) read: Result<Box<Object>, DocumentError>,
}

/// Why a document is not a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DocumentError {
    pub(crate) line: u64,
    pub(crate) column: u64,
    pub(crate) field: String,
    pub(crate) message: String,
    /// Which resource it would be, where that much could be read.
    pub(crate) object: Option<ObjectKey>,
    /// It is well-formed, and of a kind that is not ours.
    pub(crate) foreign: bool,
}

/// Reads every document of a file.
pub(crate) fn documents(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    split(text)
        .into_iter()
        .filter(|(_, text)| !is_blank(text))
        .map(|(offset, text)| Document {
            line: offset + 1,
            read: document(text).map(Box::new).map_err(|mut error| {
                error.line += offset;
                error
            }),
        })
        .collect()
}

/// Cuts a file at the lines that mark documents (YAML 1.2 §9.1.2: at the first column, whatever stands around), and
/// tells how many lines come before each part.
fn split(text: &str) -> Vec<(u64, &str)> {
    let mut parts = Vec::new();
    let (mut begin, mut begin_line, mut at) = (0, 0, 0);
    for (line, content) in (0u64..).zip(text.split_inclusive('\n')) {
        let end = at + content.len();
        let marks = |marker: &str| {
            content
                .strip_prefix(marker)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if marks("---") {
            parts.push((begin_line, text.get(begin..at).unwrap_or_default()));
            // What follows the marker on its line belongs to the document; the marker itself begins it.
            (begin, begin_line) = (at, line);
        } else if marks("...") {
            parts.push((begin_line, text.get(begin..at).unwrap_or_default()));
            (begin, begin_line) = (end, line + 1);
        }
        at = end;
    }
    parts.push((begin_line, text.get(begin..).unwrap_or_default()));
    parts
}

/// Whether nothing but markers, comments and blanks stands there.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with('#')
    })
}

/// Reads one document; lines count from 1 within it.
fn document(text: &str) -> Result<Object, DocumentError> {
    let root = Node::parse(text)?;
    let complain = |field: &str, message: String, object: Option<ObjectKey>, foreign: bool| {
        let (line, column) = root.locate(&FieldPath::parse(field));
        DocumentError { line, column, field: field.to_owned(), message, object, foreign }
    };
    if !root.is_map() {
        return Err(complain(
            "",
            "a resource is a mapping with apiVersion, kind, metadata and spec".to_owned(),
            None,
            false,
        ));
    }
    let value = root.to_json();
    let text_at = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let Some(kind_text) = text_at("/kind") else {
        return Err(complain("kind", "missing".to_owned(), None, false));
    };
    let version = text_at("/apiVersion").unwrap_or_default();
    // Nobody writes Pods into a directory to run them: what is there is a copy from some cluster.
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == kind_text && !matches!(kind, Kind::Node | Kind::Pod));
    let Some(kind) = kind else {
        return Err(complain("kind", format!("{kind_text} is not a kind that is read; left alone"), None, true));
    };
    let Some(name) = text_at("/metadata/name") else {
        return Err(complain("metadata.name", "missing".to_owned(), None, false));
    };
    if !is_dns_subdomain(name) {
        let message = format!("{name:?} is not a name (lower-case letters, digits, '-' and '.')");
        return Err(complain("metadata.name", message, None, false));
    }
    let namespace = text_at("/metadata/namespace").unwrap_or("default");
    if !is_dns_label(namespace) {
        let message = format!("{namespace:?} is not a namespace (lower-case letters, digits and '-', at most 63)");
        return Err(complain("metadata.namespace", message, None, false));
    }
    let key = ObjectKey::new(kind, namespace, name);
    if version != kind.api_version() {
        let message = format!("{version:?} is not the version of {kind} that is read: {}", kind.api_version());
        return Err(complain("apiVersion", message, Some(key), false));
    }
    typed::resource(kind, &value).map_err(|(path, message)| {
        let (line, column) = root.locate(&path);
        DocumentError { line, column, field: path.to_string(), message, object: Some(key), foreign: false }
    })
}

#[cfg(test)]
mod tests;
