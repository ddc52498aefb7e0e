//! A YAML document as a tree that knows where each thing stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use super::DocumentError;
use crate::source::typed::{FieldPath, Segment};

/// A thing and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    line: u64,
    column: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Map(Vec<(Key, Node)>),
    Scalar(Value),
    Sequence(Vec<Node>),
}

#[derive(Debug)]
struct Key {
    name: String,
    line: u64,
    column: u64,
}

impl Node {
    /// Reads one document. The parser bounds depth, nodes and aliases by itself.
    pub(super) fn parse(text: &str) -> Result<Self, DocumentError> {
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options::<Self>(text, options).map_err(|error| {
            let (line, column) = error.location().map_or((1, 0), |at| (at.line().max(1), at.column()));
            let message = error.without_snippet().to_string();
            // The parser repeats the place, counted from the document; we say it once, counted from the file.
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            DocumentError { line, column, field: String::new(), message, object: None, foreign: false }
        })
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.content, Content::Map(_))
    }

    /// It, without its places.
    pub(super) fn to_json(&self) -> Value {
        match &self.content {
            Content::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| (key.name.clone(), node.to_json()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
            Content::Scalar(value) => value.clone(),
            Content::Sequence(nodes) => Value::Array(nodes.iter().map(Self::to_json).collect()),
        }
    }

    /// Line and column of a field, or of the nearest thing around it that is there.
    pub(super) fn locate(&self, path: &FieldPath) -> (u64, u64) {
        let (mut node, mut place) = (self, (self.line, self.column));
        for segment in path.segments() {
            let found = match (segment, &node.content) {
                (Segment::Index(index), Content::Sequence(nodes)) => {
                    nodes.get(*index).map(|node| (node, (node.line, node.column)))
                }
                (Segment::Name(name), Content::Map(entries)) => {
                    let entry = entries.iter().find(|(key, _)| key.name == *name);
                    entry.map(|(key, node)| (node, (key.line, key.column)))
                }
                _ => None,
            };
            let Some((next, at)) = found else { break };
            (node, place) = (next, at);
        }
        place
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        let at = spanned.referenced;
        Ok(Self { line: at.line(), column: at.column(), content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(Value::from(value)))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Content, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number without end is no number"))?;
        Ok(Content::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(Value::String(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::Scalar(Value::String(value)))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Content::Sequence(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let at = key.referenced;
            let key = Key { name: key.value, line: at.line(), column: at.column() };
            entries.push((key, map.next_value()?));
        }
        Ok(Content::Map(entries))
    }
}
