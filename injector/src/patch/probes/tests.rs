use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn spec(container: Value) -> Map<String, Value> {
    let mut container = container;
    container["name"] = json!("cart");
    container["ports"] = json!([{"name": "api", "containerPort": 8080}, {"name": "db", "containerPort": 3306}]);
    let spec = json!({"terminationGracePeriodSeconds": 45, "containers": [container]});
    spec.as_object().unwrap().clone()
}

/// What the pod says afterwards, and what the proxy is told.
fn rewritten(mut spec: Map<String, Value>, settings: &PodSettings) -> (Value, Probes) {
    let told = rewrite(&mut spec, settings, KEY).unwrap().unwrap_or_default();
    (Value::Object(spec), Probes::parse(&told.replace("$$", "$")).unwrap())
}

fn get(port: u16, tls: bool, path: &str) -> Action {
    Action::Http(HttpGet { port, tls, path: path.to_owned(), headers: Vec::new() })
}

#[test]
fn every_kind_of_probe_becomes_what_it_has_to() {
    let grpc = |port, service: &str| Action::Grpc { port, service: service.to_owned() };
    for (handler, want) in [
        (json!({"tcpSocket": {"port": 3306}}), Some(Action::Tcp { port: 3306 })),
        (json!({"tcpSocket": {"port": "db"}}), Some(Action::Tcp { port: 3306 })),
        (json!({"tcpSocket": {"port": "8081"}}), Some(Action::Tcp { port: 8081 })),
        (json!({"grpc": {"port": 9000}}), Some(grpc(9000, ""))),
        (json!({"grpc": {"port": 9000, "service": "shop.Cart"}}), Some(grpc(9000, "shop.Cart"))),
        (json!({"grpc": {"port": 9000, "service": null}}), Some(grpc(9000, ""))),
        (json!({"httpGet": {"port": "api", "scheme": "HTTPS"}}), Some(get(8080, true, "/"))),
        (json!({"httpGet": {"port": 1, "scheme": "HTTPS", "path": "ok?a=b c#d"}}), Some(get(1, true, "/ok?a=b%20c"))),
        (json!({"httpGet": {"port": 1, "scheme": "HTTPS", "path": "/é{}%2f"}}), Some(get(1, true, "/%C3%A9%7B%7D%2f"))),
        // As it was.
        (json!({"exec": {"command": ["true"]}}), None),
        (json!({"tcpSocket": {"port": 3306, "host": "192.0.2.1"}}), None),
        (json!({"httpGet": {"port": 1, "scheme": "HTTPS", "host": "cart.example"}}), None),
        (json!({"tcpSocket": {"port": "nobody's"}}), None),
        (json!({"tcpSocket": {"port": 0}}), None),
        (json!({"tcpSocket": {"port": 65536}}), None),
        (json!({"tcpSocket": {"port": 14003}}), None),
        (json!({"tcpSocket": null, "periodSeconds": 3}), None),
        (json!({}), None),
    ] {
        let before = spec(json!({"readinessProbe": handler}));
        let (after, told) = rewritten(before, &PodSettings::default());
        assert_eq!(told.iter().map(|probe| probe.action.clone()).next(), want, "{handler}");
        let want = match want {
            Some(_) => json!({"httpGet": {"path": "/probe/cart/readiness", "port": 14003, "scheme": "HTTP"}}),
            None => handler.clone(),
        };
        assert_eq!(after["containers"][0]["readinessProbe"], want, "{handler}");
    }
}

#[test]
fn a_plain_probe_stays_and_the_proxy_is_told_of_it() {
    let plain = json!({"httpGet": {"port": "api", "path": "/healthz?full=1"}});
    let (after, told) = rewritten(spec(json!({"readinessProbe": plain})), &PodSettings::default());
    assert_eq!(after["containers"][0]["readinessProbe"], plain);
    assert_eq!(
        told.iter().map(|probe| probe.action.clone()).collect::<Vec<_>>(),
        [get(8080, false, "/healthz?full=1")]
    );
    // What it cannot be told of does not matter: it is only needed for redirects.
    let long = json!({"httpGet": {"port": 1, "path": "a".repeat(2000)}});
    let (after, told) = rewritten(spec(json!({"readinessProbe": long})), &PodSettings::default());
    assert!(after["containers"][0]["readinessProbe"] == long && told.is_empty());
    // Nor if it is all too much.
    let header = json!({"name": "x", "value": "a".repeat(4000)});
    let many = json!({"port": 1, "httpHeaders": vec![header; 20]});
    let probes = json!({"readinessProbe": {"httpGet": many}, "livenessProbe": {"tcpSocket": {"port": 1}}});
    let (_, told) = rewritten(spec(probes), &PodSettings::default());
    assert_eq!(told.iter().map(Probe::path).collect::<Vec<_>>(), ["/probe/cart/liveness"]);
}

