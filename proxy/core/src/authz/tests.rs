use std::sync::Arc;

use http::Method;
use proptest::prelude::*;
use weft_model::endpoint::WorkloadName;
use weft_model::identity::SpiffeId;
use weft_model::policy::{
    AuthzAction, AuthzPolicy, AuthzRule, DefaultAuthorization, MtlsMode, OperationMatch, PathPattern, PeerMatch,
    PolicyId,
};
use weft_model::resources::{InboundPort, InboundSpec, Lifecycle};
use weft_model::service::{AppProtocol, ServiceKey};

use super::{DenyCause, L7View, Policies, Verdict};
use crate::path::normalize;

fn who(namespace: &str, account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse().unwrap()
}

fn inbound(authz: Vec<AuthzPolicy>) -> InboundSpec {
    InboundSpec {
        workload: WorkloadName::new("shop", "order-1"),
        ports: Vec::new(),
        mtls: MtlsMode::Permissive,
        default_authorization: DefaultAuthorization::Allow,
        default_policy: None,
        authz,
        lifecycle: Lifecycle::Serving,
    }
}

fn port(port: u16, probe_paths: &[&str]) -> InboundPort {
    InboundPort {
        port,
        protocol: AppProtocol::Http,
        mtls: MtlsMode::Strict,
        service: Some(ServiceKey::new("shop", "order", 80)),
        probe_paths: paths(probe_paths),
        scrape_paths: Vec::new(),
    }
}

fn paths(paths: &[&str]) -> Vec<Arc<str>> {
    paths.iter().map(|path| Arc::from(*path)).collect()
}

fn policy(name: &str, action: AuthzAction, rules: Vec<AuthzRule>) -> AuthzPolicy {
    AuthzPolicy { id: PolicyId::new("AuthorizationPolicy", "shop", name), action, ports: Vec::new(), rules }
}

fn from(from: Vec<PeerMatch>) -> AuthzRule {
    AuthzRule { from, to: Vec::new() }
}

fn at(paths: &[&str]) -> OperationMatch {
    let paths = paths.iter().map(|path| match path.strip_suffix('*') {
        Some(prefix) => PathPattern::Prefix(prefix.into()),
        None => PathPattern::Exact((*path).into()),
    });
    OperationMatch { paths: paths.collect(), ..OperationMatch::default() }
}

fn asked(to: Vec<OperationMatch>) -> AuthzRule {
    AuthzRule { from: Vec::new(), to }
}

/// The verdict in a word: `allow`, `allow by NAME`, `deny`, `deny by NAME`.
fn judged(policies: &Policies, port: u16, peer: Option<&SpiffeId>, request: Option<&(Method, &str)>) -> String {
    let path = request.and_then(|(_, path)| normalize(path).ok());
    let view = request.map(|(method, _)| L7View { method, path: path.as_ref() });
    let verdict = policies.judge(port, peer, view);
    let word = if verdict.is_allow() { "allow" } else { "deny" };
    verdict.by().map_or(word.into(), |by| format!("{word} by {}", by.name()))
}

#[test]
fn deny_wins_then_allow_then_the_default() {
    let (front, user) = (who("shop", "front"), who("shop", "user"));
    let is = |id: &SpiffeId| from(vec![PeerMatch::Identity(id.clone())]);
    let allow = policy("allow-shop", AuthzAction::Allow, vec![from(vec![PeerMatch::Namespace("shop".into())])]);
    let deny = policy("deny-user", AuthzAction::Deny, vec![is(&user)]);
    let policies = Policies::compile(&inbound(vec![allow, deny]));
    assert_eq!(judged(&policies, 80, Some(&front), None), "allow by allow-shop");
    assert_eq!(judged(&policies, 80, Some(&user), None), "deny by deny-user");
    assert_eq!(judged(&policies, 80, Some(&who("other", "x")), None), "deny by allow-shop");
    assert_eq!(judged(&policies, 80, None, None), "deny by allow-shop");
    assert_eq!(
        policies.judge(80, None, None),
        Verdict::Deny {
            by: Some(&PolicyId::new("AuthorizationPolicy", "shop", "allow-shop")),
            cause: DenyCause::NotAllowed
        }
    );
}

