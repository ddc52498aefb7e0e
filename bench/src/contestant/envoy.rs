//! Two Envoys, configured as sidecars are, by files alone: the original destination decides, mutual TLS 1.3 in between, no
//! access log, no request ids, only the router filter, one worker, no bound on connections that the load could meet.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use weft_cli::mesh::http;
use weft_cli::world::{Family, Host, World};
use weft_init::Options;

use super::Proxy;
use super::certificates::{self, Files, IDENTITY};
use crate::server::{BYTES_PORT, GRPC_PORT, HTTP1_PORT, HTTP2_PORT};

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// More than any load opens.
const NO_BOUND: u32 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Inbound,
    Outbound,
}

/// Starts the outbound and the inbound one.
pub(super) fn start(world: &World, [client, server]: [&Host; 2], program: &Path) -> anyhow::Result<[Proxy; 2]> {
    let files = certificates::write(world.directory())?;
    let target = server.address(Family::V4).to_string();
    let start = |host: &Host, direction| {
        let path = world.directory().join(format!("envoy-{}.json", host.name()));
        fs::write(&path, configuration(direction, &target, &files).to_string())
            .with_context(|| format!("writing {}", path.display()))?;
        let args = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path"];
        let args = args.into_iter().map(str::to_owned).chain([path.display().to_string()]).collect();
        Proxy::start(host, program, args, is_ready)
    };
    Ok([start(client, Direction::Outbound)?, start(server, Direction::Inbound)?])
}

/// Whether it says that it takes connections.
fn is_ready(host: &Host, _: &Proxy) -> bool {
    let admin = ([127, 0, 0, 1], Options::ADMIN_PORT.get()).into();
    http::get(host, admin, "/ready").is_ok_and(|answer| answer.status == 200)
}

fn configuration(direction: Direction, server: &str, files: &Files) -> Value {
    let (address, port) = match direction {
        Direction::Inbound => ("0.0.0.0", Options::INBOUND_PORT.get()),
        Direction::Outbound => ("127.0.0.1", Options::OUTBOUND_PORT.get()),
    };
    let ports = [HTTP1_PORT, HTTP2_PORT, GRPC_PORT, BYTES_PORT];
    let chain = |port: u16| {
        let mut chain = json!({
            "filter_chain_match": { "destination_port": port },
            "filters": [if port == BYTES_PORT { bytes(port) } else { http(port) }],
        });
        if direction == Direction::Inbound {
            set(&mut chain, "transport_socket", tls(direction, files));
        }
        chain
    };
    let cluster = |port: u16| {
        let mut cluster = cluster(port, server);
        if direction == Direction::Outbound {
            set(&mut cluster, "transport_socket", tls(direction, files));
        }
        cluster
    };
    json!({
        "admin": { "address": socket("127.0.0.1", Options::ADMIN_PORT.get()) },
        "static_resources": {
            "listeners": [{
                "name": "captured",
                "address": socket(address, port),
                "listener_filters": [{
                    "name": "envoy.filters.listener.original_dst",
                    "typed_config": { "@type": format!("{TYPES}.filters.listener.original_dst.v3.OriginalDst") },
                }],
                "filter_chains": ports.map(chain),
            }],
            "clusters": ports.map(cluster),
        },
    })
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn socket(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

fn http(port: u16) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": format!("p{port}"),
            "codec_type": if port == HTTP1_PORT { "HTTP1" } else { "HTTP2" },
            "generate_request_id": false,
            "route_config": {
                "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": format!("p{port}") } }],
                }],
            },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
            }],
        },
    })
}

fn bytes(port: u16) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": format!("p{port}"),
            "cluster": format!("p{port}"),
        },
    })
}

fn cluster(port: u16, server: &str) -> Value {
    let mut cluster = json!({
        "name": format!("p{port}"),
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": NO_BOUND,
            "max_pending_requests": NO_BOUND,
            "max_requests": NO_BOUND,
        }] },
        "load_assignment": {
            "cluster_name": format!("p{port}"),
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(server, port) } }] }],
        },
    });
    if port == HTTP2_PORT || port == GRPC_PORT {
        let options = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { "http2_protocol_options": {} },
        } });
        set(&mut cluster, "typed_extension_protocol_options", options);
    }
    cluster
}

fn tls(direction: Direction, files: &Files) -> Value {
    let file = |path: &Path| json!({ "filename": path.display().to_string() });
    let common = json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{ "certificate_chain": file(&files.certificate), "private_key": file(&files.key) }],
        "validation_context": {
            "trusted_ca": file(&files.anchors),
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": IDENTITY } }],
        },
    });
    let (context, demand) = match direction {
        Direction::Inbound => ("DownstreamTlsContext", true),
        Direction::Outbound => ("UpstreamTlsContext", false),
    };
    let mut config = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.{context}"),
        "common_tls_context": common,
    });
    if demand {
        set(&mut config, "require_client_certificate", json!(true));
    }
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": config })
}
