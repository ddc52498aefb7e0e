//! Whether what `deploy/base` grants is what Weft needs, no less and no more. Runs after all other tests, on what the API server wrote
//! down of them: a right that none of them used could be taken away and nothing would fail; a request that was refused lacks one.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a helper finds wrong fails its test")]

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use serde_json::Value;
use weft_tests_kubernetes::kubectl;

const ACCOUNTS: [&str; 3] = ["weft-control-plane", "weft-injector", "weft-cni"];

/// What no test can have somebody need: pods are evicted whose runtime keeps their network in a virtual machine.
const NEVER_HERE: [(&str, &str); 1] = [("weft-cni", "pods/eviction")];

/// May a service account do this?
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    account: String,
    verb: String,
    group: String,
    /// With its subresource.
    resource: String,
    /// Empty: whichever.
    name: String,
    /// Empty: whichever.
    namespace: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, verb, group, resource, name, namespace } = self;
        write!(f, "{account}: {verb} {group}/{resource} {name} in {namespace:?}")
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn listed(kind: &str) -> Vec<Value> {
    let listed = kubectl(&["get", kind, "--all-namespaces", "--output", "json"]).unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    listed["items"].as_array().cloned().unwrap_or_default()
}

/// What is granted to our accounts by whichever binding, each verb of each resource by itself.
fn granted() -> BTreeSet<Right> {
    let roles: Vec<Value> = listed("clusterroles").into_iter().chain(listed("roles")).collect();
    let mut granted = BTreeSet::new();
    for binding in listed("clusterrolebindings").into_iter().chain(listed("rolebindings")) {
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        let of_ours = subjects.filter(|it| {
            it["kind"] == "ServiceAccount" && (it["namespace"] == "weft-system" || it["namespace"] == "weft-cni")
        });
        let accounts: Vec<&str> = of_ours.filter_map(|it| it["name"].as_str()).collect();
        // A role of a namespace is told from another's by where it is bound.
        let role = roles.iter().find(|role| {
            role["kind"] == binding["roleRef"]["kind"]
                && role["metadata"]["name"] == binding["roleRef"]["name"]
                && (role["kind"] == "ClusterRole" || role["metadata"]["namespace"] == binding["metadata"]["namespace"])
        });
        for account in accounts.into_iter().filter(|account| ACCOUNTS.contains(account)) {
            let role = role.unwrap_or_else(|| panic!("{binding} binds a role that is not there"));
            for rule in role["rules"].as_array().into_iter().flatten() {
                assert!(rule["nonResourceURLs"].is_null(), "{account} may use URLs, which this test does not know of");
                granted.extend(rights_of(account, &text(&binding["metadata"]["namespace"]), rule));
            }
        }
    }
    granted
}

fn rights_of(account: &str, namespace: &str, rule: &Value) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    let mut names = texts(&rule["resourceNames"]);
    if names.is_empty() {
        names.push(String::new());
    }
    for group in texts(&rule["apiGroups"]) {
        for resource in texts(&rule["resources"]) {
            for verb in texts(&rule["verbs"]) {
                rights.extend(names.iter().map(|name| Right {
                    account: account.to_owned(),
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: resource.clone(),
                    name: name.clone(),
                    namespace: namespace.to_owned(),
                }));
            }
        }
    }
    rights
}

/// What our accounts asked for: let in, and refused.
fn asked() -> (BTreeSet<Right>, BTreeSet<Right>) {
    let file =
        std::env::var_os("WEFT_AUDIT_LOG").expect("WEFT_AUDIT_LOG: the API server's audit log, as cargo xtask sets it");
    let log = fs::read_to_string(&file).unwrap();
    let (mut allowed, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let of = |account: &&&str| text(&event["user"]["username"]).ends_with(&format!(":{account}"));
        let Some(account) = ACCOUNTS.iter().find(of) else { continue };
        let object = &event["objectRef"];
        // Requests for what is no resource, such as the versions of the API, are everybody's.
        let Some(resource) = object["resource"].as_str() else { continue };
        let subresource = object["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
        let right = Right {
            account: (*account).to_owned(),
            verb: text(&event["verb"]),
            group: text(&object["apiGroup"]),
            resource: format!("{resource}{subresource}"),
            name: text(&object["name"]),
            namespace: text(&object["namespace"]),
        };
        let code = event["responseStatus"]["code"].as_i64().unwrap_or_default();
        // Applying what is not there yet takes the right to create it as well.
        if code == 201 && right.verb == "patch" {
            allowed.insert(Right { verb: "create".to_owned(), ..right.clone() });
        }
        // Not the status: a namespace that is being deleted forbids too, whatever one may.
        let decision = &event["annotations"]["authorization.k8s.io/decision"];
        if decision == "forbid" {
            refused.insert(right)
        } else {
            allowed.insert(right)
        };
    }
    (allowed, refused)
}

fn covers(granted: &Right, asked: &Right) -> bool {
    let fits = |granted: &str, asked: &str| granted.is_empty() || granted == asked;
    granted.account == asked.account
        && granted.verb == asked.verb
        && granted.group == asked.group
        && granted.resource == asked.resource
        && fits(&granted.name, &asked.name)
        && fits(&granted.namespace, &asked.namespace)
}

#[test]
fn what_is_granted_is_what_is_needed() {
    let (allowed, refused) = asked();
    assert!(!allowed.is_empty(), "our accounts asked for nothing: is this the log of the cluster that ran the tests?");
    let told =
        |rights: &mut dyn Iterator<Item = &Right>| rights.map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(refused.is_empty(), "refused, so a right is missing:\n{}", told(&mut refused.iter()));
    let granted = granted();
    let is_excused = |right: &Right| NEVER_HERE.contains(&(right.account.as_str(), right.resource.as_str()));
    let mut unused =
        granted.iter().filter(|right| !is_excused(right) && !allowed.iter().any(|asked| covers(right, asked)));
    let unused = told(&mut unused);
    assert!(unused.is_empty(), "granted, and never needed:\n{unused}");
}
