//! Rollouts and scaling of servers and of clients under load: not one request fails, and nobody has a preStop hook. Apart from the other
//! tests, which start pods as fast as the node can: where everybody waits for a core, a grace period ends before a drain does.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a helper finds wrong fails its test")]

use std::thread;

use weft_tests_kubernetes::{Namespace, eventually, kubectl};

/// Requests a second of one client, none of them repeated by who sends them.
const RATE: u32 = 500;

/// What is asked, how it is served, and how the kubelet learns that it is.
struct Case {
    namespace: &'static str,
    protocol: &'static str,
    serves: &'static str,
    probe: &'static str,
}

fn deployment(name: &str, replicas: u32, args: &str, more: &str) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: app, image: \"weft.test/app:1\", args: [{args}]{more}}}]}}
---
"
    )
}

struct Stage<'a> {
    namespace: &'a Namespace,
}

impl Stage<'_> {
    fn kubectl(&self, args: &[&str]) -> String {
        kubectl(&[&["--namespace", self.namespace.name()], args].concat()).unwrap()
    }

    fn settled(&self, name: &str) {
        self.kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout", "120s"]);
    }

    fn restart(&self, name: &str) {
        self.kubectl(&["rollout", "restart", &format!("deployment/{name}")]);
        self.settled(name);
    }

    fn scale(&self, name: &str, replicas: &str) {
        self.kubectl(&["scale", &format!("deployment/{name}"), "--replicas", replicas]);
        self.settled(name);
    }

    /// The one client that is not `old`.
    fn client(&self, old: &str) -> String {
        let found = eventually("a client", || {
            let of = ["get", "pods", "--selector", "app=client", "--output", "name"];
            let pods = kubectl(&[&["--namespace", self.namespace.name()], &of[..]].concat())?;
            let pod = pods.lines().find(|pod| *pod != old).map(str::to_owned);
            pod.ok_or_else(|| anyhow::anyhow!("none in {pods}"))
        });
        found.unwrap()
    }

    /// The last words of a client, once it has ended.
    fn last_words(&self, pod: &str) -> String {
        self.kubectl(&["logs", pod, "--container", "app", "--follow"])
    }
}

/// How many requests a client made, none of which failed.
fn unharmed(said: &str) -> u32 {
    let line = said.lines().find(|line| line.starts_with("asked ")).unwrap_or_else(|| panic!("no last words: {said}"));
    assert!(line.contains(", failed 0, "), "{line}");
    line.split([' ', ',']).nth(1).and_then(|count| count.parse().ok()).unwrap()
}

fn costs_nothing(case: &Case) {
    let Case { namespace, protocol, serves, probe } = case;
    let namespace = Namespace::meshed(namespace).unwrap();
    let stage = Stage { namespace: &namespace };
    let service = "{apiVersion: v1, kind: Service, metadata: {name: server}, spec: \
                   {selector: {app: server}, ports: [{name: app, port: 80, targetPort: 8080}]}}\n---\n";
    let probe = format!(", readinessProbe: {{{probe}, periodSeconds: 1}}");
    let server = deployment("server", 3, &format!("serve, {serves}, \"8080\""), &probe);
    namespace.apply(&format!("{service}{server}")).unwrap();
    stage.settled("server");
    let args = format!("load, {protocol}, \"server:80\", \"{RATE}\"");
    namespace.apply(&deployment("client", 1, &args, "")).unwrap();
    stage.settled("client");

    let (stage, first) = (&stage, stage.client(""));
    let asked = thread::scope(|scope| {
        let first_said = scope.spawn(|| stage.last_words(&first));
        stage.restart("server");
        stage.scale("server", "5");
        stage.scale("server", "1");
        stage.restart("client");
        let second = stage.client(&first);
        let second_said = scope.spawn(move || stage.last_words(&second));
        stage.restart("server");
        stage.scale("client", "0");
        unharmed(&first_said.join().unwrap()) + unharmed(&second_said.join().unwrap())
    });
    // The shortest of these takes longer than that.
    assert!(asked > RATE * 5, "{asked} requests are not the load that was meant");
}

#[test]
fn a_rollout_over_http1_costs_no_request() {
    let probe = "httpGet: {path: /, port: 8080}";
    costs_nothing(&Case { namespace: "rollout-http1", protocol: "http1", serves: "http", probe });
}

#[test]
fn a_rollout_over_http2_costs_no_request() {
    let probe = "httpGet: {path: /, port: 8080}";
    costs_nothing(&Case { namespace: "rollout-http2", protocol: "http2", serves: "http", probe });
}

#[test]
fn a_rollout_over_grpc_costs_no_request() {
    costs_nothing(&Case { namespace: "rollout-grpc", protocol: "grpc", serves: "grpc", probe: "grpc: {port: 8080}" });
}