#[test]
fn all_else_of_a_probe_stays_and_its_timeout_is_told() {
    let probe = json!({
        "tcpSocket": {"port": 1}, "timeoutSeconds": 7, "periodSeconds": 3, "failureThreshold": 9,
        "initialDelaySeconds": 1, "terminationGracePeriodSeconds": 5, "ofANewerVersion": true,
    });
    let (after, told) = rewritten(
        spec(json!({"livenessProbe": probe, "startupProbe": {"tcpSocket": {"port": 2}}})),
        &PodSettings::default(),
    );
    let mut want = probe;
    want.as_object_mut().unwrap().remove("tcpSocket");
    want["httpGet"] = json!({"path": "/probe/cart/liveness", "port": 14003, "scheme": "HTTP"});
    assert_eq!(after["containers"][0]["livenessProbe"], want);
    let told: Vec<_> = told.iter().map(|probe| (probe.occasion, probe.timeout.as_secs())).collect();
    assert_eq!(told, [(Occasion::Liveness, 7), (Occasion::Startup, 1)]);
}

#[test]
fn hooks_need_a_key_and_have_the_time_that_the_kubelet_gives_them() {
    let headers = json!([{"name": "X-A", "value": "$(A)"}]);
    let lifecycle = json!({
        "postStart": {"httpGet": {"port": "api", "path": "/hello"}},
        "preStop": {"httpGet": {"port": 8443, "path": "/bye", "scheme": "HTTPS", "httpHeaders": headers}},
    });
    let mut before = spec(json!({"lifecycle": lifecycle}));
    let (after, told) = rewritten(before.clone(), &PodSettings::default());
    let path = |occasion: &str| after["containers"][0]["lifecycle"][occasion]["httpGet"]["path"].clone();
    assert_eq!(path("postStart"), format!("/probe/cart/postStart/{KEY}"));
    assert_eq!(path("preStop"), format!("/probe/cart/preStop/{KEY}"));
    let told: Vec<_> = told.iter().map(|probe| (probe.action.clone(), probe.timeout.as_secs())).collect();
    let bye = HttpGet {
        port: 8443,
        tls: true,
        path: "/bye".to_owned(),
        headers: vec![("X-A".to_owned(), "$(A)".to_owned())],
    };
    assert_eq!(told, [(get(8080, false, "/hello"), 3600), (Action::Http(bye), 45)]);
    // Kubernetes must not read a variable's name in what it hands on.
    assert!(rewrite(&mut before, &PodSettings::default(), KEY).unwrap().unwrap().contains("$$(A)"));
    let others = json!({"postStart": {"exec": {"command": ["a"]}}, "preStop": {"sleep": {"seconds": 1}}});
    let mut before = spec(json!({"lifecycle": others}));
    assert_eq!(rewrite(&mut before, &PodSettings::default(), KEY), Ok(None));
    assert_eq!(Value::Object(before)["containers"][0]["lifecycle"], others);
}

#[test]
fn sidecars_are_containers_and_init_containers_are_not() {
    let probe = || json!({"tcpSocket": {"port": 1}});
    let mut before = spec(json!({}));
    before.insert(
        "initContainers".to_owned(),
        json!([
            {"name": "log", "restartPolicy": "Always", "startupProbe": probe()},
            {"name": "migrate", "startupProbe": probe()},
        ]),
    );
    let (after, told) = rewritten(before, &PodSettings::default());
    assert_eq!(told.iter().map(Probe::path).collect::<Vec<_>>(), ["/probe/log/startup"]);
    assert_eq!(after["initContainers"][1]["startupProbe"], probe());
}

#[test]
fn settings_say_what_is_left_alone() {
    let probes = json!({
        "livenessProbe": {"tcpSocket": {"port": 3306}},
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/ok", "httpHeaders": [{"name": "Host", "value": "a"}]}},
        "startupProbe": {"grpc": {"port": 9000}},
    });
    let skip = |ports: &str| PodSettings {
        skip_inbound_ports: ports.split(',').map(|range| range.parse().unwrap()).collect(),
        ..PodSettings::default()
    };
    let how = |rewrite_probes| PodSettings { rewrite_probes, ..PodSettings::default() };
    for (settings, want) in [
        (skip("3306,9001-9002"), vec!["startupProbe"]),
        (skip("9000-9002"), vec!["livenessProbe"]),
        (how(Rewrite::None), vec![]),
        (how(Rewrite::All), vec!["livenessProbe", "readinessProbe", "startupProbe"]),
    ] {
        let (after, told) = rewritten(spec(probes.clone()), &settings);
        let container = &after["containers"][0];
        let turned = |field: &&str| container[field]["httpGet"]["port"] == 14003;
        let fields: Vec<&str> =
            ["livenessProbe", "readinessProbe", "startupProbe"].into_iter().filter(turned).collect();
        assert_eq!(fields, want, "{settings:?}");
        assert_eq!(told.is_empty(), settings.rewrite_probes == Rewrite::None, "{settings:?}");
    }
}

#[test]
fn what_cannot_be_told_is_refused() {
    let long = format!("/{}", "a".repeat(2000));
    let mut before = spec(json!({"readinessProbe": {"httpGet": {"port": 1, "scheme": "HTTPS", "path": long}}}));
    let problems = rewrite(&mut before, &PodSettings::default(), KEY).unwrap_err();
    let text = problems[0].to_string();
    assert!(text.contains("readiness of container \"cart\"") && text.contains("rewrite-probes: none"), "{text}");
}

#[test]
fn a_key_depends_on_the_pod_and_on_the_salt() {
    let (a, b) = (json!({"a": 1}), json!({"a": 2}));
    assert_eq!(key(&a, ""), key(&a, ""));
    assert!(key(&a, "") != key(&b, "") && key(&a, "") != key(&a, "salt"));
    assert_eq!(key(&a, "").len(), 32);
}
