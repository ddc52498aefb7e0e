//! What the container runtime calls: one run of the program for each network that a pod is attached to, or detached from. The words
//! are those of the CNI specification, 1.1.0: the call in variables, the configuration on standard input, the answer on standard
//! output.
//!
//! Pods that are not ours pass as they came. One of ours whose rules cannot be set does not start, and the kubelet's event says why.

mod call;

use std::error::Error;
use std::io;
use std::path::Path;

use serde_json::{Value, json};
use weft_init::{Options, told};
use weft_model::kubernetes::REDIRECT;

use crate::rules;
pub use call::{ANNOTATIONS, INPUT_BYTES_MAX, VERSIONS};
use call::{Call, Command, Problem};

/// Codes of our own begin at 100 in the specification.
const BAD_OPTIONS: u32 = 100;
const NOT_SET: u32 = 101;
const NOT_THERE: u32 = 102;

/// Who touches a pod's network.
pub trait Network {
    /// Sets the rules in the network namespace at this path.
    ///
    /// # Errors
    /// Why they are not in force.
    fn set(&self, namespace: &Path, options: &Options) -> Result<(), Box<dyn Error>>;

    /// Says whether they are in force.
    ///
    /// # Errors
    /// Why they are not.
    fn check(&self, namespace: &Path, options: &Options) -> Result<(), Box<dyn Error>>;
}

/// The kernel's.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

impl Network for Kernel {
    fn set(&self, namespace: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
        Ok(rules::set(namespace, options)?)
    }

    fn check(&self, namespace: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
        Ok(rules::compare(namespace, options)?)
    }
}

/// What the runtime is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub output: String,
    /// Whether the call failed.
    pub is_error: bool,
}

/// Does what the runtime asks for.
pub fn answer(variable: &dyn Fn(&str) -> Option<String>, input: &[u8], network: &dyn Network) -> Answer {
    let version = call::version(input);
    let done = Call::read(variable, input).and_then(|call| act(&call, network));
    match done {
        Ok(Some(result)) => Answer { output: format!("{result}\n"), is_error: false },
        Ok(None) => Answer { output: String::new(), is_error: false },
        Err(problem) => failed(&problem, &version),
    }
}

/// What it is told where what it said could not be read.
pub fn unread(error: &io::Error) -> Answer {
    failed(&Problem::new(call::IO, "the network configuration cannot be read", error.to_string()), call::NEWEST)
}

fn failed(problem: &Problem, version: &str) -> Answer {
    let Problem { code, message, details } = problem;
    let error = json!({"cniVersion": version, "code": code, "msg": format!("weft-cni: {message}"), "details": details});
    Answer { output: format!("{error}\n"), is_error: true }
}

fn act(call: &Call, network: &dyn Network) -> Result<Option<Value>, Problem> {
    match call.command {
        Command::Version => Ok(Some(json!({"cniVersion": call::NEWEST, "supportedVersions": VERSIONS}))),
        // The rules go with the namespace that they are in, and what is ours of the node is not a pod's.
        Command::Del | Command::Gc | Command::Status => Ok(None),
        Command::Add => {
            let result = call.passed_on()?;
            if let Some(options) = options(call)? {
                let set = network.set(call.namespace()?, &options);
                set.map_err(|error| {
                    let message = "the redirect of this pod to its proxy cannot be set, so it does not start";
                    Problem::new(NOT_SET, message, told(&*error))
                })?;
            }
            Ok(Some(result))
        }
        Command::Check => {
            if let Some(options) = options(call)? {
                let checked = network.check(call.namespace()?, &options);
                checked.map_err(|error| {
                    Problem::new(NOT_THERE, "the redirect of this pod to its proxy is not in force", told(&*error))
                })?;
            }
            Ok(None)
        }
    }
}

/// What the injector wrote for us; nothing on a pod that is not ours.
fn options(call: &Call) -> Result<Option<Options>, Problem> {
    let Some(text) = call.annotation(REDIRECT) else { return Ok(None) };
    Options::from_annotation(text).map(Some).map_err(|error| {
        Problem::new(BAD_OPTIONS, format!("the annotation {REDIRECT} makes no sense"), error.to_string())
    })
}

#[cfg(test)]
mod tests;
