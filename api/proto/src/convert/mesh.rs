//! What holds for the whole mesh.

#![expect(clippy::map_err_ignore, reason = "the field's text, which is shown, says more than a parser's error")]

use std::sync::Arc;

use ipnet::IpNet;
use weft_model::resources::{EgressMode, MeshSpec, TelemetrySpec};

use super::field::{At as _, known, list, not_longer, optional_text, range, shown};
use super::{Invalid, Problem, bounds};
use crate::proxy::v1 as wire;

impl TryFrom<wire::MeshConfig> for MeshSpec {
    type Error = Invalid;

    fn try_from(mesh: wire::MeshConfig) -> Result<Self, Invalid> {
        let wire::MeshConfig { trust_anchors, networks, egress, telemetry } = mesh;
        let trust_anchors = list(trust_anchors, bounds::TRUST_ANCHORS_MAX, anchor).at("trust_anchors")?;
        if trust_anchors.is_empty() {
            // Taking it would cut every connection of the mesh at once.
            return Err(Problem::Missing.into()).at("trust_anchors");
        }
        let egress = match known(egress, "EgressMode").at("egress")? {
            wire::EgressMode::Allow => EgressMode::Allow,
            wire::EgressMode::MeshOnly => EgressMode::MeshOnly,
        };
        Ok(Self {
            trust_anchors,
            networks: list(networks, bounds::NETWORKS_MAX, |s| network(&s)).at("networks")?,
            egress,
            telemetry: TelemetrySpec::try_from(telemetry.unwrap_or_default()).at("telemetry")?,
        })
    }
}

impl From<&MeshSpec> for wire::MeshConfig {
    fn from(mesh: &MeshSpec) -> Self {
        let MeshSpec { trust_anchors, networks, egress, telemetry } = mesh;
        let egress = match egress {
            EgressMode::Allow => wire::EgressMode::Allow,
            EgressMode::MeshOnly => wire::EgressMode::MeshOnly,
        };
        Self {
            trust_anchors: trust_anchors.clone(),
            networks: networks.iter().map(IpNet::to_string).collect(),
            egress: egress.into(),
            telemetry: Some(telemetry.into()),
        }
    }
}

fn anchor(der: Vec<u8>) -> Result<Vec<u8>, Invalid> {
    not_longer(der.len(), bounds::TRUST_ANCHOR_BYTES_MAX)?;
    if der.is_empty() { Err(Problem::Missing.into()) } else { Ok(der) }
}

/// A network without host bits; an IPv4-mapped IPv6 network would match nothing, because addresses are canonical.
fn network(s: &str) -> Result<IpNet, Invalid> {
    let wrong = || Problem::Network(shown(s, 128));
    let net: IpNet = s.parse().map_err(|_| wrong())?;
    match net {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(wrong().into()),
        _ => Ok(net.trunc()),
    }
}

impl TryFrom<wire::Telemetry> for TelemetrySpec {
    type Error = Invalid;

    fn try_from(telemetry: wire::Telemetry) -> Result<Self, Invalid> {
        let wire::Telemetry { access_log, trace_per_million, otlp_endpoint } = telemetry;
        let otlp_endpoint = optional_text(otlp_endpoint, bounds::URL_BYTES_MAX).at("otlp_endpoint")?;
        if let Some(url) = &otlp_endpoint {
            collector(url).at("otlp_endpoint")?;
        }
        Ok(Self {
            access_log,
            trace_per_million: range(trace_per_million, 0, 1_000_000).at("trace_per_million")?,
            otlp_endpoint,
        })
    }
}

impl From<&TelemetrySpec> for wire::Telemetry {
    fn from(telemetry: &TelemetrySpec) -> Self {
        let TelemetrySpec { access_log, trace_per_million, otlp_endpoint } = telemetry;
        Self {
            access_log: *access_log,
            trace_per_million: *trace_per_million,
            otlp_endpoint: otlp_endpoint.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

fn collector(url: &Arc<str>) -> Result<(), Invalid> {
    let wrong = || Problem::Url(shown(url, 128));
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    let plain = uri.scheme() == Some(&http::uri::Scheme::HTTP) && uri.path() == "/" && uri.query().is_none();
    let host =
        uri.authority().is_some_and(|a| !a.host().is_empty() && a.port_u16().is_some() && !a.as_str().contains('@'));
    if plain && host { Ok(()) } else { Err(wrong().into()) }
}
