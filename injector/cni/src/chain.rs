//! The chain of a CNI configuration as text: with us, and without. Pure; the files are [`host`](crate::host)'s.
//!
//! Everything else of a configuration stays, fields that we do not know included; only the order of its fields may change.

use serde_json::{Map, Value, json};

use crate::plugin::{ANNOTATIONS, VERSIONS};

/// The name of the plugin's program, which is also its type in a configuration.
pub const PLUGIN: &str = "weft-cni";

/// What a file of the CNI directory holds, as the runtimes tell it: by the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A chain of plugins: `.conflist`.
    List,
    /// One plugin: `.conf` or `.json`.
    Single,
}

/// Why a configuration cannot have us in its chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Some part of it is not what it is in a configuration.
    #[error("{0}")]
    Misshapen(&'static str),
    /// It is not JSON; whoever writes it may not have finished.
    #[error("it is not JSON: {0}")]
    NotJson(String),
    /// It is for a version of the specification that we do not speak.
    #[error("its cniVersion is {0:?}, and weft-cni speaks {speaks}", speaks = VERSIONS.join(", "))]
    Version(String),
}

/// What a file of this name holds; nothing that a runtime looks at otherwise.
pub fn shape(file: &str) -> Option<Shape> {
    match file.rsplit_once('.')?.1 {
        "conflist" => Some(Shape::List),
        "conf" | "json" => Some(Shape::Single),
        _ => None,
    }
}

/// A configuration with us at the end of its chain; `None` where we are in it already, wherever somebody put us.
///
/// # Errors
/// Why it cannot have us.
pub fn joined(text: &[u8], shape: Shape) -> Result<Option<String>, ChainError> {
    let mut list = match shape {
        Shape::List => object(text)?,
        Shape::Single => list_of(object(text)?)?,
    };
    let version = list.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if !VERSIONS.contains(&version) {
        return Err(ChainError::Version(version.to_owned()));
    }
    let plugins = plugins(&mut list)?;
    let (entry, is_ours) = (entry(), |plugin: &Value| plugin["type"] == PLUGIN);
    if !plugins.iter().any(|plugin| !is_ours(plugin)) {
        return Err(ChainError::Misshapen("its chain has no plugin that makes a network"));
    }
    let mut ours = plugins.iter_mut().filter(|plugin| is_ours(plugin));
    match (ours.next(), ours.next()) {
        (Some(only), None) if *only == entry => return Ok(None),
        // Another version's.
        (Some(only), None) => *only = entry,
        _ => {
            plugins.retain(|plugin| !is_ours(plugin));
            plugins.push(entry);
        }
    }
    Ok(Some(written(&list)))
}

/// A chain without us; `None` where we are not in it.
///
/// # Errors
/// It cannot be read.
pub fn parted(text: &[u8]) -> Result<Option<String>, ChainError> {
    let mut list = object(text)?;
    let plugins = plugins(&mut list)?;
    let before = plugins.len();
    plugins.retain(|plugin| plugin["type"] != PLUGIN);
    Ok((plugins.len() != before).then(|| written(&list)))
}

/// Whether two texts say the same.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    match (object(one), object(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// We, in a chain: the runtime is asked for the pod's annotations.
fn entry() -> Value {
    json!({"type": PLUGIN, "capabilities": {ANNOTATIONS: true}})
}

/// The chain of one plugin. Name and version are the chain's; a plugin in it needs neither.
fn list_of(mut plugin: Map<String, Value>) -> Result<Map<String, Value>, ChainError> {
    if !plugin.get("type").is_some_and(Value::is_string) {
        return Err(ChainError::Misshapen("it has no type, which says what plugin it is"));
    }
    let mut list = Map::new();
    for field in ["cniVersion", "name"] {
        list.extend(plugin.remove(field).map(|value| (field.to_owned(), value)));
    }
    list.insert("plugins".to_owned(), json!([plugin]));
    Ok(list)
}

fn object(text: &[u8]) -> Result<Map<String, Value>, ChainError> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ChainError::Misshapen("it is no object")),
        Err(error) => Err(ChainError::NotJson(error.to_string())),
    }
}

