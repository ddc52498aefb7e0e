use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A certificate and its own authority's, PEM, that end in some days.
fn certificates(days: u64) -> (String, String) {
    let date = |params: &mut rcgen::CertificateParams| {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + std::time::Duration::from_secs(NOW - 100 * DAY);
        params.not_after = epoch + std::time::Duration::from_secs(NOW + days * DAY - 50 * DAY);
    };
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    date(&mut params);
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::from_params(&params, &key);
    let leaf_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec!["weft-injector.weft-system.svc".to_owned()]).unwrap();
    date(&mut leaf);
    (leaf.signed_by(&leaf_key, &issuer).unwrap().pem(), authority)
}

fn base64(text: &str) -> Value {
    serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap()
}

fn deployment(ready: u64) -> Fact {
    Fact::There(json!({
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": "weft/control-plane:9.9.9"}]}}},
        "status": {"readyReplicas": ready, "updatedReplicas": 2},
    }))
}

fn pod(name: &str, version: &str) -> Value {
    json!({
        "metadata": {"name": name, "annotations": {"weft.dev/injected-by": version}},
        "spec": {"initContainers": [{"name": "weft-proxy"}], "containers": [{"name": "a"}]},
        "status": {"phase": "Running"},
    })
}

fn labelled(name: &str, anchors: &str, pods: &[Value]) -> Labelled {
    Labelled {
        namespace: json!({"metadata": {"name": name, "labels": {"weft.dev/inject": "enabled"}}}),
        bundle: Fact::There(json!({"data": {"anchors.pem": anchors}})),
        pods: Fact::There(json!({"items": pods})),
    }
}

/// A cluster on which nothing is wrong.
fn healthy() -> Facts {
    let (leaf, authority) = certificates(140);
    let (_, anchor) = certificates(3650);
    let hook = json!({"name": "a", "failurePolicy": "Fail", "clientConfig": {"caBundle": base64(&authority)}});
    let node = json!({"operatingSystem": "linux", "kubeletVersion": "v1.34.2", "kernelVersion": "6.8.0-31-generic"});
    Facts {
        now_unix_s: NOW,
        version: Fact::There(json!({"gitVersion": "v1.34.2"})),
        nodes: Fact::There(json!({"items": [{"metadata": {"name": "one"}, "status": {"nodeInfo": node}}]})),
        rights: vec![("create namespaces".to_owned(), Ok(true))],
        http_route: http_route("v1.6.3", "standard"),
        cilium: Fact::Missing,
        felix: Fact::Missing,
        kube_proxy: Fact::There(json!({"data": {"config.conf": "mode: nftables\n"}})),
        definitions: weft_install::objects::definitions()
            .into_iter()
            .map(|it| (it["metadata"]["name"].as_str().unwrap().to_owned(), Fact::There(served(it))))
            .collect(),
        control_plane: deployment(2),
        injector: deployment(2),
        cni: Fact::Missing,
        webhook: Fact::There(json!({"webhooks": [hook]})),
        webhook_secret: Fact::There(json!({"data": {"tls.crt": base64(&leaf)}})),
        issuer_expiry: Fact::There(json!({"end": NOW + 300 * DAY, "overdue": NOW + 240 * DAY})),
        issuer_secret: Fact::There(Value::Null),
        record: Fact::There(json!({"data": {"version": VERSION}})),
        namespaces: Ok(vec![labelled("shop", &anchor, &[pod("cart", VERSION)]), labelled("empty", &anchor, &[])]),
    }
}

fn http_route(version: &str, channel: &str) -> Fact {
    Fact::There(json!({
        "metadata": {"annotations": {
            "gateway.networking.k8s.io/bundle-version": version, "gateway.networking.k8s.io/channel": channel,
        }},
        "spec": {"versions": [{"name": "v1beta1", "served": true}, {"name": "v1", "served": true}]},
    }))
}

/// A definition as an API server hands it back: with what it adds.
fn served(mut definition: Value) -> Value {
    definition["spec"]["conversion"] = json!({"strategy": "None"});
    definition["status"] = json!({});
    definition
}

