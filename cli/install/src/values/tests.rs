use super::*;

fn read(sets: &[&str]) -> Result<Values, String> {
    let layers: Result<Vec<Layer>, _> = sets.iter().map(|text| Layer::set(text)).collect();
    let read = layers.and_then(Values::read);
    read.map(|(values, _)| values).map_err(|error| error.to_string())
}

#[test]
fn what_is_set_lies_over_the_defaults_maps_into_maps() {
    let file = Layer::file("controlPlane: {replicas: 3, resources: {limits: {cpu: 1}}}\n").unwrap();
    let set = Layer::set("controlPlane.replicas=4").unwrap();
    let (values, changed) = Values::read([file, set]).unwrap();
    let limits = &values.control_plane.resources.limits;
    assert_eq!((values.control_plane.replicas, limits.len()), (4, 2), "{limits:?}");
    assert_eq!(limits["cpu"], Quantity::Number(1));
    assert_eq!(changed, serde_json::json!({"controlPlane": {"replicas": 4, "resources": {"limits": {"cpu": 1}}}}));
    assert_eq!(Values::read([]).unwrap().0, Values::default());
}

#[test]
fn a_value_may_be_any_yaml_and_null_takes_away() {
    let values = read(&[
        "controlPlane.networks=[10.0.0.0/8, fd00::/8]",
        "controlPlane.nodeSelector.kubernetes\\.io/arch=amd64",
        "controlPlane.resources.limits.memory=null",
        "controlPlane.issuerSecret=\"\"",
    ])
    .unwrap();
    assert_eq!(values.control_plane.issuer_secret.as_str(), "");
    assert_eq!(values.control_plane.networks.len(), 2);
    assert_eq!(values.control_plane.node_selector["kubernetes.io/arch"], "amd64");
    assert!(values.control_plane.resources.limits.is_empty());
}

#[test]
fn what_makes_no_sense_is_refused_with_its_key() {
    for (set, want) in [
        ("controlPlane.replica=3", "controlPlane.replica: unknown field"),
        ("controlplane.replicas=3", "controlplane: unknown field"),
        ("controlPlane.replicas=many", "controlPlane.replicas: invalid type"),
        ("controlPlane.replicas=0", "controlPlane.replicas: 0 is not between"),
        ("controlPlane.replicas=-1", "controlPlane.replicas: invalid value"),
        ("controlPlane.replicas=null", "controlPlane.replicas: missing field"),
        ("controlPlane.leafLifetime=soon", "controlPlane.leafLifetime: \"soon\" is not a length of time"),
        ("controlPlane.issuerSecret=Weft", "controlPlane.issuerSecret: \"Weft\" is not a name"),
        ("controlPlane.issuerSecret=weft-authority", "controlPlane.issuerSecret: weft-authority is a Secret that Weft"),
        ("controlPlane.networks=[10.0.0.0/33]", "controlPlane.networks[0]: \"10.0.0.0/33\" is not a network"),
        ("controlPlane.resources.limits.memory=1GB", "controlPlane.resources.limits.memory: \"1GB\" is not a quantity"),
        ("controlPlane.resources.limits.cpu=-1", "controlPlane.resources.limits.cpu: -1 is not a quantity"),
        ("controlPlane.autoscaling.minReplicas=9", "controlPlane.autoscaling.minReplicas: 9 is more than"),
        ("controlPlane.autoscaling.cpuPercent=0", "controlPlane.autoscaling.cpuPercent: 0 is not"),
        ("images.pullPolicy=Sometimes", "images.pullPolicy: unknown variant"),
        ("images.proxy=weft proxy", "images.proxy: \"weft proxy\" is not the name of an image"),
        ("trustDomain=Cluster", "trustDomain: \"Cluster\" is not a trust domain"),
        ("injector.log={{ x }}", "injector.log"),
        ("priorityClass.create=true", "priorityClass.create: system-cluster-critical is Kubernetes' own"),
        ("priorityClass.value=1000000001", "priorityClass.value: 1000000001 is more"),
        ("crds=true", "crds: invalid type"),
        ("=1", ": is not a key"),
        ("controlPlane..replicas=1", "controlPlane..replicas: is not a key"),
        ("controlPlane.replicas", "controlPlane.replicas: is not KEY=VALUE"),
        ("trustDomain=[", "trustDomain: not YAML"),
    ] {
        let error = read(&[set]).unwrap_err();
        assert!(error.starts_with(want), "{set}: {error}");
    }
    assert!(Layer::file("- a").is_err());
    assert!(Layer::file("").is_ok());
}
