use super::*;
use crate::values::Layer;

fn with(sets: &[&str]) -> Vec<Value> {
    let layers: Vec<Layer> = sets.iter().map(|text| Layer::set(text).unwrap()).collect();
    manifests(&Values::read(layers).unwrap().0).into_iter().map(|manifest| manifest.object).collect()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

#[test]
fn the_defaults_are_highly_available_and_locked_down() {
    let objects = with(&[]);
    for name in ["weft-control-plane", "weft-injector"] {
        let deployment = find(&objects, "Deployment", name).unwrap();
        assert_eq!(deployment["spec"]["replicas"], 2, "{name}");
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["priorityClassName"], "system-cluster-critical");
        assert!(pod.pointer("/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0").is_some());
        let security = &pod["containers"][0]["securityContext"];
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"], serde_json::json!({"drop": ["ALL"]}));
        assert_eq!(find(&objects, "PodDisruptionBudget", name).unwrap()["spec"]["maxUnavailable"], 1);
    }
    assert!(find(&objects, "HorizontalPodAutoscaler", "weft-control-plane").is_none());
    assert!(!objects.iter().any(|object| object["kind"] == "PriorityClass"));
}

#[test]
fn every_value_reaches_an_object() {
    let default = with(&[]);
    for set in [
        "trustDomain=example.org",
        "images.controlPlane=a/b:1",
        "images.proxy=a/c:1",
        "images.pullPolicy=Always",
        "images.pullSecrets=[{name: registry}]",
        "controlPlane.replicas=3",
        "controlPlane.log=debug",
        "controlPlane.resources.limits.cpu=2",
        "controlPlane.leafLifetime=1h",
        "controlPlane.issuerSecret=weft-issuer",
        "controlPlane.networks=[10.0.0.0/8]",
        "controlPlane.reservedNetworks=[10.0.0.0/8]",
        "controlPlane.nodeSelector.a=b",
        "controlPlane.tolerations=[{operator: Exists}]",
        "controlPlane.autoscaling.enabled=true",
        "injector.replicas=3",
        "injector.sidecar=ordinary",
        "injector.log=debug",
        "injector.resources.requests.cpu=2",
        "injector.nodeSelector.a=b",
        "injector.tolerations=[{operator: Exists}]",
        "cni.enabled=true",
        "priorityClass.name=other",
        "disruptionBudgets.enabled=false",
    ] {
        assert_ne!(with(&[set]), default, "{set}");
    }
    let plugged = |set: &'static str| with(&["cni.enabled=true", set]);
    for set in [
        "images.cni=a/d:1",
        "images.pullPolicy=Always",
        "images.pullSecrets=[{name: registry}]",
        "cni.binDir=/usr/lib/cni",
        "cni.confDir=/etc/kubernetes/cni/net.d",
        "cni.log=debug",
        "cni.resources.limits.cpu=2",
        "cni.nodeSelector.a=b",
        "cni.tolerations=[]",
    ] {
        let daemon_set = |objects: &[Value]| find(objects, "DaemonSet", "weft-cni").cloned().unwrap();
        let account = |objects: &[Value]| find(objects, "ServiceAccount", "weft-cni").cloned().unwrap();
        let (with, without) = (plugged(set), plugged("injector.log=debug"));
        assert_ne!((daemon_set(&with), account(&with)), (daemon_set(&without), account(&without)), "{set}");
    }
    let scaled = |set: &'static str| with(&["controlPlane.autoscaling.enabled=true", set]);
    for set in
        ["minReplicas=3", "maxReplicas=9", "cpuPercent=50"].map(|rest| format!("controlPlane.autoscaling.{rest}"))
    {
        let set: &'static str = Box::leak(set.into_boxed_str());
        assert_ne!(scaled(set), scaled("controlPlane.log=info"), "{set}");
    }
}

#[test]
fn the_cni_plugin_is_told_of_to_the_injector_and_runs_on_every_node() {
    let text = Value::from(with(&[])).to_string();
    assert!(!text.contains("DaemonSet") && !text.contains("WEFT_REDIRECT"), "{text}");
    let objects = with(&["cni.enabled=true"]);
    let injector = find(&objects, "Deployment", "weft-injector").unwrap();
    let env = injector["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    assert!(env.contains(&serde_json::json!({"name": "WEFT_REDIRECT", "value": "cni"})), "{env:?}");
    let pod = &find(&objects, "DaemonSet", "weft-cni").unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["tolerations"], serde_json::json!([{"operator": "Exists"}]));
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(
        (&security["privileged"], &security["capabilities"]["drop"]),
        (&Value::Null, &serde_json::json!(["ALL"]))
    );
    let level = "/metadata/labels/pod-security.kubernetes.io~1enforce";
    assert_eq!(find(&objects, "Namespace", "weft-system").unwrap().pointer(level).unwrap(), "restricted");
}

