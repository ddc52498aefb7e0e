//! A workload's own inbound configuration. Nothing here has a default that opens: an action, a peer or a path of a kind
//! that is not known refuses the whole resource, and the last good one stays in force.

use http::Method;
use weft_model::policy::{
    AuthzAction, AuthzPolicy, AuthzRule, DefaultAuthorization, MtlsMode, OperationMatch, PathPattern, PeerMatch,
};
use weft_model::resources::{InboundPort, InboundSpec, Lifecycle};
use weft_model::{PolicyId, ServiceKey, SpiffeId, WorkloadName};

use super::field::{At as _, distinct, dns_label, known, list, method, path, port, protocol, required};
use super::{Invalid, Problem, bounds};
use crate::proxy::v1 as wire;

impl TryFrom<wire::Inbound> for InboundSpec {
    type Error = Invalid;

    fn try_from(inbound: wire::Inbound) -> Result<Self, Invalid> {
        let wire::Inbound { workload, ports, mtls: mode, default_authorization, default_policy, authz, lifecycle } =
            inbound;
        let ports = list(ports, bounds::INBOUND_PORTS_MAX, InboundPort::try_from).at("ports")?;
        distinct(&ports, |p: &InboundPort| p.port).at("ports")?;
        let lifecycle = match known(lifecycle, "Lifecycle").at("lifecycle")? {
            wire::Lifecycle::Serving => Lifecycle::Serving,
            wire::Lifecycle::Terminating => Lifecycle::Terminating,
            wire::Lifecycle::Released => Lifecycle::Released,
        };
        let default_authorization =
            match known(default_authorization, "DefaultAuthorization").at("default_authorization")? {
                wire::DefaultAuthorization::Allow => DefaultAuthorization::Allow,
                wire::DefaultAuthorization::Authenticated => DefaultAuthorization::Authenticated,
                wire::DefaultAuthorization::Deny => DefaultAuthorization::Deny,
            };
        Ok(Self {
            workload: required(workload).and_then(WorkloadName::try_from).at("workload")?,
            ports,
            mtls: mtls(mode).at("mtls")?,
            default_authorization,
            default_policy: default_policy.map(PolicyId::try_from).transpose().at("default_policy")?,
            authz: list(authz, bounds::AUTHZ_POLICIES_MAX, AuthzPolicy::try_from).at("authz")?,
            lifecycle,
        })
    }
}

impl From<&InboundSpec> for wire::Inbound {
    fn from(inbound: &InboundSpec) -> Self {
        let InboundSpec { workload, ports, mtls, default_authorization, default_policy, authz, lifecycle } = inbound;
        let lifecycle = match lifecycle {
            Lifecycle::Released => wire::Lifecycle::Released,
            Lifecycle::Serving => wire::Lifecycle::Serving,
            Lifecycle::Terminating => wire::Lifecycle::Terminating,
        };
        let default_authorization = match default_authorization {
            DefaultAuthorization::Allow => wire::DefaultAuthorization::Allow,
            DefaultAuthorization::Authenticated => wire::DefaultAuthorization::Authenticated,
            DefaultAuthorization::Deny => wire::DefaultAuthorization::Deny,
        };
        Self {
            workload: Some(workload.into()),
            ports: ports.iter().map(Into::into).collect(),
            mtls: wire::MtlsMode::from(*mtls).into(),
            default_authorization: default_authorization.into(),
            default_policy: default_policy.as_ref().map(Into::into),
            authz: authz.iter().map(Into::into).collect(),
            lifecycle: lifecycle.into(),
        }
    }
}

fn mtls(value: i32) -> Result<MtlsMode, Invalid> {
    Ok(match known(value, "MtlsMode")? {
        wire::MtlsMode::Permissive => MtlsMode::Permissive,
        wire::MtlsMode::Strict => MtlsMode::Strict,
    })
}

impl From<MtlsMode> for wire::MtlsMode {
    fn from(mode: MtlsMode) -> Self {
        match mode {
            MtlsMode::Permissive => Self::Permissive,
            MtlsMode::Strict => Self::Strict,
        }
    }
}

impl TryFrom<wire::InboundPort> for InboundPort {
    type Error = Invalid;

    fn try_from(inbound: wire::InboundPort) -> Result<Self, Invalid> {
        let wire::InboundPort { port: number, protocol: declared, mtls: mode, service, probe_paths, scrape_paths } =
            inbound;
        Ok(Self {
            port: port(number).at("port")?,
            protocol: protocol(declared).at("protocol")?,
            mtls: mtls(mode).at("mtls")?,
            service: service.map(ServiceKey::try_from).transpose().at("service")?,
            probe_paths: list(probe_paths, bounds::OPEN_PATHS_MAX, path).at("probe_paths")?,
            scrape_paths: list(scrape_paths, bounds::OPEN_PATHS_MAX, path).at("scrape_paths")?,
        })
    }
}