fn config(name: &str, value: &str) -> Fact {
    Fact::There(json!({"data": {name: value}}))
}

/// What one check says after a change to the healthy cluster.
fn said(name: &str, change: impl FnOnce(&mut Facts)) -> Verdict {
    let mut facts = healthy();
    change(&mut facts);
    let check = ALL.iter().find(|check| check.name == name).unwrap();
    (check.decide)(&facts).unwrap_or_else(|early| early)
}

fn check(name: &str, level: Level, part: &str, change: impl FnOnce(&mut Facts)) {
    let verdict = said(name, change);
    assert!(verdict.level == level && verdict.said.contains(part), "{name}: wanted {level:?} {part:?}: {verdict:?}");
    // Whoever is told of a problem is told what to do.
    assert_eq!(verdict.remedy.is_empty(), level == Good, "{name}: {verdict:?}");
}

/// Puts pods into the first namespace.
fn with(pods: Value) -> impl FnOnce(&mut Facts) {
    move |facts| facts.namespaces.as_mut().unwrap()[0].pods = Fact::There(json!({"items": pods}))
}

/// A running pod without a proxy, and what else it has.
fn bare(name: &str, more: &Value) -> Value {
    let mut pod =
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running"}});
    for (field, value) in more.as_object().unwrap() {
        pod[field].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
    }
    pod
}

use Level::{Failure, Good, Warning};

#[test]
fn nothing_is_wrong_with_a_healthy_cluster() {
    for stage in [Stage::Before, Stage::After] {
        for (name, verdict) in verdicts(&healthy(), stage) {
            assert_eq!(verdict.level, Good, "{name}: {verdict:?}");
        }
    }
}

#[test]
fn without_an_api_server_nothing_else_is_said() {
    let mut facts = healthy();
    facts.version = Fact::Unknown("connection refused".to_owned());
    let told = verdicts(&facts, Stage::After);
    assert_eq!(told.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["api-server"]);
    check("api-server", Failure, "connection refused", |facts| {
        facts.version = Fact::Unknown("connection refused".to_owned());
    });
    check("api-server", Failure, "no API server", |facts| facts.version = Fact::Missing);
}

#[test]
fn what_cannot_be_seen_is_a_warning_and_never_good() {
    let forbidden = || Fact::Unknown("forbidden".to_owned());
    check("nodes", Warning, "nodes cannot be seen: forbidden", |facts| facts.nodes = forbidden());
    check("cilium-socket-lb", Warning, "forbidden", |facts| facts.cilium = forbidden());
    check("webhook-certificate", Warning, "forbidden", |facts| facts.webhook_secret = forbidden());
    check("injection", Warning, "no rights", |facts| facts.namespaces = Err("no rights".to_owned()));
    check("rights", Warning, "timeout", |facts| facts.rights[0].1 = Err("timeout".to_owned()));
}

#[test]
fn kubernetes_itself() {
    let version =
        |text: &'static str| move |facts: &mut Facts| facts.version = Fact::There(json!({"gitVersion": text}));
    check("kubernetes-version", Failure, "v1.28.9", version("v1.28.9"));
    check("kubernetes-version", Good, "v1.29.0-eks", version("v1.29.0-eks-1"));
    check("kubernetes-version", Warning, "no version", version("latest"));
    let node = |kubelet: &'static str, kernel: &'static str, system: &'static str| {
        move |facts: &mut Facts| {
            let info = json!({"operatingSystem": system, "kubeletVersion": kubelet, "kernelVersion": kernel});
            facts.nodes = Fact::There(json!({"items": [{"metadata": {"name": "old"}, "status": {"nodeInfo": info}}]}));
        }
    };
    check("nodes", Failure, "old (v1.28.1)", node("v1.28.1", "6.1.0", "linux"));
    check("nodes", Failure, "old (5.10.0-8)", node("v1.30.1", "5.10.0-8", "linux"));
    check("nodes", Good, "0 nodes", node("v1.28.1", "10.0.20348", "windows"));
    check("rights", Failure, "may not create namespaces", |facts| facts.rights[0].1 = Ok(false));
}

