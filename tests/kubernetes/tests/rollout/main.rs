//! Rollouts and scaling of servers and of clients under load: not one request fails, and nobody has a preStop hook. Apart from the other
//! tests, which start pods as fast as the node can: where everybody waits for a core, a grace period ends before a drain does.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a helper finds wrong fails its test")]

use weft_tests_kubernetes::Namespace;
use weft_tests_kubernetes::load::{Clients, deployment};

/// Requests a second of one client, none of them repeated by who sends them.
const RATE: u32 = 500;

/// What is asked, how it is served, and how the kubelet learns that it is.
struct Case {
    namespace: &'static str,
    protocol: &'static str,
    serves: &'static str,
    probe: &'static str,
}

fn restart(namespace: &Namespace, name: &str) {
    namespace.kubectl(&["rollout", "restart", &format!("deployment/{name}")]).unwrap();
    namespace.settled(name).unwrap();
}

fn scale(namespace: &Namespace, name: &str, replicas: &str) {
    namespace.kubectl(&["scale", &format!("deployment/{name}"), "--replicas", replicas]).unwrap();
    namespace.settled(name).unwrap();
}

fn costs_nothing(case: &Case) {
    let Case { namespace, protocol, serves, probe } = case;
    let namespace = Namespace::meshed(namespace).unwrap();
    let service = "{apiVersion: v1, kind: Service, metadata: {name: server}, spec: \
                   {selector: {app: server}, ports: [{name: app, port: 80, targetPort: 8080}]}}\n---\n";
    let probe = format!(", readinessProbe: {{{probe}, periodSeconds: 1}}");
    let server = deployment("server", 3, &format!("serve, {serves}, \"8080\""), &probe);
    namespace.apply(&format!("{service}{server}")).unwrap();
    namespace.settled("server").unwrap();
    let args = format!("load, {protocol}, \"server:80\", \"{RATE}\"");
    namespace.apply(&deployment("client", 1, &args, "")).unwrap();
    namespace.settled("client").unwrap();

    let mut clients = Clients::of(namespace.name(), "client");
    clients.follow().unwrap();
    restart(&namespace, "server");
    scale(&namespace, "server", "5");
    scale(&namespace, "server", "1");
    restart(&namespace, "client");
    clients.follow().unwrap();
    restart(&namespace, "server");
    scale(&namespace, "client", "0");
    let asked = clients.unharmed().unwrap();
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
