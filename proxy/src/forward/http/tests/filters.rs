//! What a rule makes of a request's URL: what the backend is asked for, and where a client is sent.

use std::sync::Arc;

use weft_model::route::{BackendTarget, HttpFilter, HttpRule, PathModifier, Redirect, Rewrite, UrlScheme};

use super::reasons::{backend, routed, rule};
use super::world::{Server, World, h2_server, key, local, say, with_spec};

const NOTHING: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn rewriting(prefix: &str) -> HttpRule {
    let path = Some(PathModifier::Prefix(Arc::from("/v2")));
    let filters = vec![HttpFilter::Rewrite(Rewrite { hostname: Some(Arc::from("other.example")), path })];
    HttpRule { filters, ..rule(prefix, vec![backend(BackendTarget::Service(key()))]) }
}

fn redirecting(prefix: &str, status: u16) -> HttpRule {
    let redirect = Redirect {
        scheme: Some(UrlScheme::Https),
        hostname: None,
        path: Some(PathModifier::Prefix(Arc::from("/there"))),
        port: Some(8443),
        status,
    };
    HttpRule { filters: vec![HttpFilter::Redirect(redirect)], ..rule(prefix, Vec::new()) }
}

fn h2_get(path: &str) -> http::Request<()> {
    http::Request::get(format!("http://shop.example{path}")).body(()).unwrap()
}

#[tokio::test]
async fn a_backend_is_asked_for_what_the_rule_says() {
    local(async {
        let server = Server::answering(|head| {
            let target = head.split(' ').nth(1).unwrap_or_default();
            assert!(["/v2/b?c=1", "http://other.example/v2/b?c=1"].contains(&target), "{head}");
            assert!(head.to_lowercase().contains("\r\nhost: other.example\r\n"), "{head}");
            NOTHING.to_owned()
        })
        .await;
        let world = World::new();
        let target = with_spec(routed(vec![rewriting("/a")]), &[server.addr]);
        for request in [
            "GET /a/b?c=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            "GET http://h/a/b?c=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        ] {
            let answer = say(world.http1(world.outbound(target.clone())).await, request).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn both_spellings_of_an_authority_are_rewritten() {
    local(async {
        let server = h2_server(|request, mut respond| async move {
            let (head, _body) = request.into_parts();
            assert_eq!(head.uri.authority().map(http::uri::Authority::as_str), Some("other.example"));
            assert_eq!(head.uri.path(), "/v2/b");
            assert!(head.headers.get("host").is_none_or(|host| host == "other.example"), "{:?}", head.headers);
            respond.send_response(http::Response::new(()), true).unwrap();
        })
        .await;
        let world = World::new();
        let target = with_spec(routed(vec![rewriting("/a")]), &[server.addr]);
        let mut client = world.http2(world.outbound(target)).await;
        for with_host in [false, true] {
            let mut request = h2_get("/a/b");
            if with_host {
                let host = request.uri().authority().unwrap().as_str().parse().unwrap();
                request.headers_mut().insert("host", host);
            }
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
        }
    })
    .await;
}

#[tokio::test]
async fn a_redirect_is_answered_without_a_backend_and_is_no_failure() {
    local(async {
        let world = World::new();
        let target = with_spec(routed(vec![redirecting("/a", 307)]), &[]);
        let request = "GET /a/b?c=1 HTTP/1.1\r\nHost: h:80\r\nConnection: close\r\n\r\n";
        let answer = say(world.http1(world.outbound(target.clone())).await, request).await;
        assert!(answer.starts_with("HTTP/1.1 307 "), "{answer}");
        let lower = answer.to_lowercase();
        assert!(lower.contains("\r\nlocation: https://h:8443/there/b?c=1\r\n"), "{answer}");
        assert!(lower.contains("\r\ncontent-length: 0\r\n") && !lower.contains("weft-"), "{answer}");
        let labels = ["route=\"HTTPRoute/shop/r\"", "status_code=\"307\"", "class=\"success\""];
        assert_eq!(world.count("weft_requests_total", &labels), 1);

        let mut client = world.http2(world.outbound(target)).await;
        let (response, _) = client.send_request(h2_get("/a"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 307);
        assert_eq!(response.headers()["location"], "https://shop.example:8443/there");
    })
    .await;
}

#[tokio::test]
async fn a_redirect_of_an_upload_is_answered_before_it_is_sent() {
    local(async {
        let world = World::new();
        let target = with_spec(routed(vec![redirecting("/a", 308)]), &[]);
        let request = "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
        let answer = say(world.http1(world.outbound(target)).await, request).await;
        assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
        // What follows is a body or is not, and nobody can tell.
        assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
    })
    .await;
}
