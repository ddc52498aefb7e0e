use serde_json::{Value, json};

use weft_model::kubernetes::NotInjected;

use super::{INIT_CONTAINER, Installation, Outcome, PROXY_CONTAINER, Redirect, Sidecar, inject, inject_salted};

fn installation() -> Installation {
    Installation {
        image: "weft.test/weft:1".to_owned(),
        control_plane: "weft-control-plane.weft-system.svc:14010".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        ..Installation::default()
    }
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "cart-0", "labels": {"app": "cart"}},
        "spec": {
            "ofANewerVersion": {"kept": true},
            "initContainers": [{"name": "migrate", "image": "cart:1"}],
            "containers": [{"name": "cart", "image": "cart:1"}],
        },
    })
}

fn injected(pod: &Value) -> Value {
    match inject(pod, &installation()) {
        Ok(Outcome::Injected(pod)) => pod,
        other => panic!("{other:?}"),
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect()
}

#[test]
fn the_proxy_comes_first_and_the_rest_stays_as_it_was() {
    let with = injected(&pod());
    assert_eq!(names(&with["spec"]["initContainers"]), [PROXY_CONTAINER, INIT_CONTAINER, "migrate"]);
    assert_eq!(names(&with["spec"]["containers"]), ["cart"]);
    let proxy = &with["spec"]["initContainers"][0];
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["securityContext"]["runAsUser"], 2140);
    assert_eq!(proxy["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    // Without what was added it is what was written.
    let mut without = with.clone();
    without["spec"]["initContainers"].as_array_mut().unwrap().drain(..2);
    without["spec"].as_object_mut().unwrap().remove("volumes");
    without["metadata"].as_object_mut().unwrap().remove("annotations");
    assert_eq!(without, pod());
    // Every volume that is mounted is there.
    let volumes = names(&with["spec"]["volumes"]);
    assert!(names(&proxy["volumeMounts"]).iter().all(|mounted| volumes.contains(mounted)), "{volumes:?}");
}

#[test]
fn a_pod_is_injected_once() {
    let once = injected(&pod());
    assert_eq!(inject(&once, &installation()), Ok(Outcome::Skipped(NotInjected::HasProxy)));
}

#[test]
fn some_pods_are_left_alone() {
    for (pointer, value, why) in [
        ("/metadata/labels", json!({"weft.dev/inject": "disabled"}), NotInjected::Disabled),
        ("/metadata/annotations", json!({"kubernetes.io/config.mirror": "1"}), NotInjected::Static),
        ("/spec/hostNetwork", json!(true), NotInjected::HostNetwork),
    ] {
        let mut pod = pod();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[name] = value;
        assert_eq!(inject(&pod, &installation()), Ok(Outcome::Skipped(why)), "{pointer}");
        assert!(!why.as_str().is_empty());
    }
}

#[test]
fn settings_of_the_pod_reach_the_containers() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "config.weft.dev/skip-inbound-ports": "9100",
        "config.weft.dev/proxy-cpu-limit": "2",
        "config.weft.dev/log-level": "debug",
    });
    let with = injected(&pod);
    let [proxy, init] = [0, 1].map(|i| &with["spec"]["initContainers"][i]);
    let skips = json!({"name": "WEFT_SKIP_INBOUND_PORTS", "value": "9100"});
    assert_eq!(init["env"], json!([skips, {"name": "WEFT_UNTIL_READY", "value": "true"}]));
    assert_eq!(proxy.get("startupProbe"), None, "the other waits for it");
    assert_eq!(proxy["resources"]["limits"]["cpu"], "2");
    assert!(proxy["env"].as_array().unwrap().contains(&json!({"name": "WEFT_LOG", "value": "debug"})));
}