#[test]
fn gateway_api() {
    check("gateway-api", Warning, "not installed", |facts| facts.http_route = Fact::Missing);
    check("gateway-api", Warning, "v1.2.0, channel standard: older", |facts| {
        facts.http_route = http_route("v1.2.0", "standard");
    });
    check("gateway-api", Warning, "newer", |facts| facts.http_route = http_route("v1.7.0", "standard"));
    check("gateway-api", Good, "experimental fields", |facts| facts.http_route = http_route("v1.6.0", "experimental"));
    check("gateway-api", Warning, "says no version", |facts| facts.http_route = http_route("", ""));
    check("gateway-api", Failure, "serves no HTTPRoute of version v1", |facts| {
        facts.http_route = Fact::There(json!({"spec": {"versions": [{"name": "v1beta1", "served": true}]}}));
    });
}

#[test]
fn networks_that_hide_services() {
    let cilium = |data: Value| move |facts: &mut Facts| facts.cilium = Fact::There(json!({"data": data}));
    check("cilium-socket-lb", Failure, "in the sockets of pods", cilium(json!({"kube-proxy-replacement": "true"})));
    check(
        "cilium-socket-lb",
        Failure,
        "in the sockets of pods",
        cilium(json!({"bpf-lb-sock": "true", "kube-proxy-replacement": "false"})),
    );
    check("cilium-socket-lb", Good, "leaves sockets", cilium(json!({"kube-proxy-replacement": "false"})));
    check(
        "cilium-socket-lb",
        Good,
        "leaves sockets",
        cilium(json!({"bpf-lb-sock": "false", "kube-proxy-replacement": "true"})),
    );
    check(
        "cilium-socket-lb",
        Good,
        "host's namespace",
        cilium(json!({"bpf-lb-sock": "true", "bpf-lb-sock-hostns-only": "true"})),
    );
    check("cilium-exclusive", Warning, "other CNI plugins", cilium(json!({})));
    check("cilium-exclusive", Good, "leaves other", cilium(json!({"cni-exclusive": "false"})));
    let felix = |spec: Value| move |facts: &mut Facts| facts.felix = Fact::There(json!({"spec": spec}));
    check("calico-ebpf", Good, "is off", felix(json!({})));
    check("calico-ebpf", Failure, "in the sockets of pods", felix(json!({"bpfEnabled": true})));
    check(
        "calico-ebpf",
        Failure,
        "in the sockets of pods",
        felix(json!({"bpfEnabled": true, "bpfConnectTimeLoadBalancing": "TCP"})),
    );
    check(
        "calico-ebpf",
        Good,
        "leaves sockets",
        felix(json!({"bpfEnabled": true, "bpfConnectTimeLoadBalancing": "Disabled"})),
    );
    check(
        "calico-ebpf",
        Good,
        "leaves sockets",
        felix(json!({"bpfEnabled": true, "bpfConnectTimeLoadBalancingEnabled": false})),
    );
    let proxy = |text: &'static str| move |facts: &mut Facts| facts.kube_proxy = config("config.conf", text);
    check("kube-proxy", Good, "mode iptables", proxy("mode: \"\"\n"));
    check("kube-proxy", Warning, "mode ipvs, and it hides", proxy("mode: ipvs\niptables: {masqueradeAll: true}\n"));
    check("kube-proxy", Good, "no configuration", |facts| facts.kube_proxy = Fact::Missing);
}

