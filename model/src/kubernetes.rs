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
