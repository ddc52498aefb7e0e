//! Names that the parts of Weft agree on inside of a cluster: who writes one of them and who reads it are two processes.

/// The container that the injector adds: a pod that has it is meshed.
pub const PROXY_CONTAINER: &str = "weft-proxy";

/// The init container in front of it.
pub const INIT_CONTAINER: &str = "weft-init";

/// The label of a namespace or a pod that says whether pods get a proxy: [`ENABLED`] or [`DISABLED`].
pub const INJECT_LABEL: &str = "weft.dev/inject";

/// See [`INJECT_LABEL`].
pub const ENABLED: &str = "enabled";

/// See [`INJECT_LABEL`].
pub const DISABLED: &str = "disabled";

/// The annotation of a pod that says by which version it got its proxy.
pub const INJECTED_BY: &str = "weft.dev/injected-by";

/// The annotation of a pod whose redirect is set from outside of it, by the CNI plugin: with what options.
pub const REDIRECT: &str = "weft.dev/redirect";

/// The namespace of what runs on each node, which needs more rights than weft-system gives.
pub const CNI_NAMESPACE: &str = "weft-cni";

/// Namespaces whose pods never get a proxy, whatever their labels say: the cluster's own, without which nothing starts, and ours.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-node-lease", "weft-system", CNI_NAMESPACE];

/// The Secret of weft-system in which the certificate authority lies.
pub const AUTHORITY_SECRET: &str = "weft-authority";

/// The Secret of weft-system in which the injector's certificate lies.
pub const INJECTOR_SECRET: &str = "weft-injector-tls";

/// The Secrets of weft-system that Weft writes itself.
pub const OWN_SECRETS: [&str; 2] = [AUTHORITY_SECRET, INJECTOR_SECRET];

/// The annotation of a pod that the API server only shows: which of its files a kubelet runs it from.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Why a pod gets no proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotInjected {
    /// Its label says so.
    Disabled,
    /// It has a container of that name already.
    HasProxy,
    /// The node's network is not its own to redirect.
    HostNetwork,
    /// It was made when nobody would add one.
    Older,
    /// The API server only shows what a kubelet runs from a file.
    Static,
}

impl NotInjected {
    /// Every reason for which a pod has none that should have one.
    pub const UNWANTED: [Self; 4] = [Self::HasProxy, Self::HostNetwork, Self::Older, Self::Static];

    /// It as a label of a metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::HasProxy => "has-proxy",
            Self::HostNetwork => "host-network",
            Self::Older => "older",
            Self::Static => "static",
        }
    }

    /// It in words.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Disabled => "its label weft.dev/inject is disabled",
            Self::HasProxy => "it has a container weft-proxy already",
            Self::HostNetwork => "it uses its node's network, whose traffic is not the pod's to redirect",
            Self::Older => "it was made before its namespace was labelled, or while nobody injected; restart it",
            Self::Static => "it is a static pod, which only its node's kubelet can change",
        }
    }
}

/// What the name of every setting of a pod begins with.
pub const SETTINGS_PREFIX: &str = "config.weft.dev/";

/// The setting that names inbound ports which are not captured, after [`SETTINGS_PREFIX`].
pub const SKIP_INBOUND_PORTS: &str = "skip-inbound-ports";

/// The setting that says which probes the proxy performs, after [`SETTINGS_PREFIX`].
pub const REWRITE_PROBES: &str = "rewrite-probes";

/// The `ConfigMap` in every labelled namespace that says whom to trust.
pub const TRUST_BUNDLE: &str = "weft-trust-bundle";

/// Its one key: the trust anchors, PEM.
pub const TRUST_ANCHORS_KEY: &str = "anchors.pem";

/// Whom service-account tokens are for, with no fallback (design §2).
pub const TOKEN_AUDIENCE: &str = "identity.weft.dev";

/// The proxy's port for metrics, health and probes, which the redirect leaves alone (design §2).
pub const ADMIN_PORT: u16 = 14003;
