//! An installation from its first check to its end, by what is printed to whoever does it. It takes Weft from everybody, and so runs last.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a helper finds wrong fails its test")]

use anyhow::{Context as _, ensure};
use serde_json::Value;
use weft_tests_kubernetes::{Namespace, Said, eventually, get, install, installed, kubectl, kubectl_reading, weft};

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop/kubernetes");

/// Its Deployments.
const WORKLOADS: usize = 7;

/// What `weft check` says once everything has settled, which is at once where nothing was changed.
fn checked(args: &[&str], want: i32) -> String {
    let said = eventually(&format!("weft check ends with {want}"), || {
        let Said { code, out, err } = weft(&[&["check", "--colour", "never"], args].concat(), None)?;
        ensure!(code == Some(want), "it ends with {code:?}\n{out}{err}");
        Ok(out)
    });
    said.unwrap()
}

/// Whether a check is told of with this mark.
fn tells(said: &str, mark: &str, check: &str) -> bool {
    said.lines().any(|line| line.split_whitespace().take(2).eq([mark, check]))
}

/// The shop with proxies, by `weft inject`: the same bytes whenever it is asked, also of what it made itself.
fn injected_shop() -> String {
    let plain = kubectl(&["kustomize", SHOP]).unwrap();
    let Said { code, out, err } = weft(&["inject", "-f", "-"], Some(&plain)).unwrap();
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains(&format!("{WORKLOADS} injected, 0 left alone, ")), "{err}");
    let quietly = |text: &str| weft(&["inject", "--quiet", "-f", "-"], Some(text)).unwrap().done().unwrap();
    assert_eq!(quietly(&plain), out, "asked twice");
    assert_eq!(quietly(&out), out, "of what is injected already");
    out
}

fn proxies_of_shop() -> anyhow::Result<(usize, usize)> {
    let listed = kubectl(&["--namespace", "shop", "get", "pods", "--output", "json"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    let pods = listed["items"].as_array().cloned().unwrap_or_default();
    let of = |pod: &Value| {
        let containers = pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
        containers.iter().filter(|container| container["name"] == "weft-proxy").count()
    };
    Ok((pods.len(), pods.iter().map(of).sum()))
}

fn shop_has(proxies: usize) {
    let of_shop = |args: &[&str]| kubectl(&[&["--namespace", "shop"], args].concat());
    for deployment in of_shop(&["get", "deployments", "--output", "name"]).unwrap().lines() {
        of_shop(&["rollout", "status", deployment, "--timeout", "120s"]).unwrap();
    }
    eventually("every pod is as it should be", || {
        let found = proxies_of_shop()?;
        ensure!(found == (WORKLOADS, proxies), "{found:?} pods and proxies");
        Ok(())
    })
    .unwrap();
}

/// Deletes what is printed for it, and hands back what is said to stay.
fn uninstall(args: &[&str]) -> (String, String) {
    let Said { code, out, err } = weft(&[&["uninstall"], args].concat(), None).unwrap();
    assert_eq!(code, Some(0), "{err}");
    kubectl_reading(&["delete", "--ignore-not-found", "--filename", "-", "--timeout", "120s"], &out).unwrap();
    (out, err)
}

/// Whether the cluster has none of the objects that were named.
fn are_gone(documents: &str) {
    let left = kubectl_reading(&["get", "--ignore-not-found", "--output", "name", "--filename", "-"], documents);
    assert_eq!(left.unwrap(), "");
}

#[test]
fn what_is_checked_installed_injected_and_uninstalled_is_what_was_said() {
    // The check before it and the installation are that of all tests.
    installed().unwrap();
    let said = checked(&[], 0);
    assert!(tells(&said, "ok", "control-plane") && tells(&said, "ok", "webhook-certificate"), "{said}");
    assert!(said.ends_with(" 0 failures\n"), "{said}");
    assert_eq!(weft(&["check", "--context", "nowhere"], None).unwrap().code, Some(69), "nobody answers there");

    let shop = injected_shop();
    kubectl_reading(&["apply", "--filename", "-"], &shop).unwrap();
    let shop = Namespace::named("shop");
    shop_has(WORKLOADS);
    let said = checked(&[], 0);
    assert!(tells(&said, "ok", "injection") && tells(&said, "ok", "trust-bundle"), "{said}");

    // As `weft uninstall --help` says: first the label and the proxies.
    kubectl(&["label", "namespace", "shop", "weft.dev/inject-"]).unwrap();
    kubectl(&["apply", "--kustomize", SHOP]).unwrap();
    kubectl(&["label", "namespace", "shop", "weft.dev/inject-"]).unwrap();
    kubectl(&["--namespace", "shop", "rollout", "restart", "deployment"]).unwrap();
    shop_has(0);
    let (deleted, stays) = uninstall(&[]);
    are_gone(&deleted);
    assert!(kubectl(&["get", "namespace", "weft-system"]).is_err());
    let said = checked(&[], 1);
    for check in ["control-plane", "injector", "webhook"] {
        assert!(tells(&said, "FAIL", check), "{said}");
    }
    checked(&["--pre"], 0);

    // What was said to stay does, and goes by the command that was told.
    assert!(stays.contains("the definitions of Weft's kinds, with every policy"), "{stays}");
    get("", "customresourcedefinition", "authorizationpolicies.weft.dev").unwrap();
    get("shop", "configmap", "weft-trust-bundle").unwrap();

    // Another installation is another authority: nobody is left with what the first one vouched for.
    install().unwrap();
    kubectl(&["label", "namespace", "shop", "weft.dev/inject=enabled"]).unwrap();
    kubectl(&["--namespace", "shop", "rollout", "restart", "deployment"]).unwrap();
    shop_has(WORKLOADS);
    checked(&[], 0);

    drop(shop);
    let (_, stays) = uninstall(&["--crds"]);
    assert!(!stays.contains("definitions"), "{stays}");
    let told = stays.lines().find_map(|line| line.split_once(": kubectl ")).context(stays.clone()).unwrap().1;
    kubectl(&told.split(' ').collect::<Vec<_>>()).unwrap();
    let left = ["get", "configmaps", "--all-namespaces", "--field-selector", "metadata.name=weft-trust-bundle"];
    assert_eq!(kubectl(&[&left[..], &["--output", "name"]].concat()).unwrap(), "");
    let definitions = kubectl(&["get", "customresourcedefinitions", "--output", "name"]).unwrap();
    assert!(!definitions.contains("weft.dev"), "{definitions}");
    let said = checked(&[], 1);
    assert!(tells(&said, "FAIL", "definitions"), "{said}");
}
