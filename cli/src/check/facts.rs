//! What a cluster says, as the API server words it: JSON.

use serde_json::Value;
use weft_model::version::Version;

use super::Verdict;

/// One thing that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    /// There is none.
    Missing,
    /// It is.
    There(Value),
    /// It could not be seen, and why.
    Unknown(String),
}

impl Fact {
    /// It, where it is there; an early verdict where it could not be seen.
    pub(super) fn known(&self, what: &str) -> Result<Option<&Value>, Verdict> {
        match self {
            Self::Missing => Ok(None),
            Self::There(value) => Ok(Some(value)),
            Self::Unknown(why) => Err(Verdict::warning(
                format!("{what} cannot be seen: {why}"),
                "run this check with an account that may read it",
            )),
        }
    }

    /// The elements of a list, none where it is missing.
    pub(super) fn items(&self, what: &str) -> Result<&[Value], Verdict> {
        let items = self.known(what)?.and_then(|list| list.get("items")).and_then(Value::as_array);
        Ok(items.map_or(&[], Vec::as_slice))
    }
}

/// Everything that the checks look at.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) now_unix_s: u64,
    /// `/version` of the API server.
    pub(crate) version: Fact,
    /// A list.
    pub(crate) nodes: Fact,
    /// What the installation needs, in words, and whether it is allowed.
    pub(crate) rights: Vec<(String, Result<bool, String>)>,
    /// The definition of `HTTPRoute`.
    pub(crate) http_route: Fact,
    /// The ConfigMap `kube-system/cilium-config`.
    pub(crate) cilium: Fact,
    /// Calico's `FelixConfiguration` named `default`.
    pub(crate) felix: Fact,
    /// The ConfigMap `kube-system/kube-proxy`.
    pub(crate) kube_proxy: Fact,
    /// Weft's own definitions, by name.
    pub(crate) definitions: Vec<(String, Fact)>,
    /// The Deployment.
    pub(crate) control_plane: Fact,
    /// The Deployment.
    pub(crate) injector: Fact,
    /// The DaemonSet of the CNI plugin, which is there only where it was asked for.
    pub(crate) cni: Fact,
    /// The `MutatingWebhookConfiguration`.
    pub(crate) webhook: Fact,
    /// The Secret of its certificate.
    pub(crate) webhook_secret: Fact,
    /// Until when the issuer is valid (`end`) and from when on it should have been replaced (`overdue`, not in the figures of older
    /// ones), in seconds since 1970, as the control plane's own figures say it.
    pub(crate) issuer_expiry: Fact,
    /// What the control plane says of the Secret of an issuer that somebody else makes: its name, and the problem with it.
    pub(crate) issuer_secret: Fact,
    /// The ConfigMap that remembers what was installed.
    pub(crate) record: Fact,
    /// Namespaces that are labelled for injection, or why they cannot be seen.
    pub(crate) namespaces: Result<Vec<Labelled>, String>,
}

/// A namespace that is labelled for injection, or that has a pod which is.
#[derive(Clone, Debug)]
pub(crate) struct Labelled {
    /// The Namespace itself.
    pub(crate) namespace: Value,
    /// Its ConfigMap that says whom to trust.
    pub(crate) bundle: Fact,
    /// A list; only those that are labelled themselves where the namespace is not.
    pub(crate) pods: Fact,
}

impl Labelled {
    pub(super) fn name(&self) -> &str {
        text(&self.namespace, "/metadata/name")
    }
}

impl Facts {
    pub(super) fn namespaces(&self) -> Result<&[Labelled], Verdict> {
        let namespaces = self.namespaces.as_ref().map(Vec::as_slice);
        namespaces.map_err(|why| {
            let remedy = "run this check with an account that may list namespaces";
            Verdict::warning(format!("namespaces cannot be seen: {why}"), remedy)
        })
    }
}

/// A text within a value; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Major and minor of a version: `v1.34.2+k3s1`, `1.29`.
pub(super) fn minor(version: &str) -> Option<(u32, u32)> {
    Version::read(version).map(Version::numbers)
}

/// The first few of a list, and how many more there are.
pub(super) fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}