#[test]
fn wefts_own_parts() {
    check("definitions", Failure, "missing: authorizationpolicies.weft.dev", |facts| {
        facts.definitions[0].1 = Fact::Missing;
    });
    check("definitions", Warning, "another version than this weft: meshpolicies.weft.dev", |facts| {
        let Fact::There(definition) = &mut facts.definitions[1].1 else { unreachable!() };
        let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        schema["properties"].as_object_mut().unwrap().remove("mtls");
    });
    for name in ["control-plane", "injector"] {
        let set = move |fact: Fact| {
            move |facts: &mut Facts| {
                let place = if name == "injector" { &mut facts.injector } else { &mut facts.control_plane };
                *place = fact;
            }
        };
        check(name, Failure, "no Deployment", set(Fact::Missing));
        check(name, Failure, "none of 2", set(deployment(0)));
        check(name, Warning, "1 of 2", set(deployment(1)));
        let one = json!({"spec": {"replicas": 1}, "status": {"readyReplicas": 1, "updatedReplicas": 1}});
        check(name, Warning, "while it restarts there is none", set(Fact::There(one)));
    }
    check("version", Warning, "0.0.1 is installed", |facts| facts.record = config("version", "0.0.1"));
    check("version", Warning, "9.9.9 is installed", |facts| facts.record = Fact::Missing);
    check("version", Warning, "neither a record", |facts| {
        (facts.record, facts.control_plane) = (Fact::Missing, Fact::Missing);
    });
}

#[test]
fn a_cluster_without_native_sidecars_needs_ordinary_ones() {
    fn older(facts: &mut Facts) {
        facts.version = Fact::There(json!({"gitVersion": "v1.27.3"}));
        let node = json!({"operatingSystem": "linux", "kubeletVersion": "v1.27.3", "kernelVersion": "6.8.0"});
        facts.nodes = Fact::There(json!({"items": [{"metadata": {"name": "n"}, "status": {"nodeInfo": node}}]}));
    }
    fn ordinary(facts: &mut Facts) {
        older(facts);
        let Fact::There(injector) = &mut facts.injector else { unreachable!() };
        let env = json!([{"name": "WEFT_SIDECAR", "value": "ordinary"}]);
        injector["spec"]["template"]["spec"]["containers"][0]["env"] = env;
    }
    check("kubernetes-version", Failure, "native sidecars", older);
    check("nodes", Failure, "older than 1.29", older);
    check("kubernetes-version", Warning, "Jobs do not complete", ordinary);
    check("nodes", Good, "", ordinary);
}

#[test]
fn the_cni_plugin() {
    /// An injector that leaves the redirect to it.
    fn uses(facts: &mut Facts) {
        let Fact::There(injector) = &mut facts.injector else { unreachable!() };
        let env = json!([{"name": "WEFT_REDIRECT", "value": "cni"}]);
        injector["spec"]["template"]["spec"]["containers"][0]["env"] = env;
    }
    let ready = |ready: u64, updated: u64| {
        move |facts: &mut Facts| {
            uses(facts);
            let status = json!({"desiredNumberScheduled": 3, "numberReady": ready, "updatedNumberScheduled": updated});
            facts.cni = Fact::There(json!({"status": status}));
        }
    };
    check("cni", Good, "it is not used", |_| {});
    check("cni", Failure, "there is no DaemonSet", uses);
    check("cni", Warning, "the injector does not use it", |facts| facts.cni = Fact::There(json!({})));
    check("cni", Failure, "on no node", |facts| {
        uses(facts);
        facts.cni = Fact::There(json!({}));
    });
    check("cni", Failure, "ready on 2 of 3 nodes", ready(2, 3));
    check("cni", Warning, "1 of 3 nodes", ready(3, 1));
    check("cni", Good, "of 3 nodes", ready(3, 3));
    check("cilium-exclusive", Failure, "which the injector relies on", |facts| {
        uses(facts);
        facts.cilium = config("cni-exclusive", "true");
    });
    check("pod-security", Good, "restricted", |facts| {
        uses(facts);
        let shop = &mut facts.namespaces.as_mut().unwrap()[0];
        shop.namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = json!("restricted");
    });
}

