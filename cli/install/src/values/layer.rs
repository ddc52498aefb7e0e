//! What was typed, before it is read: a file, or one `--set`.

use serde_json::{Map, Value};

use super::ValuesError;

/// One layer of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer(pub(super) Value);

impl Layer {
    /// The text of a file.
    ///
    /// # Errors
    /// It is not YAML, or not a mapping.
    pub fn file(text: &str) -> Result<Self, ValuesError> {
        let refuse = |message: String| Err(ValuesError { key: "values".to_owned(), message });
        match parse(text) {
            Ok(Value::Null) => Ok(Self(Value::Object(Map::new()))),
            Ok(value @ Value::Object(_)) => Ok(Self(value)),
            Ok(_) => refuse("a file of values is a mapping, such as controlPlane: {replicas: 3}".to_owned()),
            Err(message) => refuse(message),
        }
    }

    /// One `--set`: `controlPlane.replicas=3`. The value is YAML; a dot that belongs to a name is written `\.`.
    ///
    /// # Errors
    /// It has no key, or the value is not YAML.
    pub fn set(text: &str) -> Result<Self, ValuesError> {
        let refuse = |key: &str, message: String| Err(ValuesError { key: key.to_owned(), message });
        let Some((key, written)) = text.split_once('=') else {
            return refuse(text, "is not KEY=VALUE, such as controlPlane.replicas=3".to_owned());
        };
        let names = names(key);
        if names.iter().any(String::is_empty) {
            return refuse(key, "is not a key, such as controlPlane.replicas".to_owned());
        }
        let value = match parse(written) {
            Ok(value) => value,
            Err(message) => return refuse(key, message),
        };
        let nest = |inner: Value, name: String| Value::Object(Map::from_iter([(name, inner)]));
        Ok(Self(names.into_iter().rev().fold(value, nest)))
    }
}

fn parse(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| format!("not YAML: {}", error.without_snippet()))
}

/// The names of a key, at the dots that no backslash stands before.
fn names(key: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut chars = key.trim().chars().peekable();
    while let Some(c) = chars.next() {
        match (c, names.last_mut()) {
            ('.', _) => names.push(String::new()),
            ('\\', Some(name)) if chars.peek() == Some(&'.') => name.extend(chars.next()),
            (c, Some(name)) => name.push(c),
            (_, None) => {}
        }
    }
    names
}

/// Puts one layer over another: maps into maps, anything else in place of what was there.
pub(super) fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (name, value) in above {
                merge(below.entry(name).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

/// A key that is set to null takes away what was there.
pub(super) fn drop_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

/// The key that an error is about; one that is not known or missing is named too.
pub(super) fn key_of(path: &serde_path_to_error::Path, message: &str) -> String {
    let mut key = path.to_string();
    if key == "." {
        key.clear();
    }
    let named = ["unknown field `", "missing field `"].iter().find_map(|about| message.strip_prefix(about));
    let field = named.and_then(|rest| rest.split_once('`')).map(|(field, _)| field);
    match field {
        Some(field) if key.rsplit('.').next() != Some(field) => {
            if key.is_empty() {
                field.to_owned()
            } else {
                format!("{key}.{field}")
            }
        }
        _ => key,
    }
}
