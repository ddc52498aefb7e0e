//! What happens while a part of Weft is away. These tests take it away from everybody, and so run alone, one after the other.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a helper finds wrong fails its test")]

use weft_tests_kubernetes::{Namespace, eventually, get, kubectl};

const SYSTEM: [&str; 2] = ["--namespace", "weft-system"];

/// Sets the number of a Deployment's replicas, and waits until they are there, or gone.
fn scale(deployment: &str, replicas: u32) {
    let (name, count) = (format!("deployment/{deployment}"), replicas.to_string());
    kubectl(&[&SYSTEM[..], &["scale", &name, "--replicas", &count]].concat()).unwrap();
    kubectl(&[&SYSTEM[..], &["rollout", "status", &name, "--timeout", "90s"]].concat()).unwrap();
    let selector = format!("app={deployment}");
    eventually("the right number of pods", || {
        let pods = kubectl(&[&SYSTEM[..], &["get", "pods", "--selector", &selector, "--output", "name"]].concat())?;
        anyhow::ensure!(pods.lines().count() == usize::try_from(replicas)?, "{pods}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn without_the_injector_labelled_pods_wait_and_say_why_and_all_others_start() {
    let (meshed, plain) = (Namespace::meshed("no-injector").unwrap(), Namespace::plain("no-injector-plain").unwrap());
    scale("weft-injector", 0);
    meshed
        .apply(
            "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: late}
spec:
  selector: {matchLabels: {app: late}}
  template:
    metadata: {labels: {app: late}}
    spec: {containers: [{name: app, image: \"weft.test/toolbox:1\", command: [sleep, \"1000000\"]}]}
",
        )
        .unwrap();
    let told = eventually("an event", || {
        let of = [
            "get",
            "events",
            "--namespace",
            "no-injector",
            "--field-selector",
            "reason=FailedCreate",
            "--output",
            "jsonpath={.items[*].message}",
        ];
        let told = kubectl(&of)?;
        anyhow::ensure!(!told.is_empty(), "no event");
        Ok(told)
    });
    let told = told.unwrap();
    assert!(told.contains("namespace.inject.weft.dev") && told.contains("weft-injector"), "{told}");
    plain.serve("server").unwrap();
    scale("weft-injector", 2);
    kubectl(&["--namespace", "no-injector", "rollout", "status", "deployment/late", "--timeout", "120s"]).unwrap();
}

#[test]
fn without_the_control_plane_traffic_goes_on_and_a_restarted_proxy_too() {
    let namespace = Namespace::meshed("no-control-plane").unwrap();
    for name in ["server", "client"] {
        namespace.serve(name).unwrap();
    }
    let url = "http://server.no-control-plane/";
    let answers = || {
        let said = namespace.curl("client", url)?;
        anyhow::ensure!(said == "200 this is server", "{said}");
        Ok(())
    };
    eventually("an answer", answers).unwrap();
    scale("weft-control-plane", 0);
    // For a minute.
    let load = ["h2load", "--h1", "-D", "60", "-c", "4", "--rps", "50", url];
    let said = namespace.exec("client", &load).unwrap();
    assert!(said.contains("0 failed, 0 errored, 0 timeout") && said.contains(" 0 4xx, 0 5xx"), "{said}");
    answers().unwrap();

    namespace.restart_proxy("server").unwrap();
    eventually("an answer of the restarted proxy", answers).unwrap();

    let late = "\
apiVersion: v1
kind: Pod
metadata: {name: late}
spec: {containers: [{name: app, image: \"weft.test/toolbox:1\", command: [sleep, \"1000000\"]}]}
";
    namespace.apply(late).unwrap();
    eventually("a new pod says what it waits for", || {
        let said = kubectl(&["--namespace", namespace.name(), "logs", "late", "--container", "weft-proxy"])?;
        anyhow::ensure!(said.contains("no connection to the control plane"), "{said}");
        Ok(())
    })
    .unwrap();
    scale("weft-control-plane", 2);
    namespace.ready("late").unwrap();
}

#[test]
fn a_webhook_certificate_that_is_spoiled_is_made_anew() {
    let namespace = Namespace::meshed("spoiled").unwrap();
    let certificate = || anyhow::Ok(get("weft-system", "secret", "weft-injector-tls")?["data"]["tls.crt"].clone());
    let before = certificate().unwrap();
    let spoil = "{\"data\": {\"tls.crt\": \"c3BvaWxlZA==\", \"tls.key\": \"c3BvaWxlZA==\"}}";
    kubectl(&[&SYSTEM[..], &["patch", "secret", "weft-injector-tls", "--patch", spoil]].concat()).unwrap();
    let anew = eventually("another certificate", || {
        let now = certificate()?;
        anyhow::ensure!(now != before && now != "c3BvaWxlZA==", "not yet");
        Ok(now)
    });
    anew.unwrap();
    // Each replica takes it up when it looks next, and tells the API server whom to believe.
    eventually("a pod with a proxy", || namespace.serve("server")).unwrap();
    let pod = get(namespace.name(), "pod", "server").unwrap();
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "weft-proxy", "{pod}");
}
