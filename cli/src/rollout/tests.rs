use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use kube::client::Body;

use super::plan::Kind;
use super::*;

fn asked(wave: usize) -> Asked {
    Asked {
        version: "0.2.0".to_owned(),
        namespaces: Vec::new(),
        all: false,
        wave,
        patience: Duration::from_secs(60),
        dry_run: false,
    }
}

fn owned(kind: &str, name: &str) -> Value {
    json!([{"kind": kind, "name": name, "controller": true}])
}

fn pod(name: &str, version: &str, owners: &Value) -> Value {
    json!({
        "metadata": {"name": name, "annotations": {"weft.dev/injected-by": version}, "ownerReferences": owners},
        "spec": {"initContainers": [{"name": "weft-proxy"}], "containers": [{"name": "a"}]},
    })
}

fn gathered() -> Gathered {
    let set =
        |name: &str| json!({"metadata": {"name": format!("{name}-1"), "ownerReferences": owned("Deployment", name)}});
    let mut bare = pod("bare", "", &owned("StatefulSet", "db"));
    bare["spec"]["initContainers"] = json!([]);
    let mut host = bare.clone();
    host["spec"]["hostNetwork"] = json!(true);
    host["metadata"]["ownerReferences"] = owned("DaemonSet", "host");
    Gathered {
        namespace: "shop".to_owned(),
        pods: vec![
            pod("cart-1-a", "0.1.0", &owned("ReplicaSet", "cart-1")),
            pod("cart-1-b", "0.1.0", &owned("ReplicaSet", "cart-1")),
            pod("new-1-a", "0.2.0", &owned("ReplicaSet", "new-1")),
            pod("held-1-a", "0.1.0", &owned("ReplicaSet", "held-1")),
            pod("by-hand", "0.1.0", &Value::Null),
            pod("batch-x", "0.1.0", &owned("Job", "batch")),
            bare,
            host,
        ],
        replica_sets: ["cart", "new", "held"].map(set).to_vec(),
        workloads: vec![
            (Kind::Deployment, json!({"metadata": {"name": "cart"}})),
            (Kind::Deployment, json!({"metadata": {"name": "held"}, "spec": {"paused": true}})),
            (Kind::StatefulSet, json!({"metadata": {"name": "db"}})),
        ],
    }
}

#[test]
fn workloads_with_another_proxy_or_none_are_restarted_once_each() {
    let Plan { restarted, left } = plan(&[gathered()], &asked(1));
    let names: Vec<String> = restarted.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["Deployment shop/cart", "StatefulSet shop/db"]);
    let left: Vec<(&str, bool)> = left.iter().map(|(what, why)| (what.as_str(), why.is_empty())).collect();
    assert_eq!(left, [("Deployment shop/held", false), ("Pod shop/batch-x", false), ("Pod shop/by-hand", false)]);
    let all = plan(&[gathered()], &Asked { all: true, ..asked(1) });
    assert!(all.restarted.iter().any(|workload| workload.name == "new"), "{all:?}");
}

#[test]
fn a_rollout_is_over_when_every_pod_is_new_ready_and_no_old_one_is_left() {
    let deployment = |status: Value| json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
    let waiting = |text: &str| Progress::Waiting(text.to_owned());
    for (kind, object, want) in [
        (
            Kind::Deployment,
            deployment(json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})),
            waiting("its controller has not seen it yet"),
        ),
        (
            Kind::Deployment,
            deployment(json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1})),
            waiting("1 of 2 pods are new"),
        ),
        (
            Kind::Deployment,
            deployment(json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2})),
            waiting("1 old pods end"),
        ),
        (
            Kind::Deployment,
            deployment(json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1})),
            waiting("1 of 2 pods are ready"),
        ),
        (
            Kind::Deployment,
            deployment(json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})),
            Progress::Ready,
        ),
        (
            Kind::DaemonSet,
            json!({"status": {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}}),
            waiting("2 of 3 pods are ready"),
        ),
        (Kind::DaemonSet, json!({"status": {"desiredNumberScheduled": 0}}), Progress::Ready),
        (
            Kind::StatefulSet,
            json!({"spec": {"replicas": 3}, "status": {"replicas": 3, "updatedReplicas": 2, "readyReplicas": 3}}),
            waiting("2 of 3 pods are new"),
        ),
        (
            Kind::StatefulSet,
            json!({"spec": {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 1}}}, "status": {"replicas": 3, "updatedReplicas": 2, "readyReplicas": 3}}),
            Progress::Ready,
        ),
    ] {
        assert_eq!(progress(kind, &object), want, "{object}");
    }
    let stuck = deployment(
        json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}),
    );
    assert!(matches!(progress(Kind::Deployment, &stuck), Progress::Stuck(_)));
}