#[test]
fn the_webhook_and_its_certificate() {
    let hook = |hook: Value| move |facts: &mut Facts| facts.webhook = Fact::There(json!({"webhooks": [hook]}));
    check("webhook", Failure, "there is no MutatingWebhookConfiguration", |facts| facts.webhook = Fact::Missing);
    check("webhook", Failure, "has no webhooks", |facts| facts.webhook = Fact::There(json!({})));
    check(
        "webhook",
        Failure,
        "without a proxy, in the clear: a",
        hook(json!({"name": "a", "failurePolicy": "Ignore"})),
    );
    check("webhook", Failure, "was not told", hook(json!({"name": "a", "failurePolicy": "Fail", "clientConfig": {}})));
    check("webhook-certificate", Failure, "there is no MutatingWebhook", |facts| facts.webhook = Fact::Missing);
    check("webhook-certificate", Failure, "no Secret", |facts| facts.webhook_secret = Fact::Missing);
    let (_, other) = certificates(140);
    check(
        "webhook-certificate",
        Failure,
        "does not vouch",
        hook(json!({"name": "a", "clientConfig": {"caBundle": base64(&other)}})),
    );
    check("webhook-certificate", Failure, "holds no certificate", |facts| {
        facts.webhook_secret = config("tls.crt", "AAAA");
    });
    let of = |days: u64| {
        move |facts: &mut Facts| {
            let (leaf, authority) = certificates(days);
            hook(json!({"name": "a", "clientConfig": {"caBundle": base64(&authority)}}))(facts);
            facts.webhook_secret = Fact::There(json!({"data": {"tls.crt": base64(&leaf)}}));
        }
    };
    check("webhook-certificate", Failure, "expired", of(49));
    check("webhook-certificate", Warning, "expires in 10 days", of(60));
    check("webhook-certificate", Good, "90 days", of(140));
}

#[test]
fn workloads() {
    let first = |change: fn(&mut Labelled)| move |facts: &mut Facts| change(&mut facts.namespaces.as_mut().unwrap()[0]);
    check(
        "pod-security",
        Failure,
        "refuses NET_ADMIN, which weft-init needs: shop",
        first(|shop| {
            shop.namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = json!("baseline");
        }),
    );
    check("trust-bundle", Failure, "pods wait: shop", first(|shop| shop.bundle = Fact::Missing));
    check("trust-bundle", Failure, "pods wait: shop", first(|shop| shop.bundle = config("anchors.pem", "?")));
    check(
        "trust-bundle",
        Failure,
        "pods wait: shop",
        first(|shop| {
            shop.namespace = json!({"metadata": {"name": "shop"}});
            shop.bundle = Fact::Missing;
        }),
    );
    check(
        "trust-bundle",
        Failure,
        "trust different anchors",
        first(|shop| shop.bundle = config("anchors.pem", &certificates(99).1)),
    );
    check(
        "authority-expiry",
        Failure,
        "expired",
        first(|shop| shop.bundle = config("anchors.pem", &certificates(1).1)),
    );
    check(
        "authority-expiry",
        Warning,
        "expires in 20 days",
        first(|shop| shop.bundle = config("anchors.pem", &certificates(70).1)),
    );
    check("authority-expiry", Good, "no namespace", |facts| facts.namespaces = Ok(Vec::new()));
}

#[test]
fn pods_with_and_without_a_proxy() {
    check(
        "injection",
        Warning,
        "1 pods have none, because they started before the label or before the webhook: shop/old",
        with(json!([bare("old", &json!({}))])),
    );
    check(
        "injection",
        Good,
        "1 left alone: it uses its node's network",
        with(json!([bare("host", &json!({"spec": {"hostNetwork": true}}))])),
    );
    check(
        "injection",
        Good,
        "1 left alone: its label",
        with(json!([bare("no", &json!({"metadata": {"labels": {"weft.dev/inject": "disabled"}}}))])),
    );
    check("injection", Good, "0 pods", with(json!([bare("done", &json!({"status": {"phase": "Succeeded"}}))])));
    check(
        "injection",
        Warning,
        "make no sense to the injector: shop/mine (spec.containers[0]",
        with(json!([bare(
            "mine",
            &json!({"spec": {"containers": [{"name": "a", "securityContext": {"runAsUser": 2140}}]}})
        ),])),
    );
    check(
        "proxy-version",
        Warning,
        "1 proxies are not of the control plane's version 0.9.1: shop/a (0.8.0)",
        |facts| {
            facts.record = config("version", "0.9.1");
            with(json!([pod("a", "0.8.0"), pod("b", "0.9.1")]))(facts);
        },
    );
    check(
        "proxy-version",
        Failure,
        "more than one minor version from the control plane's 0.9.1: shop/a (0.7.9)",
        |facts| {
            facts.record = config("version", "0.9.1");
            with(json!([pod("a", "0.7.9")]))(facts);
        },
    );
}

