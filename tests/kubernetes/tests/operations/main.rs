//! What an operator does to a cluster that is in use — drains its nodes, restarts the control plane, brings workloads the newest proxy —
//! costs no request. Alone, because everybody's control plane is restarted.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what a helper finds wrong fails its test")]

use weft_tests_kubernetes::load::{Clients, deployment};
use weft_tests_kubernetes::{Namespace, eventually, kubectl, kubectl_reading, weft};

const SYSTEM: [&str; 2] = ["--namespace", "weft-system"];

/// Requests a second of one client, none of them repeated by who sends them.
const RATE: u32 = 200;

/// A server that Kubernetes may take one pod from at a time, and what asks it.
struct Pair {
    server: &'static str,
    serves: &'static str,
    probe: &'static str,
    client: &'static str,
    protocol: &'static str,
}

const PAIRS: [Pair; 2] = [
    Pair {
        server: "http",
        serves: "http",
        probe: "httpGet: {path: /, port: 8080}",
        client: "http-client",
        protocol: "http1",
    },
    Pair { server: "grpc", serves: "grpc", probe: "grpc: {port: 8080}", client: "grpc-client", protocol: "grpc" },
];

fn start(namespace: &Namespace) -> Vec<Clients> {
    for Pair { server, serves, probe, .. } in PAIRS {
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {server}}}, spec: \
             {{selector: {{app: {server}}}, ports: [{{name: app, port: 80, targetPort: 8080}}]}}}}\n---\n"
        );
        let budget = format!(
            "{{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {{name: {server}}}, spec: \
             {{maxUnavailable: 1, selector: {{matchLabels: {{app: {server}}}}}}}}}\n---\n"
        );
        let probe = format!(", readinessProbe: {{{probe}, periodSeconds: 1}}");
        let server = deployment(server, 2, &format!("serve, {serves}, \"8080\""), &probe);
        namespace.apply(&format!("{service}{budget}{server}")).unwrap();
    }
    for Pair { server, .. } in PAIRS {
        namespace.settled(server).unwrap();
    }
    let clients = PAIRS.map(|Pair { server, client, protocol, .. }| {
        let args = format!("load, {protocol}, \"{server}:80\", \"{RATE}\"");
        namespace.apply(&deployment(client, 1, &args, "")).unwrap();
        namespace.settled(client).unwrap();
        let mut clients = Clients::of(namespace.name(), client);
        clients.follow().unwrap();
        clients
    });
    clients.into()
}

/// Every pod of a namespace, by name.
fn pods(namespace: &str) -> Vec<String> {
    let of = ["--namespace", namespace, "get", "pods", "--output", "jsonpath={.items[*].metadata.name}"];
    kubectl(&of).unwrap().split_whitespace().map(str::to_owned).collect()
}

/// Has Kubernetes take a pod away, as draining its node does: as soon as the budget of its app allows it.
fn evict(namespace: &str, pod: &str) {
    let at = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    let eviction = format!(
        "{{\"apiVersion\": \"policy/v1\", \"kind\": \"Eviction\", \
         \"metadata\": {{\"name\": \"{pod}\", \"namespace\": \"{namespace}\"}}}}"
    );
    let done = eventually("an eviction", || kubectl_reading(&["create", "--raw", &at, "--filename", "-"], &eviction));
    done.unwrap();
}

fn all_settled(namespace: &Namespace) {
    for Pair { server, client, .. } in PAIRS {
        namespace.settled(server).unwrap();
        namespace.settled(client).unwrap();
    }
}

fn control_plane_settled() {
    for deployment in ["deployment/weft-control-plane", "deployment/weft-injector"] {
        kubectl(&[&SYSTEM[..], &["rollout", "status", deployment, "--timeout", "120s"]].concat()).unwrap();
    }
}

#[test]
fn evictions_restarts_and_upgrades_cost_no_request() {
    let namespace = Namespace::meshed("operations").unwrap();
    let mut clients = start(&namespace);

    // Every pod there is: the applications', servers and clients, and Weft's own.
    for pod in pods("operations") {
        evict("operations", &pod);
    }
    for pod in pods("weft-system") {
        evict("weft-system", &pod);
    }
    all_settled(&namespace);
    control_plane_settled();
    clients.iter_mut().for_each(|clients| clients.follow().unwrap());

    kubectl(&[&SYSTEM[..], &["rollout", "restart", "deployment"]].concat()).unwrap();
    control_plane_settled();

    // Proxies of the same version are left alone, unless it is said that they shall not be.
    let said = weft(&["upgrade", "--workloads", "--all", "--namespace", "operations"], None).unwrap().done().unwrap();
    assert!(said.contains("4 workloads restarted, 0 left alone"), "{said}");
    clients.iter_mut().for_each(|clients| clients.follow().unwrap());

    for Pair { client, .. } in PAIRS {
        namespace.kubectl(&["scale", &format!("deployment/{client}"), "--replicas", "0"]).unwrap();
    }
    for clients in clients {
        let asked = clients.unharmed().unwrap();
        // Two rollouts of two pods each take longer than that.
        assert!(asked > RATE * 5, "{asked} requests are not the load that was meant");
    }
}
