use serde_json::{Value, json};

use super::*;

fn pod(annotations: &Value, state: &Value) -> Pod {
    let status =
        json!({"name": "weft-init", "state": state, "restartCount": 0, "image": "", "imageID": "", "ready": false});
    let pod = json!({
        "metadata": {"name": "cart-0", "namespace": "shop", "uid": "u1", "annotations": annotations},
        "spec": {"containers": []},
        "status": {"phase": "Pending", "initContainerStatuses": [status]},
    });
    serde_json::from_value(pod).unwrap()
}

fn ours() -> Value {
    json!({"weft.dev/redirect": "cni skip-inbound-ports=22"})
}

fn running() -> Value {
    json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
}

#[test]
fn a_pod_whose_proof_is_not_there_yet_waits() {
    for (state, waits) in [
        (running(), true),
        (json!({"terminated": {"exitCode": 70}}), true),
        (json!({"terminated": {"exitCode": 0}}), false),
        (json!({"waiting": {"reason": "PodInitializing"}}), false),
    ] {
        assert_eq!(judge(&pod(&ours(), &state)).is_some(), waits, "{state}");
    }
    let mut crashing = pod(&ours(), &json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    crashing.status.as_mut().unwrap().init_container_statuses.as_mut().unwrap()[0].restart_count = 2;
    let waiting = judge(&crashing).unwrap();
    assert_eq!((waiting.namespace.as_str(), waiting.name.as_str(), waiting.begun), ("shop", "cart-0", 2));
    assert_eq!(waiting.options.unwrap().to_annotation(), "cni skip-inbound-ports=22");
}

#[test]
fn other_pods_are_let_be() {
    assert_eq!(judge(&pod(&json!({}), &running())), None);
    let change = |change: &dyn Fn(&mut Pod)| {
        let mut pod = pod(&ours(), &running());
        change(&mut pod);
        judge(&pod)
    };
    assert!(change(&|_| {}).is_some());
    assert_eq!(change(&|pod| pod.spec.as_mut().unwrap().host_network = Some(true)), None);
    assert_eq!(change(&|pod| pod.status.as_mut().unwrap().phase = Some("Failed".to_owned())), None);
    assert_eq!(change(&|pod| pod.status.as_mut().unwrap().init_container_statuses = None), None);
    let gone = json!("2026-01-01T00:00:00Z");
    assert_eq!(change(&|pod| pod.metadata.deletion_timestamp = serde_json::from_value(gone.clone()).unwrap()), None);
}

#[test]
fn options_that_make_no_sense_are_told() {
    let waiting = judge(&pod(&json!({"weft.dev/redirect": "cni all"}), &running())).unwrap();
    assert!(waiting.options.unwrap_err().contains("all"));
}

#[tokio::test(start_paused = true)]
async fn each_wait_is_looked_at_until_it_is_done() {
    let mut waits = Waits::default();
    let apply =
        |waits: &mut Waits, state: Value| waits.note(watcher::Event::Apply(pod(&ours(), &state)), Instant::now());
    apply(&mut waits, running());
    let first = waits.due(Instant::now()).unwrap();
    waits.settle(&first, &Outcome::Again(RETRY), Instant::now());
    assert_eq!(waits.due(Instant::now()), None);
    // The pod changes, and its wait is the same.
    apply(&mut waits, running());
    assert_eq!(waits.next(), Some(Instant::now() + RETRY));
    tokio::time::advance(RETRY).await;
    let again = waits.due(Instant::now()).unwrap();
    waits.settle(&again, &Outcome::Done, Instant::now());
    assert_eq!(waits.next(), None);
    // It has proven it.
    apply(&mut waits, json!({"terminated": {"exitCode": 0}}));
    assert!(waits.pods.is_empty());
    // A list that does not name a pod says that it is gone.
    apply(&mut waits, running());
    waits.note(watcher::Event::Init, Instant::now());
    waits.note(watcher::Event::InitDone, Instant::now());
    assert!(waits.pods.is_empty());
}
