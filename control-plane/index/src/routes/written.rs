//! Routes as they were written, whichever of Gateway API's kinds they are: the generated types of the kinds have the same fields
//! under different names.

use gateway_api::experimental::{grpcroutes as grpc, httproutes as http};

/// What a route is attached to.
pub(super) struct ParentRef<'a> {
    pub(super) group: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
    pub(super) port: Option<i32>,
    pub(super) section: Option<&'a str>,
}

/// Where a rule sends to.
pub(super) struct BackendRef<'a> {
    pub(super) group: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
    pub(super) port: Option<i32>,
    pub(super) weight: Option<i32>,
    pub(super) filters: Vec<Filter<'a>>,
}

/// A filter.
#[derive(Default)]
pub(super) struct Filter<'a> {
    /// Its `type`, as it is written.
    pub(super) kind: String,
    pub(super) request_headers: Option<Headers<'a>>,
    pub(super) response_headers: Option<Headers<'a>>,
    pub(super) rewrite: Option<Rewrite<'a>>,
    pub(super) redirect: Option<Redirect<'a>>,
}

/// What a filter of headers changes.
pub(super) struct Headers<'a> {
    pub(super) set: Vec<(&'a str, &'a str)>,
    pub(super) add: Vec<(&'a str, &'a str)>,
    pub(super) remove: Vec<&'a str>,
}

/// What a rewrite changes.
pub(super) struct Rewrite<'a> {
    pub(super) hostname: Option<&'a str>,
    pub(super) path: Option<Path<'a>>,
}

/// Where a redirect points to.
pub(super) struct Redirect<'a> {
    /// As it is written.
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<&'a str>,
    pub(super) path: Option<Path<'a>>,
    pub(super) port: Option<i32>,
    /// As it is written.
    pub(super) status: Option<String>,
}

/// What a path becomes.
pub(super) struct Path<'a> {
    /// Its `type`, as it is written.
    pub(super) kind: String,
    pub(super) full: Option<&'a str>,
    pub(super) prefix: Option<&'a str>,
}

/// Fields of the same name in every kind's type.
macro_rules! parent_ref {
    ($ref:expr) => {
        ParentRef {
            group: $ref.group.as_deref(),
            kind: $ref.kind.as_deref(),
            name: &$ref.name,
            namespace: $ref.namespace.as_deref(),
            port: $ref.port,
            section: $ref.section_name.as_deref(),
        }
    };
}

macro_rules! backend_ref {
    ($ref:expr, $filter:ident) => {
        BackendRef {
            group: $ref.group.as_deref(),
            kind: $ref.kind.as_deref(),
            name: &$ref.name,
            namespace: $ref.namespace.as_deref(),
            port: $ref.port,
            weight: $ref.weight,
            filters: $ref.filters.iter().flatten().map(|filter| $filter!(filter)).collect(),
        }
    };
}

macro_rules! headers {
    ($headers:expr) => {
        $headers.as_ref().map(|m| Headers {
            set: m.set.iter().flatten().map(|h| (h.name.as_str(), h.value.as_str())).collect(),
            add: m.add.iter().flatten().map(|h| (h.name.as_str(), h.value.as_str())).collect(),
            remove: m.remove.iter().flatten().map(String::as_str).collect(),
        })
    };
}

macro_rules! grpc_filter {
    ($filter:expr) => {
        Filter {
            kind: format!("{:?}", $filter.r#type),
            request_headers: headers!($filter.request_header_modifier),
            response_headers: headers!($filter.response_header_modifier),
            ..Filter::default()
        }
    };
}

macro_rules! path {
    ($path:expr) => {
        $path.as_ref().map(|path| Path {
            kind: format!("{:?}", path.r#type),
            full: path.replace_full_path.as_deref(),
            prefix: path.replace_prefix_match.as_deref(),
        })
    };
}

macro_rules! http_filter {
    ($filter:expr) => {
        Filter {
            rewrite: $filter
                .url_rewrite
                .as_ref()
                .map(|it| Rewrite { hostname: it.hostname.as_deref(), path: path!(it.path) }),
            redirect: $filter.request_redirect.as_ref().map(|it| Redirect {
                scheme: it.scheme.as_ref().map(|scheme| format!("{scheme:?}").to_lowercase()),
                hostname: it.hostname.as_deref(),
                path: path!(it.path),
                port: it.port,
                // The generated names are `_301` and so on.
                status: it.status_code.as_ref().map(|code| format!("{code:?}").trim_start_matches('_').to_owned()),
            }),
            ..grpc_filter!($filter)
        }
    };
}

/// The parents of an HTTPRoute.
pub(super) fn http_parents(route: &http::HttpRoute) -> Vec<ParentRef<'_>> {
    route.spec.parent_refs.iter().flatten().map(|parent| parent_ref!(parent)).collect()
}

/// The parents of a GRPCRoute.
pub(super) fn grpc_parents(route: &grpc::GrpcRoute) -> Vec<ParentRef<'_>> {
    route.spec.parent_refs.iter().flatten().map(|parent| parent_ref!(parent)).collect()
}

/// The filters and backends of an HTTPRoute's rule.
pub(super) fn http_rule(rule: &http::HttpRouteRules) -> (Vec<Filter<'_>>, Vec<BackendRef<'_>>) {
    let filters = rule.filters.iter().flatten().map(|filter| http_filter!(filter)).collect();
    let backends = rule.backend_refs.iter().flatten().map(|backend| backend_ref!(backend, http_filter)).collect();
    (filters, backends)
}

/// The filters and backends of a GRPCRoute's rule.
pub(super) fn grpc_rule(rule: &grpc::GrpcRouteRules) -> (Vec<Filter<'_>>, Vec<BackendRef<'_>>) {
    let filters = rule.filters.iter().flatten().map(|filter| grpc_filter!(filter)).collect();
    let backends = rule.backend_refs.iter().flatten().map(|backend| backend_ref!(backend, grpc_filter)).collect();
    (filters, backends)
}
