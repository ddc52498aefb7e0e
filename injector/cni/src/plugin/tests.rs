use std::cell::RefCell;
use std::error::Error;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_init::Options;

use super::{Answer, Network, answer};

/// A network that remembers what it was told, or refuses.
#[derive(Default)]
struct Pretended {
    refuses: bool,
    set: RefCell<Vec<(PathBuf, String)>>,
    checked: RefCell<usize>,
}

impl Network for Pretended {
    fn set(&self, namespace: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
        if self.refuses {
            return Err("the kernel has no nftables".into());
        }
        self.set.borrow_mut().push((namespace.to_owned(), options.to_annotation()));
        Ok(())
    }

    fn check(&self, _namespace: &Path, _options: &Options) -> Result<(), Box<dyn Error>> {
        *self.checked.borrow_mut() += 1;
        if self.refuses { Err("there is no table".into()) } else { Ok(()) }
    }
}

fn call(command: &str, input: &Value, network: &Pretended) -> Answer {
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(command.to_owned()),
        "CNI_NETNS" => Some("/run/netns/pod".to_owned()),
        _ => None,
    };
    answer(&variable, input.to_string().as_bytes(), network)
}

fn result() -> Value {
    json!({
        "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/pod"}],
        "ips": [{"address": "10.244.0.7/24", "interface": 0}], "dns": {},
    })
}

fn configuration(annotations: &Value) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "weft-cni", "prevResult": result(),
        "runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations},
    })
}

fn ours() -> Value {
    configuration(&json!({"weft.dev/redirect": "cni skip-inbound-ports=9100", "other": "1"}))
}

/// The error that was told.
fn error(answer: &Answer) -> (u64, String) {
    assert!(answer.is_error, "{}", answer.output);
    let error: Value = serde_json::from_str(&answer.output).unwrap();
    assert!(error["cniVersion"].is_string() && error["details"].is_string(), "{error}");
    (
        error["code"].as_u64().unwrap(),
        format!("{} {}", error["msg"].as_str().unwrap(), error["details"].as_str().unwrap()),
    )
}

#[test]
fn a_pod_of_ours_gets_its_rules_and_the_result_is_passed_on() {
    let network = Pretended::default();
    let told = call("ADD", &ours(), &network);
    assert!(!told.is_error, "{}", told.output);
    assert_eq!(serde_json::from_str::<Value>(&told.output).unwrap(), result());
    let set = network.set.borrow().clone();
    assert_eq!(set, [(PathBuf::from("/run/netns/pod"), "cni skip-inbound-ports=9100".to_owned())]);
}

#[test]
fn other_pods_pass_untouched() {
    let network = Pretended { refuses: true, ..Pretended::default() };
    let mut without = ours();
    without.as_object_mut().unwrap().remove("runtimeConfig");
    for input in [configuration(&json!({"other": "1"})), configuration(&Value::Null), without] {
        let told = call("ADD", &input, &network);
        assert_eq!(serde_json::from_str::<Value>(&told.output).unwrap(), result());
        assert_eq!(call("CHECK", &input, &network), Answer { output: String::new(), is_error: false });
    }
}

#[test]
fn a_pod_of_ours_without_rules_does_not_start() {
    let network = Pretended { refuses: true, ..Pretended::default() };
    let (code, text) = error(&call("ADD", &ours(), &network));
    assert_eq!(code, 101);
    assert!(text.contains("does not start") && text.contains("the kernel has no nftables"), "{text}");
    let (code, text) = error(&call("CHECK", &ours(), &network));
    assert!(code == 102 && text.contains("there is no table"), "{code} {text}");
    let misspelt = configuration(&json!({"weft.dev/redirect": "cni skip-ports=1"}));
    let (code, text) = error(&call("ADD", &misspelt, &network));
    assert!(code == 100 && text.contains("skip-ports=1"), "{code} {text}");
}

#[test]
fn the_rules_of_a_pod_of_ours_are_checked() {
    let network = Pretended::default();
    assert_eq!(call("CHECK", &ours(), &network), Answer { output: String::new(), is_error: false });
    assert_eq!(*network.checked.borrow(), 1);
}

#[test]
fn what_is_for_nobodys_pod_succeeds_and_says_nothing() {
    let network = Pretended { refuses: true, ..Pretended::default() };
    let mut newest = ours();
    newest["cniVersion"] = json!("1.1.0");
    for command in ["DEL", "GC", "STATUS"] {
        assert_eq!(call(command, &newest, &network), Answer { output: String::new(), is_error: false }, "{command}");
    }
    // The runtime may have forgotten it all.
    newest.as_object_mut().unwrap().remove("prevResult");
    assert!(!call("DEL", &newest, &network).is_error);
}

#[test]
fn versions_are_told() {
    let told = call("VERSION", &json!({"cniVersion": "9.0.0"}), &Pretended::default());
    let versions: Value = serde_json::from_str(&told.output).unwrap();
    assert_eq!(versions["cniVersion"], "1.1.0");
    assert_eq!(versions["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    for version in ["0.4.0", "1.1.0"] {
        let mut input = ours();
        input["cniVersion"] = json!(version);
        let told = call("ADD", &input, &Pretended::default());
        assert_eq!(serde_json::from_str::<Value>(&told.output).unwrap()["cniVersion"], version);
    }
}

#[test]
fn a_call_that_makes_no_sense_is_told_which_part() {
    let network = Pretended::default();
    let with = |field: &str, value: Value| {
        let mut input = ours();
        input[field] = value;
        input
    };
    let check = |command: &str, input: &Value, code: u64, names: &str| {
        let (found, text) = error(&call(command, input, &network));
        assert!(found == code && text.contains(names), "{command} {input}: {found} {text}");
    };
    check("ADD", &with("cniVersion", json!("0.2.0")), 1, "0.2.0");
    check("ADD", &with("cniVersion", json!("2.0.0")), 1, "1.1.0");
    check("ADD", &with("cniVersion", json!(1)), 7, "cniVersion");
    check("ADD", &with("prevResult", Value::Null), 7, "prevResult");
    check("ADD", &with("prevResult", json!([])), 7, "prevResult");
    check("ADD", &with("runtimeConfig", json!("")), 7, "runtimeConfig");
    check("ADD", &json!([]), 7, "no object");
    check("CHECK", &with("cniVersion", json!("0.3.1")), 4, "0.4.0");
    check("GC", &ours(), 4, "1.1.0");
    check("STATUS", &ours(), 4, "1.1.0");
    check("UPDATE", &ours(), 4, "UPDATE");
    let told = answer(&|_| Some("ADD".to_owned()), b"{", &network);
    assert_eq!(error(&told).0, 6);
    let nowhere = |name: &str| (name == "CNI_COMMAND").then(|| "ADD".to_owned());
    let (code, text) = error(&answer(&nowhere, ours().to_string().as_bytes(), &network));
    assert!(code == 4 && text.contains("CNI_NETNS"), "{code} {text}");
    assert!(network.set.borrow().is_empty());
}
