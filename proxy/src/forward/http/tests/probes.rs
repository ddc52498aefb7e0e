//! Probes that get by on the exception for their path, and are sent on by the application.

use std::time::Duration;

use weft_model::AppProtocol;
use weft_model::policy::{DefaultAuthorization, MtlsMode};
use weft_model::probes::{Action, HttpGet, Occasion, Probe, Probes};
use weft_model::resources::{InboundPort, InboundSpec};

use super::world::{Server, Setting, World, id, inbound, local, say};

fn declared(port: u16, path: &str) -> Probes {
    let get = HttpGet { port, tls: false, path: path.to_owned(), headers: Vec::new() };
    let (container, occasion, timeout) = ("cart".to_owned(), Occasion::Readiness, Duration::from_secs(1));
    Probes::new(vec![Probe { container, occasion, timeout, action: Action::Http(get), key: None }]).unwrap()
}

fn policy(port: u16, mtls: MtlsMode, default_authorization: DefaultAuthorization) -> InboundSpec {
    let probe_paths = vec!["/".into(), "/untold".into()];
    let (protocol, service, scrape_paths) = (AppProtocol::Http, None, Vec::new());
    let port = InboundPort { port, protocol, mtls, service, probe_paths, scrape_paths };
    InboundSpec { ports: vec![port], default_authorization, ..inbound() }
}

#[tokio::test]
async fn a_redirect_of_a_probe_is_sent_to_the_probe_server_where_its_target_may_be_closed() {
    use DefaultAuthorization::{Allow, Deny};
    use MtlsMode::{Permissive, Strict};
    const DETOUR: &str = "http://127.0.0.1:14003/probe/cart/readiness";
    local(async {
        let app = Server::answering(|head| {
            let (status, location) =
                if head.starts_with("GET /ok") { ("200 OK", "") } else { ("302 Found", "Location: /login\r\n") };
            format!("HTTP/1.1 {status}\r\n{location}Content-Length: 0\r\n\r\n")
        })
        .await;
        let port = app.addr.port();
        for (mtls, default, peer, path, want) in [
            (Permissive, Deny, None, "/", Some(DETOUR)),
            (Permissive, Deny, None, "/?full=1", Some(DETOUR)),
            (Strict, Allow, None, "/", Some(DETOUR)),
            // Nothing is closed: the kubelet gets through by itself.
            (Permissive, Allow, None, "/", Some("/login")),
            (Permissive, Allow, None, "/other", Some("/login")),
            (Permissive, Allow, None, "/ok", None),
            // Not the kubelet, and not what the proxy was told of.
            (Permissive, Deny, Some(id("web")), "/", Some("/login")),
            (Permissive, Deny, None, "/untold", Some("/login")),
        ] {
            let (inbound, probes) = (policy(port, mtls, default), declared(port, "/?full=1"));
            let world = World::with(Setting { inbound, probes, ..Setting::default() });
            let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            let answer = say(world.http1(world.inbound(app.addr, peer.clone())).await, &request).await;
            let location = answer.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("location").then_some(value)
            });
            assert_eq!(location, want, "{mtls:?} {default:?} {peer:?} {path}: {answer}");
        }
    })
    .await;
}