#[test]
fn the_default_decides_where_no_allow_selects_the_port() {
    let peer = who("shop", "front");
    let elsewhere = AuthzPolicy { ports: vec![9], ..policy("elsewhere", AuthzAction::Allow, Vec::new()) };
    for (default, meshed, unmeshed) in [
        (DefaultAuthorization::Allow, "allow by mesh", "allow by mesh"),
        (DefaultAuthorization::Authenticated, "allow by mesh", "deny by mesh"),
        (DefaultAuthorization::Deny, "deny by mesh", "deny by mesh"),
    ] {
        let policies = Policies::compile(&InboundSpec {
            default_authorization: default,
            default_policy: Some(PolicyId::new("MeshPolicy", "", "mesh")),
            ..inbound(vec![elsewhere.clone()])
        });
        assert_eq!(judged(&policies, 80, Some(&peer), None), meshed);
        assert_eq!(judged(&policies, 80, None, None), unmeshed);
        assert_eq!(
            judged(&policies, 9, Some(&peer), None),
            "deny by elsewhere",
            "an ALLOW without rules allows nobody"
        );
    }
}

#[test]
fn what_stays_bytes_matches_no_allow_and_every_deny_with_an_l7_condition() {
    let methods = |methods: &[Method]| OperationMatch { methods: methods.to_vec(), ..OperationMatch::default() };
    let allow = policy("get", AuthzAction::Allow, vec![asked(vec![methods(&[Method::GET])])]);
    let policies = Policies::compile(&inbound(vec![allow]));
    assert_eq!(judged(&policies, 80, None, Some(&(Method::GET, "/"))), "allow by get");
    assert_eq!(judged(&policies, 80, None, Some(&(Method::PUT, "/"))), "deny by get");
    assert_eq!(judged(&policies, 80, None, None), "deny by get");
    assert!(policies.needs_l7(80) && !policies.judges_paths(80));

    let deny = policy("admin", AuthzAction::Deny, vec![asked(vec![at(&["/admin*"])])]);
    let policies = Policies::compile(&inbound(vec![deny]));
    assert_eq!(judged(&policies, 80, None, Some(&(Method::GET, "/x"))), "allow");
    assert_eq!(judged(&policies, 80, None, None), "deny by admin");
    assert_eq!(judged(&policies, 80, None, Some(&(Method::GET, "/x%2f"))), "deny by admin", "no normal form");
    assert!(policies.needs_l7(80) && policies.judges_paths(80));
}

#[test]
fn paths_are_matched_in_normal_form() {
    let deny = policy("d", AuthzAction::Deny, vec![asked(vec![at(&["/admin*", "/a b", "/x/../exact"])])]);
    let policies = Policies::compile(&inbound(vec![deny]));
    for (path, denied) in [
        ("/admin", true),
        ("/admin/x", true),
        ("/administrator", false),
        ("//admin", true),
        ("/%61dmin/x", true),
        ("/x/../admin", true),
        ("/x/%2e%2e/admin", true),
        ("/a%20b", true),
        ("/exact", true),
        ("/exact/", false),
        ("/x", false),
    ] {
        let got = judged(&policies, 80, None, Some(&(Method::GET, path)));
        assert_eq!(got == "deny by d", denied, "{path}");
    }
}

#[test]
fn a_pattern_without_a_normal_form_weakens_nothing() {
    let allow = policy("a", AuthzAction::Allow, vec![asked(vec![at(&["/a%2fb"])])]);
    let deny = policy("d", AuthzAction::Deny, vec![asked(vec![at(&["/a%2fb"])])]);
    let get = Some(&(Method::GET, "/x"));
    assert_eq!(judged(&Policies::compile(&inbound(vec![allow])), 80, None, get), "deny by a");
    assert_eq!(judged(&Policies::compile(&inbound(vec![deny])), 80, None, get), "deny by d");
}

