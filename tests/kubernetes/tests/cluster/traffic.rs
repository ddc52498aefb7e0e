//! What pods say to each other.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use weft_tests_kubernetes::{Namespace, eventually, get, kubectl};

#[test]
fn two_pods_prove_to_each_other_who_they_are() {
    let namespace = Namespace::meshed("mtls").unwrap();
    for name in ["server", "client"] {
        namespace.serve(name).unwrap();
    }
    let answer = eventually("an answer", || {
        let said = namespace.curl("client", "http://server.mtls/")?;
        anyhow::ensure!(said.starts_with("200"), "{said}");
        Ok(said)
    });
    assert_eq!(answer.unwrap(), "200 this is server");
    // Seen by the server's own proxy, which would not say so of plaintext.
    // Who asks is looked up while the first requests pass (semantics 45).
    let metrics = eventually("a series", || {
        namespace.curl("client", "http://server.mtls/")?;
        let metrics = namespace.metrics("server")?;
        let of_client = |line: &&str| {
            [
                "weft_requests_total{",
                "direction=\"inbound\"",
                "mtls=\"yes\"",
                "source_workload=\"client\"",
                "destination_service=\"server\"",
            ]
            .iter()
            .all(|part| line.contains(part))
        };
        metrics.lines().find(of_client).map(str::to_owned).ok_or_else(|| anyhow::anyhow!("{metrics}"))
    });
    assert!(metrics.unwrap().contains("status_code=\"200\""));
}

/// What passes between the node's pods for as long as this lives, as tcpdump sees it on their bridge.
struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    fn start(name: &str, filter: &str) -> Self {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut tcpdump = Command::new("tcpdump")
            .args(["-i", "cni0", "-U", "-s", "0", "-w"])
            .arg(&file)
            .arg(filter)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(tcpdump.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("listening on")), "tcpdump does not listen");
        Self { tcpdump, file }
    }

    /// Everything so far. A packet may be on its way to the file still.
    fn sees(&self, text: &str) -> bool {
        let seen = fs::read(&self.file).unwrap();
        seen.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.tcpdump.kill());
        drop(self.tcpdump.wait());
        drop(fs::remove_file(&self.file));
    }
}

#[test]
fn nothing_passes_the_node_in_the_clear() {
    let (meshed, plain) = (Namespace::meshed("secret").unwrap(), Namespace::plain("open").unwrap());
    for namespace in [&meshed, &plain] {
        for name in ["server", "client"] {
            namespace.serve(name).unwrap();
        }
    }
    let address = |namespace: &Namespace| {
        let pod = get(namespace.name(), "pod", "server").unwrap();
        pod["status"]["podIP"].as_str().unwrap().to_owned()
    };
    // Not the kubelet's probes, which come from the node and have no identity.
    let filter = format!("(host {} or host {}) and not host 10.244.0.1", address(&meshed), address(&plain));
    let capture = Capture::start("secret.pcap", &filter);
    let ask = |namespace: &Namespace| {
        let url = format!("http://server.{}/index.html?of={}", namespace.name(), namespace.name());
        eventually("an answer", || {
            let said = namespace.curl("client", &url)?;
            anyhow::ensure!(said == "200 this is server", "{said}");
            Ok(())
        })
        .unwrap();
    };
    ask(&meshed);
    // The last of all, so that when it is seen what came before was seen too.
    ask(&plain);
    eventually("the plain request is seen", || {
        anyhow::ensure!(capture.sees("GET /index.html?of=open"), "not yet");
        Ok(())
    })
    .unwrap();
    // Each proxy's offer to the other, which TLS does not encrypt (design §2).
    assert!(capture.sees("weft/"), "no mesh TLS was seen");
    assert!(!capture.sees("of=secret"), "the meshed request passed in the clear");
}

#[test]
fn a_pod_outside_of_the_mesh_is_reached_and_reaches() {
    let (inside, outside) = (Namespace::meshed("border-in").unwrap(), Namespace::plain("border-out").unwrap());
    inside.serve("server").unwrap();
    outside.serve("server").unwrap();
    for (from, to) in [(&inside, &outside), (&outside, &inside)] {
        let url = format!("http://server.{}/", to.name());
        let said = eventually("an answer", || {
            let said = from.curl("server", &url)?;
            anyhow::ensure!(said.starts_with("200"), "{said}");
            Ok(said)
        });
        assert_eq!(said.unwrap(), "200 this is server", "{} to {}", from.name(), to.name());
    }
}

#[test]
fn the_control_plane_may_be_replaced_under_traffic() {
    let namespace = Namespace::meshed("replaced").unwrap();
    for name in ["server", "client"] {
        namespace.serve(name).unwrap();
    }
    eventually("an answer", || namespace.curl("client", "http://server.replaced/")).unwrap();
    let deployment = "deployment/weft-control-plane";
    kubectl(&["--namespace", "weft-system", "rollout", "restart", deployment]).unwrap();
    for _ in 0..20 {
        assert_eq!(namespace.curl("client", "http://server.replaced/").unwrap(), "200 this is server");
    }
    kubectl(&["--namespace", "weft-system", "rollout", "status", deployment, "--timeout", "90s"]).unwrap();
    // The authority outlived both of its replicas: a new pod is believed by an old one.
    namespace.serve("latecomer").unwrap();
    let said = eventually("an answer", || {
        let said = namespace.curl("latecomer", "http://server.replaced/")?;
        anyhow::ensure!(said.starts_with("200"), "{said}");
        Ok(said)
    });
    assert_eq!(said.unwrap(), "200 this is server");
    let holder = get("weft-system", "lease", "weft-control-plane").unwrap()["spec"]["holderIdentity"].clone();
    assert!(holder.as_str().is_some_and(|holder| holder.starts_with("weft-control-plane-")), "{holder}");
}

#[test]
fn a_route_moves_traffic_and_says_that_it_holds() {
    let namespace = Namespace::meshed("canary").unwrap();
    for name in ["v1", "v2", "client"] {
        namespace.serve(name).unwrap();
    }
    namespace
        .apply("{apiVersion: v1, kind: Service, metadata: {name: shop}, spec: {ports: [{name: http, port: 80}]}}")
        .unwrap();
    let route = |old: u32, new: u32| {
        let backend = |name: &str, weight: u32| format!("{{name: {name}, port: 80, weight: {weight}}}");
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: shop}}, spec: {{\
             parentRefs: [{{group: \"\", kind: Service, name: shop}}], rules: [{{backendRefs: [{}, {}]}}]}}}}",
            backend("v1", old),
            backend("v2", new),
        )
    };
    for (old, new, want) in [(1, 0, "this is v1"), (0, 1, "this is v2")] {
        namespace.apply(&route(old, new)).unwrap();
        eventually(want, || {
            let said = namespace.curl("client", "http://shop.canary/")?;
            anyhow::ensure!(said == format!("200 {want}"), "{said}");
            Ok(())
        })
        .unwrap();
    }
    let held = eventually("a status of the newest version", || {
        let route = get("canary", "httproute", "shop")?;
        let of = &route["status"]["parents"][0]["conditions"][0];
        anyhow::ensure!(of["observedGeneration"] == route["metadata"]["generation"], "{route}");
        Ok(route["status"]["parents"].clone())
    });
    let parent = &held.unwrap()[0];
    assert_eq!((&parent["controllerName"], &parent["parentRef"]["name"]), (&"weft.dev/mesh".into(), &"shop".into()));
    for condition in parent["conditions"].as_array().unwrap() {
        assert_eq!(condition["status"], "True", "{condition}");
    }
}
