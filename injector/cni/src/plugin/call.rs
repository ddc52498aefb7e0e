//! A call of the container runtime, read.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// The versions of the specification that we speak. Before 0.3.0 no result was handed down the chain.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The last of them.
pub(super) const NEWEST: &str = "1.1.0";

/// The capability by which containerd and CRI-O hand a pod's annotations to plugins that declare it.
pub const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// The most of a configuration that is read: annotations may have 256 KiB in all, and JSON may write six bytes for one.
pub const INPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;

// The specification's own codes.
const INCOMPATIBLE_VERSION: u32 = 1;
const BAD_VARIABLE: u32 = 4;
pub(super) const IO: u32 = 5;
const UNDECODABLE: u32 = 6;
const BAD_CONFIGURATION: u32 = 7;

/// Why a call fails, in the specification's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) code: u32,
    pub(super) message: String,
    pub(super) details: String,
}

impl Problem {
    pub(super) fn new(code: u32, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

/// A call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) command: Command,
    version: String,
    namespace: Option<PathBuf>,
    annotations: Map<String, Value>,
    /// What the plugins before us have made.
    result: Option<Map<String, Value>>,
}

impl Call {
    pub(super) fn read(variable: &dyn Fn(&str) -> Option<String>, input: &[u8]) -> Result<Self, Problem> {
        let name = variable("CNI_COMMAND").unwrap_or_default();
        let configuration: Value = serde_json::from_slice(input)
            .map_err(|error| Problem::new(UNDECODABLE, "the network configuration is not JSON", error.to_string()))?;
        let bad = |what: &str| Problem::new(BAD_CONFIGURATION, "the network configuration makes no sense", what);
        let Value::Object(mut configuration) = configuration else { return Err(bad("it is no object")) };
        let version = match configuration.get("cniVersion") {
            Some(Value::String(version)) => version.clone(),
            Some(_) => return Err(bad("cniVersion is no text")),
            None => String::new(),
        };
        let command = command(&name, &version)?;
        let object = |map: &mut Map<String, Value>, field: &str| match map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(bad(&format!("{field} is no object"))),
        };
        let mut runtime = object(&mut configuration, "runtimeConfig")?.unwrap_or_default();
        Ok(Self {
            command,
            version,
            namespace: variable("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from),
            annotations: object(&mut runtime, ANNOTATIONS)?.unwrap_or_default(),
            result: object(&mut configuration, "prevResult")?,
        })
    }

    /// The pod's network.
    pub(super) fn namespace(&self) -> Result<&Path, Problem> {
        let missing = || Problem::new(BAD_VARIABLE, "CNI_NETNS is not set", "it says where the pod's network is");
        self.namespace.as_deref().ok_or_else(missing)
    }

    /// An annotation of the pod.
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name)?.as_str()
    }

    /// The result of the plugins before us, which is also ours.
    pub(super) fn passed_on(&self) -> Result<Value, Problem> {
        let Some(mut result) = self.result.clone() else {
            let details =
                "prevResult is missing: weft-cni makes no network of its own and comes after who does, in a .conflist";
            return Err(Problem::new(BAD_CONFIGURATION, "the network configuration makes no sense", details));
        };
        result.insert("cniVersion".to_owned(), Value::from(self.version.clone()));
        Ok(Value::Object(result))
    }
}

/// The version that errors are told in.
pub(super) fn version(input: &[u8]) -> String {
    let configuration: Option<Value> = serde_json::from_slice(input).ok();
    let version =
        configuration.as_ref().and_then(|it| it.get("cniVersion")?.as_str()).filter(|it| VERSIONS.contains(it));
    version.unwrap_or(NEWEST).to_owned()
}

/// The command, where that version has it.
fn command(name: &str, version: &str) -> Result<Command, Problem> {
    let (command, since) = match name {
        "ADD" => (Command::Add, "0.3.0"),
        "CHECK" => (Command::Check, "0.4.0"),
        "DEL" => (Command::Del, "0.3.0"),
        "GC" => (Command::Gc, "1.1.0"),
        "STATUS" => (Command::Status, "1.1.0"),
        // Asked for in order to find out which versions there are.
        "VERSION" => return Ok(Command::Version),
        _ => return Err(Problem::new(BAD_VARIABLE, format!("CNI_COMMAND is {name:?}"), "it is no command of CNI's")),
    };
    let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
    let Some(spoken) = place(version) else {
        let details = format!("weft-cni speaks {}", VERSIONS.join(", "));
        return Err(Problem::new(INCOMPATIBLE_VERSION, format!("cniVersion is {version:?}"), details));
    };
    if place(since).is_none_or(|since| spoken < since) {
        let message = format!("CNI_COMMAND is {name:?}, which version {version} does not have");
        return Err(Problem::new(BAD_VARIABLE, message, format!("it is there since {since}")));
    }
    Ok(command)
}