fn plugins(list: &mut Map<String, Value>) -> Result<&mut Vec<Value>, ChainError> {
    if !list.get("name").is_some_and(Value::is_string) {
        return Err(ChainError::Misshapen("it has no name"));
    }
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut);
    let plugins = plugins.ok_or(ChainError::Misshapen("it has no list of plugins"))?;
    let all = plugins.iter().all(|plugin| plugin["type"].is_string());
    if all { Ok(plugins) } else { Err(ChainError::Misshapen("one of its plugins has no type")) }
}

fn written(list: &Map<String, Value>) -> String {
    let value = Value::Object(list.clone());
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "disableCheck": true,
        "plugins": [{"type": "bridge", "ofItsOwn": {"kept": [1, 2.5]}}, {"type": "portmap"}]}"#;

    #[test]
    fn files_are_told_by_their_ends() {
        for (name, expected) in [
            ("10-a.conflist", Some(Shape::List)),
            ("10-a.conf", Some(Shape::Single)),
            ("a.b.json", Some(Shape::Single)),
            ("10-a.conflist.weft-saved", None),
            ("README", None),
            ("conflist", None),
        ] {
            assert_eq!(shape(name), expected, "{name}");
        }
    }

    #[test]
    fn we_join_at_the_end_and_part_without_a_trace() {
        let with = joined(LIST.as_bytes(), Shape::List).unwrap().unwrap();
        let types: Vec<Value> =
            json(&with)["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].clone()).collect();
        assert_eq!(types, ["bridge", "portmap", "weft-cni"]);
        assert_eq!(json(&with)["plugins"][2]["capabilities"]["io.kubernetes.cri.pod-annotations"], true);
        assert_eq!(joined(with.as_bytes(), Shape::List), Ok(None), "once is enough");
        let without = parted(with.as_bytes()).unwrap().unwrap();
        assert!(is_same(without.as_bytes(), LIST.as_bytes()), "{without}");
        assert_eq!(parted(LIST.as_bytes()), Ok(None));
    }

    #[test]
    fn a_lone_plugin_becomes_a_chain() {
        let lone = r#"{"cniVersion": "0.3.1", "name": "pods", "type": "bridge", "isGateway": true}"#;
        let with = joined(lone.as_bytes(), Shape::Single).unwrap().unwrap();
        let expected = json!({
            "cniVersion": "0.3.1", "name": "pods",
            "plugins": [{"type": "bridge", "isGateway": true}, entry()],
        });
        assert_eq!(json(&with), expected);
    }

    #[test]
    fn an_entry_of_ours_that_is_not_as_it_should_be_is_put_right_where_it_stands() {
        let older = r#"{"cniVersion": "1.0.0", "name": "pods",
            "plugins": [{"type": "bridge"}, {"type": "weft-cni", "old": 1}, {"type": "portmap"}]}"#;
        let with = json(&joined(older.as_bytes(), Shape::List).unwrap().unwrap());
        assert_eq!(with["plugins"], json!([{"type": "bridge"}, entry(), {"type": "portmap"}]));
        let twice = r#"{"cniVersion": "1.0.0", "name": "pods",
            "plugins": [{"type": "weft-cni"}, {"type": "bridge"}, {"type": "weft-cni"}]}"#;
        let with = json(&joined(twice.as_bytes(), Shape::List).unwrap().unwrap());
        assert_eq!(with["plugins"], json!([{"type": "bridge"}, entry()]));
    }

    #[test]
    fn what_cannot_have_us_is_told() {
        use Shape::{List, Single};
        let check = |text: &str, shape, names: &str| {
            let error = joined(text.as_bytes(), shape).unwrap_err().to_string();
            assert!(error.contains(names), "{text}: {error}");
        };
        check("{\"cniVersion\": \"1.0", List, "JSON");
        check("[]", List, "object");
        check(r#"{"cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]}"#, List, "name");
        check(r#"{"cniVersion": "1.0.0", "name": "a"}"#, List, "plugins");
        check(r#"{"cniVersion": "1.0.0", "name": "a", "plugins": []}"#, List, "makes a network");
        check(r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "weft-cni"}]}"#, List, "makes a network");
        check(r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [{}]}"#, List, "type");
        check(r#"{"cniVersion": "0.2.0", "name": "a", "plugins": [{"type": "bridge"}]}"#, List, "0.2.0");
        check(r#"{"name": "a", "plugins": [{"type": "bridge"}]}"#, List, "cniVersion");
        check(r#"{"cniVersion": "1.0.0", "name": "a"}"#, Single, "type");
    }
}
