//! `MeshPolicy`, as it is meant.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use weft_crds::{
    DefaultAuthorization as WrittenDefault, Egress, MeshPolicy, MtlsMode as WrittenMode, Protocol, SYSTEM_NAMESPACE,
    Selector, Telemetry,
};
use weft_model::bounds::URL_BYTES_MAX;
use weft_model::policy::{DefaultAuthorization, MtlsMode};
use weft_model::resources::{EgressMode, TelemetrySpec};
use weft_model::{AppProtocol, PolicyId};

use crate::networks::canonical;
use crate::object::{Kind, Name};
use crate::problem::Problem;
use crate::read::{Read, created};

/// A `MeshPolicy`, as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshEntry {
    pub(crate) id: PolicyId,
    pub(crate) created: i64,
    pub(crate) scope: Scope,
    pub(crate) mtls: Option<MtlsMode>,
    pub(crate) mtls_ports: BTreeMap<u16, MtlsMode>,
    pub(crate) default_authorization: Option<DefaultAuthorization>,
    pub(crate) overridable: bool,
    pub(crate) protocols: BTreeMap<u16, AppProtocol>,
    /// What only the whole mesh can have.
    pub(crate) wide: Wide,
}

/// What only the whole mesh can have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wide {
    pub(crate) egress: Option<EgressMode>,
    pub(crate) telemetry: Option<TelemetrySpec>,
    pub(crate) networks: Vec<IpNet>,
}

/// Whose policy it is; the wider before the narrower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Cluster,
    Namespace,
    Workloads(Selector),
}

/// Reads a `MeshPolicy`.
pub(crate) fn read(name: &Name, policy: &MeshPolicy) -> Read<MeshEntry> {
    let spec = &policy.spec;
    let mut problems = Vec::new();
    let scope = match &spec.selector {
        Some(selector) => Scope::Workloads(selector.clone()),
        None if *name.namespace == *SYSTEM_NAMESPACE => Scope::Cluster,
        None => Scope::Namespace,
    };
    let wide = wide(policy, scope == Scope::Cluster, &mut problems);
    let mtls = spec.mtls.clone().unwrap_or_default();
    if mtls.ports.iter().any(|port| port.port == 0) || spec.protocols.iter().any(|port| port.port == 0) {
        problems.push(Problem::refused("spec", "0 is not a port"));
    }
    if !problems.is_empty() {
        return Read { entry: None, problems };
    }
    let entry = MeshEntry {
        id: PolicyId::new(Kind::MeshPolicy.as_str(), &name.namespace, &name.name),
        created: created(&policy.metadata),
        scope,
        mtls: mtls.mode.map(mode),
        mtls_ports: mtls.ports.iter().map(|port| (port.port, mode(port.mode))).collect(),
        default_authorization: spec.default_authorization.map(default_authorization),
        overridable: spec.overridable,
        protocols: spec.protocols.iter().map(|port| (port.port, protocol(port.protocol))).collect(),
        wide,
    };
    Read { entry: Some(entry), problems }
}

fn wide(policy: &MeshPolicy, cluster: bool, problems: &mut Vec<Problem>) -> Wide {
    let spec = &policy.spec;
    let written = [
        ("spec.egress", spec.egress.is_some()),
        ("spec.telemetry", spec.telemetry.is_some()),
        ("spec.networks", !spec.networks.is_empty()),
    ];
    if !cluster {
        for (field, _) in written.into_iter().filter(|(_, written)| *written) {
            let message = format!("only a policy in {SYSTEM_NAMESPACE} without selector can say this");
            problems.push(Problem::refused(field, message));
        }
        return Wide::default();
    }
    let mut networks = Vec::new();
    for (i, text) in spec.networks.iter().enumerate() {
        match text.parse::<IpNet>() {
            Ok(network) => networks.push(canonical(network)),
            Err(_) => problems.push(Problem::refused(format!("spec.networks[{i}]"), format!("{text:?} is not a CIDR"))),
        }
    }
    let egress = spec.egress.map(|egress| match egress {
        Egress::Allow => EgressMode::Allow,
        Egress::MeshOnly => EgressMode::MeshOnly,
    });
    Wide { egress, telemetry: spec.telemetry.as_ref().map(|t| telemetry(t, problems)), networks }
}

fn telemetry(written: &Telemetry, problems: &mut Vec<Problem>) -> TelemetrySpec {
    let tracing = written.tracing.as_ref();
    if let Some(tracing) = tracing {
        if !is_collector(&tracing.otlp_endpoint) {
            let shown: String = tracing.otlp_endpoint.chars().take(128).collect();
            let message = format!("{shown:?} is not http://host:port of at most {URL_BYTES_MAX} bytes");
            problems.push(Problem::refused("spec.telemetry.tracing.otlpEndpoint", message));
        }
        if tracing.sample_per_million > 1_000_000 {
            let message = "must be at most 1000000";
            problems.push(Problem::refused("spec.telemetry.tracing.samplePerMillion", message));
        }
    }
    TelemetrySpec {
        access_log: written.access_log,
        trace_per_million: tracing.map_or(0, |tracing| tracing.sample_per_million),
        otlp_endpoint: tracing.map(|tracing| Arc::from(tracing.otlp_endpoint.trim_end_matches('/'))),
    }
}

fn is_collector(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let named = uri.authority().is_some_and(|a| {
        !a.host().is_empty() && a.port_u16().is_some_and(|port| port != 0) && !a.as_str().contains('@')
    });
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    url.len() <= URL_BYTES_MAX && uri.scheme_str() == Some("http") && named && bare
}

fn mode(written: WrittenMode) -> MtlsMode {
    match written {
        WrittenMode::Permissive => MtlsMode::Permissive,
        WrittenMode::Strict => MtlsMode::Strict,
    }
}

fn default_authorization(written: WrittenDefault) -> DefaultAuthorization {
    match written {
        WrittenDefault::Allow => DefaultAuthorization::Allow,
        WrittenDefault::Authenticated => DefaultAuthorization::Authenticated,
        WrittenDefault::Deny => DefaultAuthorization::Deny,
    }
}

fn protocol(written: Protocol) -> AppProtocol {
    match written {
        Protocol::Grpc => AppProtocol::Grpc,
        Protocol::Http => AppProtocol::Http,
        Protocol::Http2 => AppProtocol::Http2,
        Protocol::Opaque => AppProtocol::Opaque,
    }
}
