//! Changes of a value, as edits of the text that it was read from. New keys come first in their mapping; everything that is not
//! changed keeps its bytes, comments included.

use serde_json::{Map, Value};

use super::tree::{Content, Entry, Node, parse};

/// A change that cannot be made in the text as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unspliced {
    pub(super) field: String,
}

/// The text of one document with the `old` value changed into the `new` one.
pub(super) fn spliced(text: &str, old: &Value, new: &Value) -> Result<String, Unspliced> {
    let root = parse(text).ok_or(Unspliced { field: String::new() })?;
    let mut edits = Edits { text, all: Vec::new() };
    edits.change(&root, old, new, "")?;
    Ok(edits.applied())
}

/// Puts `text` in place of the bytes from `start` to `end`.
struct Edit {
    start: usize,
    end: usize,
    text: String,
}

struct Edits<'a> {
    text: &'a str,
    all: Vec<Edit>,
}

impl Edits<'_> {
    fn applied(mut self) -> String {
        // Those at one place stay in their order.
        self.all.sort_by_key(|edit| edit.start);
        let mut out = String::new();
        let mut at = 0;
        for Edit { start, end, text } in &self.all {
            out.push_str(self.text.get(at..*start).unwrap_or_default());
            out.push_str(text);
            at = *end;
        }
        out.push_str(self.text.get(at..).unwrap_or_default());
        out
    }

    fn change(&mut self, node: &Node, old: &Value, new: &Value, path: &str) -> Result<(), Unspliced> {
        if old == new {
            return Ok(());
        }
        match (&node.content, old, new) {
            (Content::Map { block, entries }, Value::Object(old), Value::Object(new))
                if !entries.is_empty() && old.keys().all(|name| new.contains_key(name)) =>
            {
                self.change_map((*block, entries), old, new, path)
            }
            (Content::List { block, elements }, Value::Array(old), Value::Array(new))
                if !elements.is_empty() && elements.len() == old.len() && new.len() >= old.len() =>
            {
                self.change_list((*block, elements), old, new, path)
            }
            // An alias is not its own to change.
            (Content::Scalar, Value::Object(_) | Value::Array(_), _) => Err(Unspliced { field: path.to_owned() }),
            _ => {
                self.replace(node, new);
                Ok(())
            }
        }
    }

    /// Puts another value in place of a node, written as the node was.
    fn replace(&mut self, node: &Node, new: &Value) {
        let first = match &node.content {
            Content::List { block: true, elements } => elements.first().map(|first| self.dash(first.start)),
            Content::Map { block: true, entries } => entries.first().map(|first| first.key.start),
            Content::List { .. } | Content::Map { .. } | Content::Scalar => None,
        };
        let start = first.unwrap_or(node.start);
        let mut text = if first.is_some() && (new.is_object() || new.is_array()) {
            let indent = format!("\n{}", " ".repeat(self.column(start)));
            weft_install::document(new).trim_end().replace('\n', &indent)
        } else {
            new.to_string()
        };
        // A block scalar at its end has brought its last line's end.
        if self.before(node.end).ends_with('\n') {
            text.push('\n');
        }
        self.all.push(Edit { start, end: node.end, text });
    }

    fn change_map(
        &mut self,
        (block, entries): (bool, &[Entry]),
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        path: &str,
    ) -> Result<(), Unspliced> {
        let start = entries.first().map_or(0, |entry| entry.key.start);
        let added: Map<String, Value> = new
            .iter()
            .filter(|(name, _)| !old.contains_key(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !added.is_empty() {
            let text = if block {
                let indent = " ".repeat(self.column(start));
                let lines = weft_install::document(&Value::Object(added));
                lines.lines().map(|line| format!("{line}\n{indent}")).collect()
            } else {
                added.iter().map(|(name, value)| format!("{}: {value}, ", Value::from(name.as_str()))).collect()
            };
            self.all.push(Edit { start, end: start, text });
        }
        for (name, value) in old {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let (Some(new), entry) = (new.get(name), entries.iter().find(|entry| entry.name == *name)) else {
                continue;
            };
            match entry {
                Some(entry) if value != new && entry.value.start == entry.value.end => {
                    // Nothing stands there, and the parser sees it only where something else begins.
                    let colon = self.text.get(entry.key.end..).and_then(|rest| rest.find(':'));
                    let at = entry.key.end + colon.ok_or_else(|| Unspliced { field: path.clone() })? + 1;
                    self.all.push(Edit { start: at, end: at, text: format!(" {new}") });
                }
                Some(entry) => self.change(&entry.value, value, new, &path)?,
                None if value == new => {}
                // It came by a merge key.
                None => return Err(Unspliced { field: path }),
            }
        }
        Ok(())
    }

    /// Elements come before or behind those that are there.
    fn change_list(
        &mut self,
        (block, elements): (bool, &[Node]),
        old: &[Value],
        new: &[Value],
        path: &str,
    ) -> Result<(), Unspliced> {
        let alike = |before: usize| old.iter().zip(new.iter().skip(before)).filter(|(old, new)| old == new).count();
        let before =
            (0..=new.len() - old.len()).max_by_key(|before| (alike(*before), usize::MAX - before)).unwrap_or(0);
        let (front, rest) = new.split_at_checked(before).unwrap_or((&[], new));
        let (kept, back) = rest.split_at_checked(old.len()).unwrap_or((rest, &[]));
        let first = elements.first().map_or(0, |node| node.start);
        let start = if block { self.dash(first) } else { first };
        let indent = " ".repeat(self.column(start));
        if !front.is_empty() {
            let text = if block {
                let lines = weft_install::document(&Value::from(front));
                lines.lines().map(|line| format!("{line}\n{indent}")).collect()
            } else {
                front.iter().map(|element| format!("{element}, ")).collect()
            };
            self.all.push(Edit { start, end: start, text });
        }
        for (i, ((node, old), new)) in elements.iter().zip(old).zip(kept).enumerate() {
            self.change(node, old, new, &format!("{path}[{i}]"))?;
        }
        if !back.is_empty() {
            let end = elements.last().map_or(0, |node| node.end);
            self.all.push(if block {
                self.behind_block(end, &indent, back)
            } else {
                let text = back.iter().map(|element| format!(", {element}")).collect();
                Edit { start: end, end, text }
            });
        }
        Ok(())
    }

    /// Lines behind the one in which a block ends.
    fn behind_block(&self, end: usize, indent: &str, elements: &[Value]) -> Edit {
        let lines = weft_install::document(&Value::from(elements));
        let text: String = lines.lines().map(|line| format!("{indent}{line}\n")).collect();
        let rest = self.text.get(end..).unwrap_or_default();
        let at = match rest.find('\n') {
            _ if self.before(end).ends_with('\n') => end,
            Some(newline) => end + newline + 1,
            // The text ends without one.
            None => {
                return Edit { start: self.text.len(), end: self.text.len(), text: format!("\n{}", text.trim_end()) };
            }
        };
        Edit { start: at, end: at, text }
    }

    /// Where the dash of a block's element is: before it on its line, or on one above with comments between.
    fn dash(&self, element: usize) -> usize {
        let before = self.before(element);
        let mut end = before.len();
        for line in before.split('\n').rev() {
            let begin = end - line.len();
            let said =
                if line.trim_start().starts_with('#') { "" } else { line.split(" #").next().unwrap_or_default() };
            if let Some(at) = said.rfind('-') {
                return begin + at;
            }
            end = begin.saturating_sub(1);
        }
        element
    }

    fn before(&self, at: usize) -> &str {
        self.text.get(..at).unwrap_or_default()
    }

    fn column(&self, at: usize) -> usize {
        let before = self.before(at);
        before.rsplit('\n').next().unwrap_or_default().chars().count()
    }
}