#[test]
fn a_deny_of_everything_covers_what_is_not_a_path() {
    let deny = policy("d", AuthzAction::Deny, vec![asked(vec![at(&["/*"])])]);
    assert_eq!(judged(&Policies::compile(&inbound(vec![deny])), 80, None, Some(&(Method::OPTIONS, "*"))), "deny by d");
}

#[test]
fn ports_select_policies_and_narrow_operations() {
    let on = |ports: &[u16]| OperationMatch { ports: ports.to_vec(), ..OperationMatch::default() };
    let selected = AuthzPolicy { ports: vec![80], ..policy("p80", AuthzAction::Allow, vec![from(Vec::new())]) };
    let narrowed = policy("op81", AuthzAction::Deny, vec![asked(vec![on(&[81])])]);
    let policies = Policies::compile(&inbound(vec![selected, narrowed]));
    for (port, want) in [(80, "allow by p80"), (81, "deny by op81"), (82, "allow")] {
        assert_eq!(judged(&policies, port, None, None), want, "{port}");
    }
    assert!(!policies.needs_l7(80));
}

#[test]
fn open_paths_stay_open_and_only_scrapes_can_be_denied() {
    let get = |path: &'static str| Some((Method::GET, path));
    let closed = InboundSpec {
        ports: vec![InboundPort { scrape_paths: paths(&["/metrics"]), ..port(80, &["/healthz"]) }],
        default_authorization: DefaultAuthorization::Deny,
        ..inbound(Vec::new())
    };
    let policies = Policies::compile(&closed);
    for (port, request, want) in [
        (80, get("/healthz"), "allow"),
        (80, get("//healthz"), "allow"),
        (80, get("/healthz/x"), "deny"),
        (80, Some((Method::POST, "/healthz")), "deny"),
        (80, Some((Method::HEAD, "/metrics")), "allow"),
        (80, None, "deny"),
        (81, get("/healthz"), "deny"),
    ] {
        assert_eq!(judged(&policies, port, None, request.as_ref()), want, "{port} {request:?}");
    }
    assert!(policies.needs_l7(80) && policies.judges_paths(80) && !policies.needs_l7(81));

    let narrow = policy("narrow", AuthzAction::Allow, vec![from(vec![PeerMatch::Identity(who("shop", "front"))])]);
    let some = policy("some", AuthzAction::Deny, vec![asked(vec![at(&["/metrics", "/healthz"])])]);
    let all = policy("all", AuthzAction::Deny, vec![AuthzRule::default()]);
    for (deny, name) in [(some, "deny by some"), (all, "deny by all")] {
        let policies = Policies::compile(&InboundSpec { authz: vec![deny, narrow.clone()], ..closed.clone() });
        let peer = who("shop", "front");
        for (peer, request, want) in [
            (None, get("/metrics"), name),
            (None, get("/healthz"), "allow"),
            // Whoever has an identity is no kubelet.
            (Some(&peer), get("/healthz"), name),
            (None, Some((Method::POST, "/healthz")), name),
            // What the application may read otherwise is no probe.
            (None, get("//healthz"), name),
            (None, get("/%68ealthz"), name),
        ] {
            assert_eq!(judged(&policies, 80, peer, request.as_ref()), want, "{name} {peer:?} {request:?}");
        }
    }
}

#[test]
fn declared_bytes_are_looked_at_where_a_probe_would_be_refused() {
    let port = |mtls| InboundPort { protocol: AppProtocol::Opaque, mtls, ..port(80, &["/healthz"]) };
    let deny = policy("all", AuthzAction::Deny, vec![AuthzRule::default()]);
    for (mtls, authz, want) in [
        (MtlsMode::Permissive, vec![], false),
        (MtlsMode::Strict, vec![], true),
        (MtlsMode::Permissive, vec![deny], true),
    ] {
        let policies = Policies::compile(&InboundSpec { ports: vec![port(mtls)], ..inbound(authz) });
        assert_eq!(policies.needs_l7(80), want, "{mtls:?}");
    }
}

#[test]
fn open_paths_need_no_l7_where_everything_is_open() {
    let policies = Policies::compile(&InboundSpec { ports: vec![port(80, &["/healthz"])], ..inbound(Vec::new()) });
    assert!(!policies.needs_l7(80));
}