#[test]
fn with_the_cni_plugin_no_container_may_change_the_network() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"config.weft.dev/skip-outbound-ports": "25, 9000-9001"});
    let installation = Installation { redirect: Redirect::Cni, ..installation() };
    let Ok(Outcome::Injected(with)) = inject(&pod, &installation) else { panic!("it is injected") };
    assert_eq!(with["metadata"]["annotations"]["weft.dev/redirect"], "cni skip-outbound-ports=25,9000-9001");
    let init = &with["spec"]["initContainers"][0];
    assert_eq!(names(&with["spec"]["initContainers"]), [INIT_CONTAINER, PROXY_CONTAINER, "migrate"]);
    assert_eq!(init["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(
        (&init["securityContext"]["runAsNonRoot"], &init["securityContext"]["runAsUser"]),
        (&json!(true), &json!(65532))
    );
    assert!(init["env"].as_array().unwrap().contains(&json!({"name": "WEFT_PROVE_CAPTURE", "value": "true"})));
    assert!(!with.to_string().contains("NET_ADMIN"));
    // What it says of itself reaches only who would set the redirect.
    pod["metadata"]["annotations"] = json!({"weft.dev/redirect": "cni skip-inbound-ports=1-65535"});
    assert_eq!(injected(&pod)["metadata"]["annotations"].get("weft.dev/redirect"), None);
    let Ok(Outcome::Injected(with)) = inject(&pod, &installation) else { panic!("it is injected") };
    assert_eq!(with["metadata"]["annotations"]["weft.dev/redirect"], "cni");
}

#[test]
fn an_ordinary_proxy_is_the_first_container_and_the_others_wait_for_it() {
    let installation = Installation { sidecar: Sidecar::Ordinary, ..installation() };
    let with = |pod: &Value, installation: &Installation| match inject(pod, installation) {
        Ok(Outcome::Injected(pod)) => pod,
        other => panic!("{other:?}"),
    };
    let whole = with(&pod(), &installation);
    assert_eq!(names(&whole["spec"]["initContainers"]), ["migrate", INIT_CONTAINER]);
    assert_eq!(names(&whole["spec"]["containers"]), [PROXY_CONTAINER, "cart"]);
    let proxy = &whole["spec"]["containers"][0];
    assert_eq!(proxy.get("restartPolicy"), None);
    let command = |pod: &Value, hook: &str| pod["lifecycle"][hook]["exec"]["command"].clone();
    assert_eq!(command(proxy, "postStart"), json!(["/weft-init", "--await-proxy", "--wait=120"]));
    assert_eq!(command(proxy, "preStop"), json!(["/weft-init", "--linger", "--wait=5"]));
    assert_eq!(inject(&whole, &installation), Ok(Outcome::Skipped(NotInjected::HasProxy)));
    // A pod that has little time keeps some for the drain.
    let mut hasty = pod();
    hasty["spec"]["terminationGracePeriodSeconds"] = json!(1);
    assert_eq!(command(&with(&hasty, &installation)["spec"]["containers"][0], "preStop"), Value::Null);
    // The pod has the last word.
    let mut own = pod();
    own["metadata"]["annotations"] = json!({"config.weft.dev/sidecar": "native"});
    assert_eq!(with(&own, &installation)["spec"]["initContainers"][0]["restartPolicy"], "Always");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_field() {
    let mut bad = pod();
    bad["metadata"]["annotations"] = json!({"config.weft.dev/proxy-cpu-limit": "much"});
    let problems = inject(&bad, &installation()).unwrap_err();
    assert_eq!(problems[0].field, "metadata.annotations[config.weft.dev/proxy-cpu-limit]");
    let mut ours = pod();
    ours["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 2140});
    assert_eq!(inject(&ours, &installation()).unwrap_err()[0].field, "spec.containers[0].securityContext.runAsUser");
    assert!(inject(&json!({"metadata": {}}), &installation()).is_err());
}

#[test]
fn the_proxy_is_told_what_it_performs_and_only_a_salt_makes_a_key_anew() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 3306}});
    pod["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"httpGet": {"port": 8080, "path": "/bye"}}});
    let hook = |pod: &Value| pod["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]["path"].clone();
    let with = injected(&pod);
    let env = with["spec"]["initContainers"][0]["env"].as_array().unwrap();
    let told = env.iter().find(|it| it["name"] == "WEFT_PROBES").unwrap()["value"].as_str().unwrap();
    let paths: Vec<String> = weft_model::probes::Probes::parse(told).unwrap().iter().map(|it| it.path()).collect();
    assert_eq!(paths, ["/probe/cart/readiness", hook(&with).as_str().unwrap()]);
    assert_eq!(hook(&with), hook(&injected(&pod)), "the same for the same");
    let Ok(Outcome::Injected(salted)) = inject_salted(&pod, &installation(), "1") else { panic!("it is injected") };
    assert_ne!(hook(&with), hook(&salted));
}