/// What the API server was asked for, in order: restarts, and looks at a workload.
type Seen = Arc<Mutex<Vec<String>>>;

/// An API server with one namespace. A workload is ready when it was looked at twice after its restart, unless it is called `never`.
fn server(deployments: &'static [&'static str]) -> (Client, Seen) {
    let seen = Seen::default();
    let shared = Arc::clone(&seen);
    let service = tower::service_fn(move |request: Request<Body>| {
        let seen = Arc::clone(&shared);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let answer = answer(&parts, &body, deployments, &mut seen.lock().unwrap());
            Ok::<_, std::io::Error>(Response::new(Full::new(Bytes::from(answer.to_string()))))
        }
    });
    (Client::new(service, "default"), seen)
}

fn answer(parts: &http::request::Parts, body: &[u8], deployments: &[&str], seen: &mut Vec<String>) -> Value {
    let path = parts.uri.path();
    let list = |items: Vec<Value>| json!({"items": items});
    if let Some(name) = path.strip_prefix("/apis/apps/v1/namespaces/shop/deployments/") {
        let is_restart = parts.method == http::Method::PATCH;
        if is_restart {
            let patch: Value = serde_json::from_slice(body).unwrap();
            assert!(patch.pointer("/spec/template/metadata/annotations").unwrap()[RESTARTED].is_string(), "{patch}");
        }
        seen.push(format!("{} {name}", if is_restart { "restart" } else { "look" }));
        let looks = seen.iter().filter(|line| **line == format!("look {name}")).count();
        let ready = if looks >= 2 && name != "never" { 1 } else { 0 };
        return json!({"spec": {"replicas": 1}, "status": {"replicas": 1, "updatedReplicas": 1, "availableReplicas": ready}});
    }
    match path {
        "/api/v1/namespaces" => list(vec![
            json!({"metadata": {"name": "shop", "labels": {"weft.dev/inject": "enabled"}}}),
            json!({"metadata": {"name": "other"}}),
        ]),
        "/api/v1/namespaces/shop/pods" => {
            list(deployments.iter().map(|name| pod(name, "0.1.0", &owned("ReplicaSet", name))).collect())
        }
        "/apis/apps/v1/namespaces/shop/replicasets" => {
            let set = |name: &&str| json!({"metadata": {"name": name, "ownerReferences": owned("Deployment", name)}});
            list(deployments.iter().map(set).collect())
        }
        other if other.starts_with("/apis/apps/v1/namespaces/shop/") => list(Vec::new()),
        other => panic!("{other} was asked for"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_wave_begins_when_the_one_before_is_ready() {
    let (client, seen) = server(&["a", "b", "c"]);
    let said = Mutex::new(Vec::new());
    let say = |line: &str| {
        said.lock().unwrap().push(line.to_owned());
        Ok(())
    };
    run(&client, &asked(2), say).await.unwrap();
    let want = ["restart a", "restart b", "look a", "look b", "look a", "look b", "restart c", "look c", "look c"];
    assert_eq!(*seen.lock().unwrap(), want);
    let said = said.into_inner().unwrap();
    let want = [
        "wave 1 of 2: Deployment shop/a, Deployment shop/b",
        "wave 2 of 2: Deployment shop/c",
        "3 workloads restarted, 0 left alone",
    ];
    assert_eq!(said, want);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_become_ready_ends_it_and_nothing_after_it_is_restarted() {
    let (client, seen) = server(&["a", "never", "z"]);
    let error = run(&client, &asked(1), |_| Ok(())).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("wave 2 of 3") && text.contains("Deployment shop/never (0 of 1 pods are ready)"), "{text}");
    assert!(!seen.lock().unwrap().contains(&"restart z".to_owned()));
}

#[tokio::test]
async fn a_dry_run_restarts_nothing() {
    let (client, seen) = server(&["a"]);
    run(&client, &Asked { dry_run: true, ..asked(1) }, |_| Ok(())).await.unwrap();
    assert!(seen.lock().unwrap().is_empty());
}