#[test]
fn audits_are_shown_once_each_and_decide_nothing() {
    let peer = who("shop", "front");
    let rules = vec![
        from(vec![PeerMatch::Authenticated, PeerMatch::Namespace("shop".into()), PeerMatch::Identity(peer.clone())]),
        from(Vec::new()),
    ];
    let audit = |name| policy(name, AuthzAction::Audit, rules.clone());
    let silent = policy("silent", AuthzAction::Audit, vec![asked(vec![at(&["/x"])])]);
    let policies = Policies::compile(&inbound(vec![audit("one"), silent, audit("two")]));
    let mut seen = Vec::new();
    policies.audit(80, Some(&peer), None, |id| seen.push(id.name().to_owned()));
    assert_eq!(seen, ["one", "two"]);
    assert_eq!(judged(&policies, 80, Some(&peer), None), "allow");
}

#[test]
fn what_is_known_of_a_port_is_told() {
    let policies = Policies::compile(&InboundSpec { ports: vec![port(80, &[])], ..inbound(Vec::new()) });
    assert_eq!((policies.mtls(80), policies.mtls(81)), (MtlsMode::Strict, MtlsMode::Permissive));
    assert_eq!((policies.protocol(80), policies.protocol(81)), (AppProtocol::Http, AppProtocol::Undeclared));
    assert_eq!((policies.service(80).map(|key| &*key.name), policies.service(81)), (Some("order"), None));
}

/// The words of semantics 15, 37 and 41, without an index.
fn naive<'a>(
    spec: &'a InboundSpec,
    port: u16,
    peer: Option<&SpiffeId>,
    request: Option<(&Method, &str)>,
) -> Verdict<'a> {
    let on_port = |ports: &[u16]| ports.is_empty() || ports.contains(&port);
    let selecting = |action| spec.authz.iter().filter(move |policy| policy.action == action && on_port(&policy.ports));
    let matching = |policy: &&AuthzPolicy, unseen: bool| {
        policy.rules.iter().any(|rule| {
            let peer_fits = rule.from.is_empty()
                || rule.from.iter().any(|want| match (want, peer) {
                    (_, None) => false,
                    (PeerMatch::Authenticated, Some(_)) => true,
                    (PeerMatch::Identity(id), Some(peer)) => id == peer,
                    (PeerMatch::Namespace(namespace), Some(peer)) => **namespace == *peer.namespace(),
                });
            let operation_fits = rule.to.is_empty()
                || rule.to.iter().any(|operation| {
                    let seen = |(method, path): (&Method, &str)| {
                        let path_fits = |pattern: &PathPattern| match pattern {
                            PathPattern::Exact(want) => **want == *path,
                            PathPattern::Prefix(want) => {
                                let want = want.trim_end_matches('/');
                                path == want || path.starts_with(&format!("{want}/"))
                            }
                        };
                        (operation.methods.is_empty() || operation.methods.contains(method))
                            && (operation.paths.is_empty() || operation.paths.iter().any(path_fits))
                    };
                    on_port(&operation.ports) && (!operation.is_l7() || request.map_or(unseen, seen))
                });
            peer_fits && operation_fits
        })
    };
    let known = || spec.ports.iter().filter(|known| known.port == port);
    let reads = |open: Vec<&Arc<str>>| {
        request.is_some_and(|(method, path)| *method == Method::GET && open.iter().any(|open| ***open == *path))
    };
    let is_probe = reads(known().flat_map(|known| &known.probe_paths).collect());
    if is_probe && peer.is_none() {
        return Verdict::Allow { by: None };
    }
    if let Some(policy) = selecting(AuthzAction::Deny).find(|policy| matching(policy, true)) {
        return Verdict::Deny { by: Some(&policy.id), cause: DenyCause::Denied };
    }
    if is_probe || reads(known().flat_map(|known| &known.scrape_paths).collect()) {
        return Verdict::Allow { by: None };
    }
    let default = spec.default_policy.as_ref();
    let Some(first) = selecting(AuthzAction::Allow).next() else {
        return match spec.default_authorization {
            DefaultAuthorization::Allow => Verdict::Allow { by: default },
            DefaultAuthorization::Authenticated if peer.is_some() => Verdict::Allow { by: default },
            _ => Verdict::Deny { by: default, cause: DenyCause::Default },
        };
    };
    match selecting(AuthzAction::Allow).find(|policy| matching(policy, false)) {
        Some(policy) => Verdict::Allow { by: Some(&policy.id) },
        None => Verdict::Deny { by: Some(&first.id), cause: DenyCause::NotAllowed },
    }
}

