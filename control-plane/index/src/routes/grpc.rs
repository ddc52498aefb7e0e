//! GRPCRoute: a gRPC method is a path (gRPC's `doc/PROTOCOL-HTTP2.md`), the rest is as in HTTPRoute.

use std::sync::Arc;

use gateway_api::experimental::grpcroutes as api;
use weft_model::route::{HttpMatch, PathMatch, Timeouts};

use super::{At, RouteEntry, WrittenRoute, WrittenRule, header_matches, written};
use crate::object::{Kind, Name};
use crate::read::{Read, created};

/// Reads a GRPCRoute.
pub(crate) fn read(name: &Name, route: &api::GrpcRoute) -> Read<RouteEntry> {
    let rules = route.spec.rules.as_deref().unwrap_or_default();
    let route = WrittenRoute {
        kind: Kind::GrpcRoute,
        name,
        created: created(&route.metadata),
        has_hostnames: route.spec.hostnames.as_ref().is_some_and(|names| !names.is_empty()),
        parents: written::grpc_parents(route),
    };
    super::read(&route, rules, |rule, _field, _problems| {
        let (filters, backends) = written::grpc_rule(rule);
        WrittenRule {
            name: rule.name.as_deref(),
            matches: rule.matches.iter().flatten().map(grpc_match).collect(),
            filters,
            backends,
            is_sticky: rule.session_persistence.is_some(),
            timeouts: Timeouts::default(),
            retry: None,
        }
    })
}

fn grpc_match(written: &api::GrpcRouteRulesMatches) -> At<HttpMatch> {
    let headers = header_matches(written.headers.iter().flatten().map(|header| {
        let is_exact = matches!(header.r#type, None | Some(api::GrpcRouteRulesMatchesHeadersType::Exact));
        (is_exact, header.name.as_str(), header.value.as_str())
    }))?;
    let path = written.method.as_ref().map(method).transpose()?;
    Ok(HttpMatch { path, headers, ..HttpMatch::default() })
}

fn method(written: &api::GrpcRouteRulesMatchesMethod) -> At<PathMatch> {
    let refused = |why: String| Err(("method", why));
    if !matches!(written.r#type, None | Some(api::GrpcRouteRulesMatchesMethodType::Exact)) {
        return refused("RegularExpression is not supported".to_owned());
    }
    let name = |name: &'_ Option<String>| name.clone().filter(|name| !name.is_empty());
    let (service, method) = (name(&written.service), name(&written.method));
    if let Some(odd) = [&service, &method].into_iter().flatten().find(|name| name.contains(['/', '?', '#'])) {
        return refused(format!("{odd:?} is not the name of a gRPC service or method"));
    }
    match (service, method) {
        (Some(service), Some(method)) => Ok(PathMatch::Exact(Arc::from(format!("/{service}/{method}")))),
        (Some(service), None) => Ok(PathMatch::Prefix(Arc::from(format!("/{service}")))),
        (None, Some(method)) => Ok(PathMatch::GrpcMethod(Arc::from(method))),
        (None, None) => refused("names neither a service nor a method".to_owned()),
    }
}
