//! What the expressions in a template mean, twice: filled in with values, and in Helm's words.
//!
//! - `"${a.b}"` alone is the value at that key, whatever it is; `"${a.b,}"` is a list of texts, joined by commas; within a longer text
//!   `${a.b}` is a text.
//! - A key `name?a.b` is there only where the value at `a.b` says yes, as Helm understands that: not false, zero or empty. `name?!a.b`:
//!   only where it says no.
//! - So is an element `{"?a.b": element}` of a list.

use serde_json::{Map, Value};

/// What a key of a template is: its name, and where it is there.
pub(crate) fn conditional(key: &str) -> (&str, Option<Condition<'_>>) {
    match key.split_once('?') {
        Some((name, condition)) => (name, Some(Condition::of(condition))),
        None => (key, None),
    }
}

/// Where something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition<'a> {
    path: &'a str,
    wants: bool,
}

impl<'a> Condition<'a> {
    /// Reads one: a key, or one with an exclamation mark before it.
    pub(crate) fn of(text: &'a str) -> Self {
        let path = text.strip_prefix('!');
        Self { path: path.unwrap_or(text), wants: path.is_none() }
    }

    /// Whether it is, with these values.
    pub(crate) fn holds(self, values: &Value) -> bool {
        says_yes(at(values, self.path)) == self.wants
    }

    /// It in Helm's words.
    pub(crate) fn in_helm(self) -> String {
        let Self { path, wants } = self;
        format!("{{{{- if {}.Values.{path} }}}}", if wants { "" } else { "not " })
    }
}

/// A part of a text.
enum Part<'a> {
    Expression(&'a str),
    Text(&'a str),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((expression, after)) = after.split_once('}') else { break };
        parts.extend([Part::Text(before), Part::Expression(expression)]);
        rest = after;
    }
    parts.push(Part::Text(rest));
    parts.retain(|part| !matches!(part, Part::Text("")));
    parts
}

/// Fills a template in.
pub(crate) fn fill(template: &Value, values: &Value) -> Value {
    match template {
        Value::Object(map) => {
            let mut filled = Map::new();
            for (key, value) in map {
                let (name, condition) = conditional(key);
                if condition.is_none_or(|condition| condition.holds(values)) {
                    filled.insert(name.to_owned(), fill(value, values));
                }
            }
            Value::Object(filled)
        }
        Value::Array(list) => {
            let present = list.iter().filter_map(|element| match conditional_element(element) {
                Some((condition, element)) => condition.holds(values).then_some(element),
                None => Some(element),
            });
            Value::Array(present.map(|element| fill(element, values)).collect())
        }
        Value::String(text) => fill_text(text, values),
        other => other.clone(),
    }
}

/// The element of a list that is there on a condition.
pub(crate) fn conditional_element(element: &Value) -> Option<(Condition<'_>, &Value)> {
    let map = element.as_object().filter(|map| map.len() == 1)?;
    let (key, value) = map.iter().next()?;
    match conditional(key) {
        ("", Some(condition)) => Some((condition, value)),
        _ => None,
    }
}

fn fill_text(text: &str, values: &Value) -> Value {
    let parts = parts(text);
    if let [Part::Expression(expression)] = parts.as_slice() {
        return match expression.strip_suffix(',') {
            Some(path) => Value::String(joined(at(values, path))),
            None => at(values, expression).clone(),
        };
    }
    let text = parts.iter().map(|part| match part {
        Part::Text(text) => (*text).to_owned(),
        Part::Expression(path) => as_text(at(values, path)),
    });
    Value::String(text.collect())
}

/// A text of a template in Helm's words, quoted.
pub(crate) fn text_in_helm(text: &str) -> Option<String> {
    let parts = parts(text);
    if let [Part::Expression(expression)] = parts.as_slice() {
        return Some(match expression.strip_suffix(',') {
            Some(path) => format!("{{{{ .Values.{path} | join \",\" | toJson }}}}"),
            None => format!("{{{{ .Values.{expression} | toJson }}}}"),
        });
    }
    if !parts.iter().any(|part| matches!(part, Part::Expression(_))) {
        return None;
    }
    let text = parts.iter().map(|part| match part {
        Part::Text(text) => Value::from(*text).to_string().trim_matches('"').to_owned(),
        Part::Expression(path) => format!("{{{{ .Values.{path} }}}}"),
    });
    Some(format!("\"{}\"", text.collect::<String>()))
}

fn at<'a>(values: &'a Value, path: &str) -> &'a Value {
    let found = path.split('.').try_fold(values, |value, name| value.get(name));
    debug_assert!(found.is_some(), "{path} is no value");
    found.unwrap_or(&Value::Null)
}

fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn joined(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(as_text).collect::<Vec<_>>().join(",")
}

fn says_yes(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_filled_in() {
        let values = json!({"a": {"n": 3, "list": ["x", "y"], "none": []}, "on": true});
        let template = json!({
            "whole": "${a.list}", "joined": "${a.list,}", "within": "n is ${a.n}.", "plain": "as it is",
            "there?on": 1, "not?!on": 2, "empty?a.none": 3,
            "list": [1, {"?on": 2}, {"?!on": 3}, {"b": 4}],
        });
        let want = json!({
            "whole": ["x", "y"], "joined": "x,y", "within": "n is 3.", "plain": "as it is", "there": 1,
            "list": [1, 2, {"b": 4}],
        });
        assert_eq!(fill(&template, &values), want);
    }

    #[test]
    fn and_said_in_helms_words() {
        for (text, want) in [
            ("${a.b}", Some(r"{{ .Values.a.b | toJson }}")),
            ("${a.b,}", Some(r#"{{ .Values.a.b | join "," | toJson }}"#)),
            ("x-${a}:1", Some(r#""x-{{ .Values.a }}:1""#)),
            ("plain", None),
        ] {
            assert_eq!(text_in_helm(text).as_deref(), want, "{text}");
        }
        assert_eq!(Condition::of("!a.b").in_helm(), "{{- if not .Values.a.b }}");
    }
}
