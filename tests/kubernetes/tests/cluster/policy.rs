//! Policies by Weft's own kinds.

use weft_tests_kubernetes::{Namespace, eventually, get, kubectl, refusal};

fn expect(namespace: &Namespace, from: &str, url: &str, status: &str) {
    let seen = eventually(status, || {
        let said = namespace.curl(from, url)?;
        anyhow::ensure!(said.starts_with(status), "{said}");
        Ok(())
    });
    seen.unwrap();
}

/// The kubelet has no identity, and its probe gets through: its next ones, whose outcome nobody has seen yet.
fn stays_ready(namespace: &Namespace, pod: &str) {
    let probes = || {
        let metrics = namespace.metrics(pod)?;
        let is_probe = |line: &&str| {
            ["weft_requests_total{", "mtls=\"no\"", "status_code=\"200\""].iter().all(|part| line.contains(part))
        };
        let open = metrics.lines().find(is_probe);
        let count = open.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        count.ok_or_else(|| anyhow::anyhow!("no probes in {metrics}"))
    };
    let before = eventually("probes", probes).unwrap();
    eventually("further probes", || {
        let now = probes()?;
        anyhow::ensure!(now > before + 3, "{now}");
        Ok(())
    })
    .unwrap();
    let ready = &get(namespace.name(), "pod", pod).unwrap()["status"]["conditions"];
    let ready = ready.as_array().unwrap().iter().find(|condition| condition["type"] == "Ready");
    assert_eq!(ready.unwrap()["status"], "True", "{ready:?}");
}

#[test]
fn who_may_call_is_decided_by_service_account() {
    let namespace = Namespace::meshed("authz").unwrap();
    for name in ["server", "friend", "stranger"] {
        namespace.serve(name).unwrap();
    }
    let url = "http://server.authz/";
    expect(&namespace, "stranger", url, "200");
    namespace
        .apply(
            "\
apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: friends}
spec:
  action: Allow
  selector: {matchLabels: {app: server}}
  rules: [{from: [{identities: [\"spiffe://cluster.local/ns/authz/sa/friend\"]}]}]
",
        )
        .unwrap();
    expect(&namespace, "stranger", url, "403");
    expect(&namespace, "friend", url, "200");
    stays_ready(&namespace, "server");
    // What became of it stands where users look.
    let status = eventually("a status", || {
        let policy = get("authz", "authorizationpolicy", "friends")?;
        anyhow::ensure!(policy["status"]["accepted"] == true, "{policy}");
        Ok(policy["status"].clone())
    });
    assert!(status.unwrap()["proxies"].as_str().unwrap().ends_with(" proxies"));
    let columns = kubectl(&["get", "authz", "friends", "--namespace", "authz"]).unwrap();
    assert!(columns.contains("ACCEPTED") && columns.contains("true"), "{columns}");
}

#[test]
fn strict_means_that_plaintext_is_refused() {
    let (inside, outside) = (Namespace::meshed("strict-in").unwrap(), Namespace::plain("strict-out").unwrap());
    inside.serve("server").unwrap();
    inside.serve("client").unwrap();
    outside.serve("client").unwrap();
    let url = "http://server.strict-in/";
    expect(&outside, "client", url, "200");
    inside
        .apply(
            "{apiVersion: weft.dev/v1alpha1, kind: MeshPolicy, metadata: {name: strict}, spec: {mtls: {mode: Strict}}}",
        )
        .unwrap();
    expect(&outside, "client", url, "403");
    expect(&inside, "client", url, "200");
    stays_ready(&inside, "server");
}

#[test]
fn what_can_be_caught_at_once_is_refused_by_the_api_server() {
    let namespace = Namespace::plain("refused").unwrap();
    for (kind, spec, word) in [
        (
            "AuthorizationPolicy",
            "{action: Allow, selector: {}, targetRefs: [{kind: Service, name: a}]}",
            "exclude each other",
        ),
        (
            "AuthorizationPolicy",
            "{action: Allow, rules: [{from: [{namespaces: [a], authenticated: true}]}]}",
            "exactly one",
        ),
        ("AuthorizationPolicy", "{action: Permit}", "Unsupported value"),
        ("MeshPolicy", "{selector: {}, egress: MeshOnly}", "whole mesh"),
        ("Workload", "{address: nowhere}", "an IP address"),
        ("Workload", "{address: 192.0.2.1, adress: x}", "unknown field"),
        ("TrafficPolicy", "{targetRefs: []}", "targetRefs"),
    ] {
        let yaml = format!("{{apiVersion: weft.dev/v1alpha1, kind: {kind}, metadata: {{name: bad}}, spec: {spec}}}");
        let said = refusal(namespace.name(), &yaml).unwrap();
        assert!(said.contains(word), "{kind} {spec}: {said}");
    }
}

#[test]
fn what_became_of_a_resource_stands_in_its_status() {
    let namespace = Namespace::meshed("told").unwrap();
    namespace.serve("server").unwrap();
    namespace
        .apply(
            "\
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: server}
spec: {targetRefs: [{kind: Service, name: server}], connectTimeout: 2s}
---
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: nobody}
spec: {targetRefs: [{kind: Service, name: nobody}], connectTimeout: 2s}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: machine}
spec: {address: 192.0.2.7, serviceAccount: machine}
",
        )
        .unwrap();
    let told = |kind: &str, name: &str, accepted: bool, problem: &str| {
        let status = eventually(name, || {
            let status = get(namespace.name(), kind, name)?["status"].clone();
            anyhow::ensure!(!status["accepted"].is_null(), "no status of {name}");
            Ok(status)
        });
        let status = status.unwrap();
        assert_eq!(status["accepted"], accepted, "{name}: {status}");
        let problems = status["problems"].to_string();
        assert!(problems.contains(problem), "{name}: {problems}");
    };
    told("trafficpolicy", "server", true, "");
    told("trafficpolicy", "nobody", true, "there is no Service told/nobody");
    told("workload", "machine", true, "");
}
