//! Values as YAML text: always the same text for the same value, in the order in which people read objects.
//!
//! Own, and not a library's, for one reason: a chart's templates are the same text with Helm's conditions between the lines.

use serde_json::{Map, Value};

use crate::template::{Condition, conditional, conditional_element, text_in_helm};

/// What comes first in a mapping, in this order; the rest follows by name.
const FIRST: [&str; 8] = ["apiVersion", "kind", "metadata", "name", "namespace", "image", "command", "args"];

/// One document.
pub fn document(value: &Value) -> String {
    Writer { helm: false }.document(value)
}

/// A stream of documents, each with a comment above it that may be empty.
pub fn documents<'a>(documents: impl IntoIterator<Item = (&'a str, &'a Value)>) -> String {
    let texts = documents.into_iter().map(|(comment, value)| format!("{}{}", comment_lines(comment), document(value)));
    texts.collect::<Vec<_>>().join("---\n")
}

/// A template as Helm takes it.
pub(crate) fn helm_template(template: &Value) -> String {
    Writer { helm: true }.document(template)
}

/// A comment, line by line.
pub(crate) fn comment_lines(comment: &str) -> String {
    comment.lines().map(|line| format!("# {line}\n")).collect()
}

/// Writes values.
struct Writer {
    /// Expressions are put into Helm's words; else they are text like any other.
    helm: bool,
}

impl Writer {
    fn document(&self, value: &Value) -> String {
        let mut text = String::new();
        match value {
            Value::Object(map) if !map.is_empty() => self.map(&mut text, map, 0),
            Value::Array(list) if !is_short(list) => self.list(&mut text, list, 0),
            scalar => text.extend([&self.scalar(scalar), "\n"]),
        }
        text
    }

    fn map(&self, text: &mut String, map: &Map<String, Value>, indent: usize) {
        let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
        let mut entries: Vec<(&String, &Value)> = map.iter().collect();
        entries.sort_by_key(|(key, _)| (rank(key), *key));
        for (key, value) in entries {
            let (name, condition) = if self.helm { conditional(key) } else { (key.as_str(), None) };
            self.on_condition(text, condition, |text| {
                text.extend([&" ".repeat(indent), &quoted(name), ":"]);
                match value {
                    Value::Object(map) if !map.is_empty() => {
                        text.push('\n');
                        self.map(text, map, indent + 2);
                    }
                    Value::Array(list) if !is_short(list) => {
                        text.push('\n');
                        self.list(text, list, indent);
                    }
                    scalar => text.extend([" ", &self.scalar(scalar), "\n"]),
                }
            });
        }
    }

    fn list(&self, text: &mut String, list: &[Value], indent: usize) {
        for element in list {
            let found = if self.helm { conditional_element(element) } else { None };
            let (condition, element) = found.map_or((None, element), |(condition, element)| (Some(condition), element));
            self.on_condition(text, condition, |text| {
                text.extend([&" ".repeat(indent), "- "]);
                let mut inner = String::new();
                match element {
                    Value::Object(map) if !map.is_empty() => self.map(&mut inner, map, indent + 2),
                    Value::Array(list) if !is_short(list) => self.list(&mut inner, list, indent + 2),
                    scalar => inner.extend([&self.scalar(scalar), "\n"]),
                }
                // Its first line stands behind the dash.
                text.push_str(inner.trim_start_matches(' '));
            });
        }
    }

    fn on_condition(&self, text: &mut String, condition: Option<Condition<'_>>, write: impl FnOnce(&mut String)) {
        if let Some(condition) = condition {
            text.extend([&condition.in_helm(), "\n"]);
        }
        write(text);
        if condition.is_some() {
            text.push_str("{{- end }}\n");
        }
    }

    fn scalar(&self, value: &Value) -> String {
        match value {
            Value::String(text) => {
                let expression = if self.helm { text_in_helm(text) } else { None };
                expression.unwrap_or_else(|| quoted(text))
            }
            Value::Array(list) => {
                let elements: Vec<String> = list.iter().map(|element| self.scalar(element)).collect();
                format!("[{}]", elements.join(", "))
            }
            other => other.to_string(),
        }
    }
}

/// Whether a list is written on one line: of scalars, and not of many.
fn is_short(list: &[Value]) -> bool {
    let is_scalar = |element: &Value| !(element.is_object() || element.is_array());
    list.iter().all(is_scalar) && list.iter().map(|element| element.to_string().len() + 2).sum::<usize>() < 100
}

/// A text, plain where nobody could take it for anything else, else as a JSON string, which is YAML too.
fn quoted(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_./@=-".contains(&b);
    let is_word = WORDS.iter().any(|word| word.eq_ignore_ascii_case(text));
    // A colon is plain unless a space follows, or nothing.
    let rest = text.bytes().all(|b| plain(b) || b == b':') && !text.ends_with(':');
    if begins && rest && !is_word { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let value = json!({
            "kind": "A", "apiVersion": "v1", "metadata": {"name": "a: b", "labels": {}}, "list": [[1, [2]], [], "x:", "a:b"],
            "texts": ["yes", "NO", "1", "1e3", ".5", "", " x", "a #b", "tab\t", "two\nlines", "n", "N", "null", "~", "-", "ü", "{{ x }}"],
            "deep": [{"name": "b", "env": [{"name": "X", "value": "1"}], "a": null, "n": -1.5, "true": true}],
        });
        let text = document(&value);
        assert!(text.starts_with("apiVersion: v1\nkind: A\nmetadata:\n  name: \"a: b\"\n"), "{text}");
        assert!(text.contains("deep:\n- name: b\n  a: null\n  env:\n  - name: X\n    value: \"1\"\n"), "{text}");
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), value);
    }
}