fn some_ports() -> impl Strategy<Value = Vec<u16>> {
    proptest::sample::subsequence(vec![80u16, 81], 0..=2)
}

fn a_rule() -> impl Strategy<Value = AuthzRule> {
    let peer = prop_oneof![
        Just(PeerMatch::Authenticated),
        prop_oneof![Just(who("a", "x")), Just(who("a", "y")), Just(who("b", "x"))].prop_map(PeerMatch::Identity),
        prop_oneof![Just("a"), Just("b")].prop_map(|namespace| PeerMatch::Namespace(namespace.into())),
    ];
    let path = prop_oneof![Just("/"), Just("/p"), Just("/p/q"), Just("/open")];
    let pattern = (path, any::<bool>()).prop_map(|(path, exact)| {
        if exact { PathPattern::Exact(path.into()) } else { PathPattern::Prefix(path.into()) }
    });
    let methods = proptest::sample::subsequence(vec![Method::GET, Method::POST], 0..=1);
    let operation = (some_ports(), methods, proptest::collection::vec(pattern, 0..2))
        .prop_map(|(ports, methods, paths)| OperationMatch { ports, methods, paths });
    let (from, to) = (proptest::collection::vec(peer, 0..3), proptest::collection::vec(operation, 0..3));
    (from, to).prop_map(|(from, to)| AuthzRule { from, to })
}

fn a_policy() -> impl Strategy<Value = AuthzPolicy> {
    let action = prop_oneof![Just(AuthzAction::Allow), Just(AuthzAction::Deny), Just(AuthzAction::Audit)];
    (action, some_ports(), proptest::collection::vec(a_rule(), 0..3))
        .prop_map(|(action, ports, rules)| AuthzPolicy { ports, ..policy("p", action, rules) })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_index_judges_as_the_naive_evaluator(
        mut authz in proptest::collection::vec(a_policy(), 0..5),
        default in 0u8..3,
        known: bool,
    ) {
        for (n, policy) in authz.iter_mut().enumerate() {
            policy.id = PolicyId::new("AuthorizationPolicy", "shop", &format!("p{n}"));
        }
        let spec = InboundSpec {
            ports: if known { vec![InboundPort { scrape_paths: paths(&["/p/q"]), ..port(80, &["/open"]) }] } else { Vec::new() },
            default_authorization: [DefaultAuthorization::Allow, DefaultAuthorization::Authenticated, DefaultAuthorization::Deny][usize::from(default)],
            default_policy: Some(PolicyId::new("MeshPolicy", "", "mesh")),
            ..inbound(authz)
        };
        let policies = Policies::compile(&spec);
        for port in [80, 81, 82] {
            for peer in [None, Some(who("a", "x")), Some(who("a", "y")), Some(who("b", "x")), Some(who("c", "z"))] {
                let bytes = policies.judge(port, peer.as_ref(), None);
                prop_assert_eq!(bytes, naive(&spec, port, peer.as_ref(), None));
                for (method, path) in [(Method::GET, "/"), (Method::GET, "/p/q"), (Method::POST, "/p"), (Method::GET, "/open")] {
                    let normal = normalize(path).unwrap();
                    let view = L7View { method: &method, path: Some(&normal) };
                    let verdict = policies.judge(port, peer.as_ref(), Some(view));
                    prop_assert_eq!(verdict, naive(&spec, port, peer.as_ref(), Some((&method, path))));
                    // Where HTTP is not looked into, what is let in must not depend on it.
                    prop_assert!(policies.needs_l7(port) || verdict.is_allow() == bytes.is_allow());
                }
            }
        }
    }
}