/// Each check has its section in the documentation, in the same order, with what it means and what to do.
#[test]
fn every_check_is_documented() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checks.md")).unwrap();
    let sections: Vec<&str> = text.split("\n## ").skip(1).collect();
    let names: Vec<&str> = sections.iter().map(|section| section.lines().next().unwrap_or_default()).collect();
    assert_eq!(names, ALL.iter().map(|check| check.name).collect::<Vec<_>>());
    for (section, check) in sections.iter().zip(ALL) {
        assert!(section.contains("\n**Remedy:** "), "{} says no remedy", check.name);
        let before = section.contains("Before an installation only.");
        let after = section.contains("After an installation only.");
        let want = (check.when == When::Before, check.when == When::After);
        assert_eq!((before, after), want, "{}", check.name);
    }
}

#[test]
fn the_issuers_secret() {
    /// A control plane that was told to use it, and what it says of it.
    fn says(said: Value) -> impl FnOnce(&mut Facts) {
        move |facts: &mut Facts| {
            let Fact::There(deployment) = &mut facts.control_plane else { unreachable!() };
            let env = json!([{"name": "WEFT_ISSUER_SECRET", "value": "weft-issuer"}]);
            deployment["spec"]["template"]["spec"]["containers"][0]["env"] = env;
            facts.issuer_secret = Fact::There(said);
        }
    }
    check("issuer-secret", Good, "makes its own issuer", |_| {});
    check(
        "issuer-secret",
        Good,
        "comes from the Secret weft-issuer",
        says(json!({"name": "weft-issuer", "problem": null})),
    );
    let problem = "the Secret weft-issuer cannot be used: tls.key is another key than tls.crt names";
    check("issuer-secret", Failure, problem, says(json!({"name": "weft-issuer", "problem": problem})));
    check("issuer-secret", Warning, "no control plane says", says(Value::Null));
    check("issuer-secret", Warning, "no control plane says", says(json!({"name": "other", "problem": null})));
    check("issuer-secret", Warning, "forbidden", |facts| {
        says(Value::Null)(facts);
        facts.issuer_secret = Fact::Unknown("forbidden".to_owned());
    });
    check("issuer-secret", Warning, "forbidden", |facts| facts.control_plane = Fact::Unknown("forbidden".to_owned()));
}

#[test]
fn the_issuers_end_is_seen() {
    let ends = |days: f64| {
        move |facts: &mut Facts| facts.issuer_expiry = Fact::There(json!({"end": NOW as f64 + days * DAY as f64}))
    };
    let overdue = |end: u64, overdue: u64| {
        move |facts: &mut Facts| facts.issuer_expiry = Fact::There(json!({"end": NOW + end, "overdue": overdue}))
    };
    check("issuer-expiry", Good, "300 days", |_| {});
    check("issuer-expiry", Good, "30 hours", overdue(30 * 3600, NOW));
    check("issuer-expiry", Warning, "in 30 hours and was not replaced", overdue(30 * 3600, NOW - 1));
    check("issuer-expiry", Failure, "has expired", |facts| {
        facts.issuer_expiry = Fact::There(json!({"end": NOW - 1, "overdue": NOW - 9}));
    });
    check("issuer-expiry", Good, "60 days", ends(60.0));
    check("issuer-expiry", Warning, "59 days", ends(59.0));
    check("issuer-expiry", Failure, "has expired", ends(-1.0));
    check("issuer-expiry", Warning, "no control plane says", |facts| facts.issuer_expiry = Fact::Missing);
    check("issuer-expiry", Warning, "forbidden", |facts| facts.issuer_expiry = Fact::Unknown("forbidden".to_owned()));
}