/// What the issuer of somebody else takes: in the container, and in the role.
fn of_issuer(objects: &[Value]) -> (Value, Value) {
    let deployment = find(objects, "Deployment", "weft-control-plane").unwrap();
    let role = find(objects, "Role", "weft-control-plane").unwrap();
    (deployment["spec"]["template"]["spec"]["containers"][0].clone(), role["rules"].clone())
}

#[test]
fn the_issuer_of_somebody_else_is_read_and_nothing_more() {
    let (container, rules) = of_issuer(&with(&["controlPlane.issuerSecret=weft-issuer"]));
    let variable = serde_json::json!({"name": "WEFT_ISSUER_SECRET", "value": "weft-issuer"});
    assert!(container["env"].as_array().unwrap().contains(&variable));
    assert_eq!(container["startupProbe"]["httpGet"]["path"], "/live");
    let rule = serde_json::json!({
        "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["weft-issuer"], "verbs": ["get"],
    });
    assert!(rules.as_array().unwrap().contains(&rule));
    let (container, rules) = of_issuer(&with(&[]));
    assert_eq!(container["startupProbe"]["httpGet"], serde_json::json!({"path": "/ready", "port": "admin"}));
    assert!(!format!("{container}{rules}").contains("issuer"));
}

/// The component for Kustomize, by hand, does what the value does.
#[test]
fn the_component_of_the_issuer_gives_what_the_value_gives() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/issuer/kustomization.yaml");
    let component: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut patched = with(&[]);
    for patch in component["patches"].as_array().unwrap() {
        let (kind, name) = (patch["target"]["kind"].as_str().unwrap(), patch["target"]["name"].as_str().unwrap());
        let object =
            patched.iter_mut().find(|object| object["kind"] == kind && object["metadata"]["name"] == name).unwrap();
        let operations: Vec<Value> = serde_saphyr::from_str(patch["patch"].as_str().unwrap()).unwrap();
        for operation in operations {
            let (place, last) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
            let place = object.pointer_mut(place).unwrap();
            match last {
                "-" => place.as_array_mut().unwrap().push(operation["value"].clone()),
                name => place[name] = operation["value"].clone(),
            }
        }
    }
    let wanted = with(&["controlPlane.issuerSecret=weft-issuer"]);
    for kind in ["Deployment", "Role"] {
        // The order of variables and of rules means nothing.
        let sorted = |objects: &[Value]| {
            let mut object = find(objects, kind, "weft-control-plane").unwrap().clone();
            for list in ["/rules", "/spec/template/spec/containers/0/env"] {
                if let Some(list) = object.pointer_mut(list).and_then(Value::as_array_mut) {
                    list.sort_by_key(Value::to_string);
                }
            }
            object
        };
        assert_eq!(sorted(&patched), sorted(&wanted), "{kind}");
    }
}

#[test]
fn an_autoscaler_decides_alone_how_many_there_are() {
    let objects = with(&["controlPlane.autoscaling.enabled=true"]);
    let scaler = find(&objects, "HorizontalPodAutoscaler", "weft-control-plane").unwrap();
    assert_eq!((&scaler["spec"]["minReplicas"], &scaler["spec"]["maxReplicas"]), (&2.into(), &5.into()));
    assert!(find(&objects, "Deployment", "weft-control-plane").unwrap()["spec"].get("replicas").is_none());
}

#[test]
fn a_priority_class_of_its_own_is_made_and_used() {
    let objects = with(&["priorityClass={name: weft, create: true, value: 5}"]);
    assert_eq!(find(&objects, "PriorityClass", "weft").unwrap()["value"], 5);
    let pod = &find(&objects, "Deployment", "weft-injector").unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["priorityClassName"], "weft");
}

#[test]
fn what_was_set_is_remembered_and_definitions_come_first() {
    let (values, set) = Values::read([Layer::set("controlPlane.replicas=3").unwrap()]).unwrap();
    let all = installed(&values, &set);
    assert_eq!(all[0].object["kind"], "CustomResourceDefinition");
    let record = all.last().unwrap();
    let again = Layer::file(record.object["data"][RECORD_VALUES].as_str().unwrap()).unwrap();
    assert_eq!(Values::read([again]).unwrap(), (values, set));
    let (values, set) = Values::read([Layer::set("crds.enabled=false").unwrap()]).unwrap();
    assert!(installed(&values, &set).iter().all(|manifest| manifest.object["kind"] != "CustomResourceDefinition"));
}

#[test]
fn nothing_is_left_unfilled() {
    for (name, text) in base() {
        assert!(!text.contains("${") && !text.contains('?'), "{name}: {text}");
    }
}