impl From<&InboundPort> for wire::InboundPort {
    fn from(inbound: &InboundPort) -> Self {
        let InboundPort { port, protocol, mtls, service, probe_paths, scrape_paths } = inbound;
        Self {
            port: u32::from(*port),
            protocol: wire::AppProtocol::from(*protocol).into(),
            mtls: wire::MtlsMode::from(*mtls).into(),
            service: service.as_ref().map(Into::into),
            probe_paths: probe_paths.iter().map(ToString::to_string).collect(),
            scrape_paths: scrape_paths.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<wire::AuthzPolicy> for AuthzPolicy {
    type Error = Invalid;

    fn try_from(policy: wire::AuthzPolicy) -> Result<Self, Invalid> {
        let wire::AuthzPolicy { id, action, ports, rules } = policy;
        let unknown = Problem::UnknownValue { name: "AuthzAction", value: action };
        let action = match known(action, "AuthzAction").at("action")? {
            wire::AuthzAction::Unspecified => return Err(unknown.into()).at("action"),
            wire::AuthzAction::Allow => AuthzAction::Allow,
            wire::AuthzAction::Deny => AuthzAction::Deny,
            wire::AuthzAction::Audit => AuthzAction::Audit,
        };
        Ok(Self {
            id: required(id).and_then(PolicyId::try_from).at("id")?,
            action,
            ports: list(ports, bounds::AUTHZ_ALTERNATIVES_MAX, port).at("ports")?,
            rules: list(rules, bounds::AUTHZ_RULES_MAX, AuthzRule::try_from).at("rules")?,
        })
    }
}

impl From<&AuthzPolicy> for wire::AuthzPolicy {
    fn from(policy: &AuthzPolicy) -> Self {
        let AuthzPolicy { id, action, ports, rules } = policy;
        let action = match action {
            AuthzAction::Allow => wire::AuthzAction::Allow,
            AuthzAction::Audit => wire::AuthzAction::Audit,
            AuthzAction::Deny => wire::AuthzAction::Deny,
        };
        Self {
            id: Some(id.into()),
            action: action.into(),
            ports: ports.iter().copied().map(u32::from).collect(),
            rules: rules.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::AuthzRule> for AuthzRule {
    type Error = Invalid;

    fn try_from(rule: wire::AuthzRule) -> Result<Self, Invalid> {
        let wire::AuthzRule { from, to } = rule;
        Ok(Self {
            from: list(from, bounds::AUTHZ_ALTERNATIVES_MAX, PeerMatch::try_from).at("from")?,
            to: list(to, bounds::AUTHZ_ALTERNATIVES_MAX, OperationMatch::try_from).at("to")?,
        })
    }
}

impl From<&AuthzRule> for wire::AuthzRule {
    fn from(rule: &AuthzRule) -> Self {
        let AuthzRule { from, to } = rule;
        Self { from: from.iter().map(Into::into).collect(), to: to.iter().map(Into::into).collect() }
    }
}

impl TryFrom<wire::PeerMatch> for PeerMatch {
    type Error = Invalid;

    fn try_from(peer: wire::PeerMatch) -> Result<Self, Invalid> {
        use wire::peer_match::Kind;
        match required(peer.kind).at("kind")? {
            Kind::Authenticated(wire::Unit {}) => Ok(Self::Authenticated),
            Kind::Identity(id) => {
                Ok(Self::Identity(id.parse::<SpiffeId>().map_err(|e| Problem::from(e).into()).at("identity")?))
            }
            Kind::Namespace(namespace) => Ok(Self::Namespace(dns_label(namespace).at("namespace")?)),
        }
    }
}

impl From<&PeerMatch> for wire::PeerMatch {
    fn from(peer: &PeerMatch) -> Self {
        use wire::peer_match::Kind;
        let kind = match peer {
            PeerMatch::Authenticated => Kind::Authenticated(wire::Unit {}),
            PeerMatch::Identity(id) => Kind::Identity(id.as_str().to_owned()),
            PeerMatch::Namespace(namespace) => Kind::Namespace(namespace.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::OperationMatch> for OperationMatch {
    type Error = Invalid;

    fn try_from(operation: wire::OperationMatch) -> Result<Self, Invalid> {
        let wire::OperationMatch { ports, methods, paths } = operation;
        Ok(Self {
            ports: list(ports, bounds::AUTHZ_ALTERNATIVES_MAX, port).at("ports")?,
            methods: list(methods, bounds::AUTHZ_ALTERNATIVES_MAX, |m| method(&m)).at("methods")?,
            paths: list(paths, bounds::AUTHZ_ALTERNATIVES_MAX, pattern).at("paths")?,
        })
    }
}

impl From<&OperationMatch> for wire::OperationMatch {
    fn from(operation: &OperationMatch) -> Self {
        let OperationMatch { ports, methods, paths } = operation;
        let pattern = |pattern: &PathPattern| {
            use wire::path_match::Kind;
            let kind = match pattern {
                PathPattern::Exact(s) => Kind::Exact(s.to_string()),
                PathPattern::Prefix(s) => Kind::Prefix(s.to_string()),
            };
            wire::PathMatch { kind: Some(kind) }
        };
        Self {
            ports: ports.iter().copied().map(u32::from).collect(),
            methods: methods.iter().map(Method::to_string).collect(),
            paths: paths.iter().map(pattern).collect(),
        }
    }
}

fn pattern(matched: wire::PathMatch) -> Result<PathPattern, Invalid> {
    use wire::path_match::Kind;
    match required(matched.kind).at("kind")? {
        Kind::Exact(s) => Ok(PathPattern::Exact(path(s).at("exact")?)),
        Kind::Prefix(s) => Ok(PathPattern::Prefix(path(s).at("prefix")?)),
        // Policies know none, and must not take one for every path.
        Kind::GrpcMethod(_) => Err(Problem::Missing.into()).at("kind"),
    }
}
