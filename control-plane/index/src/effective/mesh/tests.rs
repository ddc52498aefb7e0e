use super::*;
use crate::policies::mesh::{Scope, Wide};
use DefaultAuthorization::{Allow, Authenticated, Deny};
use MtlsMode::{Permissive, Strict};

fn policy(name: &str) -> MeshEntry {
    MeshEntry {
        id: PolicyId::new("MeshPolicy", "ns", name),
        created: 0,
        scope: Scope::Cluster,
        mtls: None,
        mtls_ports: BTreeMap::new(),
        default_authorization: None,
        overridable: false,
        protocols: BTreeMap::new(),
        wide: Wide::default(),
    }
}

fn mtls(name: &str, mode: MtlsMode) -> MeshEntry {
    MeshEntry { mtls: Some(mode), ..policy(name) }
}

fn port(policy: MeshEntry, port: u16, mode: MtlsMode) -> MeshEntry {
    MeshEntry { mtls_ports: BTreeMap::from([(port, mode)]), ..policy }
}

fn open(policy: MeshEntry) -> MeshEntry {
    MeshEntry { overridable: true, ..policy }
}

fn default(name: &str, default: DefaultAuthorization) -> MeshEntry {
    MeshEntry { default_authorization: Some(default), ..policy(name) }
}

/// One policy per scope; what the general mode and port 80 become, and who was refused.
fn check(scopes: &[Option<MeshEntry>; 3], want: (MtlsMode, MtlsMode), refused: &[&str]) {
    let lists = scopes.each_ref().map(|p| p.as_ref().into_iter().collect::<Vec<_>>());
    let got = mesh(lists.each_ref().map(Vec::as_slice));
    let at_80 = got.mtls_ports.get(&80).copied().unwrap_or(got.mtls);
    assert_eq!((got.mtls, at_80), want, "{scopes:#?}");
    let names: Vec<_> = got.refused.iter().map(|r| r.policy.name().to_owned()).collect();
    assert_eq!(names, refused, "{scopes:#?}");
}

#[test]
fn the_most_specific_mode_wins_and_loosens_only_what_is_overridable() {
    check(&[None, None, None], (Permissive, Permissive), &[]);
    check(&[Some(mtls("c", Strict)), None, None], (Strict, Strict), &[]);
    check(&[Some(mtls("c", Permissive)), Some(mtls("n", Strict)), None], (Strict, Strict), &[]);
    check(&[Some(mtls("c", Strict)), Some(mtls("n", Permissive)), None], (Strict, Strict), &["n"]);
    check(&[Some(open(mtls("c", Strict))), Some(mtls("n", Permissive)), None], (Permissive, Permissive), &[]);
    check(
        &[Some(open(mtls("c", Strict))), Some(mtls("n", Strict)), Some(mtls("w", Permissive))],
        (Strict, Strict),
        &["w"],
    );
}

#[test]
fn ports_follow_the_same_rule() {
    check(&[Some(port(mtls("c", Strict), 80, Permissive)), None, None], (Strict, Permissive), &[]);
    check(&[Some(mtls("c", Strict)), Some(port(policy("n"), 80, Permissive)), None], (Strict, Strict), &["n"]);
    check(&[Some(open(mtls("c", Strict))), Some(port(policy("n"), 80, Permissive)), None], (Strict, Permissive), &[]);
    check(&[Some(port(policy("c"), 80, Strict)), Some(mtls("n", Permissive)), None], (Permissive, Strict), &[]);
    check(&[Some(port(mtls("c", Strict), 80, Permissive)), Some(mtls("n", Strict)), None], (Strict, Strict), &[]);
    check(&[None, None, Some(port(mtls("w", Strict), 80, Permissive))], (Strict, Permissive), &[]);
}

#[test]
fn the_default_authorization_is_loosened_only_where_overridable() {
    for (cluster, namespace, want, refused) in [
        (default("c", Deny), default("n", Allow), Deny, true),
        (open(default("c", Deny)), default("n", Allow), Allow, false),
        (default("c", Allow), default("n", Authenticated), Authenticated, false),
        (default("c", Authenticated), default("n", Deny), Deny, false),
    ] {
        let got = mesh([&[&cluster], &[&namespace], &[]]);
        assert_eq!((got.default_authorization, !got.refused.is_empty()), (want, refused));
        assert_eq!(got.default_policy.unwrap().name(), if refused { "c" } else { "n" });
    }
}

#[test]
fn within_a_scope_the_first_that_sets_a_field_decides_it() {
    let first = MeshEntry { default_authorization: Some(Deny), ..policy("a") };
    let second = MeshEntry { mtls: Some(Strict), default_authorization: Some(Allow), ..policy("b") };
    let got = mesh([&[&first, &second], &[], &[]]);
    assert_eq!((got.mtls, got.default_authorization), (Strict, Deny));
}
