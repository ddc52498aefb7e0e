//! What pods say to each other.

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
