//! What is sent twice, and what never is.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use h2::Reason;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use weft_model::EndpointSpec;
use weft_model::policy::{BackendPolicy, ConnectTimeout, RetryBudget, RetryPolicy};
use weft_model::resources::ServiceSpec;
use weft_tls::testing::{ManualTime, TestCa};

use super::world::{
    Server, Setting, World, endpoint, h2_request, h2_server, id, local, nobody, passthrough, read_exactly, read_head,
    say, service_of, spec, to, with_spec,
};
use crate::io::Io;
use crate::resolve::Target;

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

pub(super) fn policy() -> RetryPolicy {
    RetryPolicy {
        status_codes: vec![503],
        grpc_codes: vec![14],
        on_reset: true,
        attempts: 2,
        backoff: Duration::from_millis(1),
        non_idempotent: false,
    }
}

fn with_policy() -> ServiceSpec {
    ServiceSpec { retry: Some(policy()), ..spec() }
}

fn request(method: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

/// Counts what was executed.
#[derive(Clone, Default)]
struct Counter(Rc<Cell<u32>>);

impl Counter {
    fn add(&self) {
        self.0.set(self.0.get() + 1);
    }

    fn get(&self) -> u32 {
        self.0.get()
    }
}

/// A server that does what is asked, counts it, and answers.
async fn honest(executed: &Counter) -> Server {
    let executed = executed.clone();
    Server::answering(move |_| {
        executed.add();
        OK.to_owned()
    })
    .await
}

/// What a server of HTTP/1 does to a request that it does not answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    /// Closes without a look.
    Close,
    /// Executes, and closes.
    ExecuteAndClose,
    /// Executes, and resets.
    ExecuteAndReset,
    /// Executes, begins to answer, and closes.
    ExecuteAndBegin,
    /// Answers one request well; executes the next on the same connection, and closes.
    ExecuteSecond,
}

async fn unreliable(deed: Deed, executed: &Counter) -> Server {
    let executed = executed.clone();
    Server::start(move |mut io, _| {
        let executed = executed.clone();
        async move {
            if deed == Deed::Close {
                return;
            }
            if deed == Deed::ExecuteSecond {
                read_head(&mut io).await.unwrap();
                io.write_all(OK.as_bytes()).await.unwrap();
            }
            if read_head(&mut io).await.is_none() {
                return;
            }
            executed.add();
            match deed {
                Deed::ExecuteAndReset => Io::from(io).reset(),
                Deed::ExecuteAndBegin => io.write_all(b"HTTP/1.1 200 OK\r\nConte").await.unwrap(),
                Deed::Close | Deed::ExecuteAndClose | Deed::ExecuteSecond => {}
            }
        }
    })
    .await
}

/// A request in flight is lost: only a policy retries it, and never what is not idempotent.
#[tokio::test]
async fn what_may_have_been_executed_is_executed_once_unless_a_policy_says_otherwise() {
    let plain = spec;
    for deed in [Deed::Close, Deed::ExecuteAndClose, Deed::ExecuteAndReset, Deed::ExecuteAndBegin] {
        for (method, spec, retried) in [
            ("GET", spec(), false),
            ("POST", spec(), false),
            ("GET", with_policy(), true),
            ("POST", with_policy(), false),
            ("POST", ServiceSpec { retry: Some(RetryPolicy { non_idempotent: true, ..policy() }), ..plain() }, true),
        ] {
            local(async {
                let executed = Counter::default();
                let servers = [unreliable(deed, &executed).await, unreliable(deed, &executed).await];
                let world = World::new();
                let target = with_spec(spec, &[servers[0].addr, servers[1].addr]);
                let answer = say(world.http1(world.outbound(target)).await, &request(method)).await;
                assert_eq!(status(&answer), "502", "{deed:?} {method}");
                let attempts = servers.iter().map(Server::connections).sum::<usize>();
                assert_eq!(attempts, if retried { 3 } else { 1 }, "{deed:?} {method}");
                if !retried {
                    assert!(executed.get() <= 1, "{deed:?} {method}");
                }
                assert_eq!(world.count("weft_retries_total", &[]), if retried { 2 } else { 0 });
            })
            .await;
        }
    }
}

/// A pooled connection that the server closed: before the request is sent nobody notices; at the very moment, what is
/// idempotent is sent again, on a new connection.
#[tokio::test]
async fn a_closed_connection_of_the_pool_is_not_used_and_its_race_is_survived() {
    local(async {
        let executed = Counter::default();
        let server = unreliable(Deed::ExecuteSecond, &executed).await;
        for (method, want, retries) in [("GET", "200", 1), ("POST", "502", 0)] {
            for target in [to(&[server.addr]), passthrough(server.addr)] {
                let (world, before) = (World::new(), executed.get());
                for (n, want) in ["200", want].into_iter().enumerate() {
                    let client = world.http1(world.outbound(target.clone())).await;
                    let answer = say(client, &request(if n == 0 { "GET" } else { method })).await;
                    assert_eq!(status(&answer), want, "{method} {n}");
                }
                assert_eq!((executed.get() - before, world.count("weft_retries_total", &[])), (1, retries));
            }
        }
        // Closed while it is idle.
        let world = World::new();
        let server = Server::start(|mut io, _| async move {
            read_head(&mut io).await.unwrap();
            io.write_all(OK.as_bytes()).await.unwrap();
        })
        .await;
        for _ in 0..3 {
            let answer = say(world.http1(world.outbound(passthrough(server.addr))).await, &request("POST")).await;
            assert_eq!(status(&answer), "200");
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((server.connections(), world.count("weft_retries_total", &[])), (3, 0));
    })
    .await;
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_also_for_post() {
    local(async {
        let executed = Counter::default();
        let server = honest(&executed).await;
        let world = World::new();
        let target = to(&[nobody().await, nobody().await, server.addr]);
        for n in 1..=20 {
            let answer = say(world.http1(world.outbound(target.clone())).await, &request("POST")).await;
            assert_eq!((status(&answer), executed.get()), ("200", n));
        }
        assert!(world.count("weft_retries_total", &[]) > 0);
    })
    .await;
}

/// What a server of HTTP/2 does to each request on its first connections.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// GOAWAY with an id below the request's: it was not looked at.
    GoawayAbove,
    /// GOAWAY with the request's id: it is being worked on, and is answered.
    GoawayBelow,
    /// The same, but the connection breaks before the answer.
    GoawayBelowAndBreak,
    /// `REFUSED_STREAM`.
    Refuse,
    /// Another reset: who knows.
    Reset,
}

/// Frames by hand: the crate's own server does not say such things.
async fn scripted(word: Word, executed: &Counter) -> Server {
    let executed = executed.clone();
    Server::start(move |mut io, _| {
        let executed = executed.clone();
        async move {
            read_exactly(&mut io, 24).await;
            io.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            while let Some((kind, stream)) = read_frame(&mut io).await {
                if kind != 1 {
                    continue;
                }
                let id = u32::to_be_bytes(stream);
                let goaway = |last: u32| [&b"\0\0\x08\x07\0\0\0\0\0"[..], &last.to_be_bytes(), &[0; 4]].concat();
                let reset = |code: u8| [&b"\0\0\x04\x03\0"[..], &id, &[0, 0, 0, code]].concat();
                // 204, as the static table has it, and the end of the stream.
                let answer = [&b"\0\0\x01\x01\x05"[..], &id, b"\x89"].concat();
                match word {
                    Word::GoawayAbove => io.write_all(&goaway(stream.saturating_sub(2))).await.unwrap(),
                    Word::GoawayBelow => {
                        executed.add();
                        io.write_all(&goaway(stream)).await.unwrap();
                        io.write_all(&answer).await.unwrap();
                    }
                    Word::GoawayBelowAndBreak => {
                        executed.add();
                        io.write_all(&goaway(stream)).await.unwrap();
                        sleep(Duration::from_millis(10)).await;
                        return;
                    }
                    Word::Refuse => io.write_all(&reset(7)).await.unwrap(),
                    Word::Reset => {
                        executed.add();
                        io.write_all(&reset(2)).await.unwrap();
                    }
                }
            }
        }
    })
    .await
}

/// The kind and stream of the next frame.
async fn read_frame(io: &mut TcpStream) -> Option<(u8, u32)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.ok()?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; len as usize];
    io.read_exact(&mut payload).await.ok()?;
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
}

#[tokio::test]
async fn http2_is_retried_where_the_server_did_nothing() {
    for (word, method, spec, status, retries, executions) in [
        (Word::Refuse, "POST", spec(), 204, 1, 1),
        (Word::GoawayAbove, "POST", spec(), 204, 1, 1),
        (Word::GoawayBelow, "POST", spec(), 204, 0, 1),
        (Word::GoawayBelowAndBreak, "POST", spec(), 502, 0, 1),
        (Word::GoawayBelowAndBreak, "GET", spec(), 502, 0, 1),
        (Word::GoawayBelowAndBreak, "GET", with_policy(), 204, 1, 2),
        (Word::Reset, "POST", with_policy(), 502, 0, 1),
        (Word::Reset, "GET", with_policy(), 204, 1, 2),
    ] {
        local(async {
            let executed = Counter::default();
            let (bad, counter) = (scripted(word, &executed).await, executed.clone());
            let good = h2_server(move |_, mut respond| {
                counter.add();
                async move { drop(respond.send_response(Response::builder().status(204).body(()).unwrap(), true)) }
            })
            .await;
            // The dice decide which endpoint is first: until it was the bad one.
            loop {
                let (world, before) = (World::new(), executed.get());
                let target = with_spec(spec.clone(), &[bad.addr, good.addr]);
                let mut client = world.http2(world.outbound(target)).await;
                let (met, response) = (bad.connections(), client.send_request(h2_request(method), true).unwrap().0);
                let response = response.await.unwrap();
                if bad.connections() == met {
                    continue;
                }
                assert_eq!(response.status().as_u16(), status, "{word:?} {method}");
                assert_eq!(world.count("weft_retries_total", &[]), retries, "{word:?} {method}");
                assert_eq!(executed.get() - before, executions, "{word:?} {method}");
                break;
            }
        })
        .await;
    }
}

/// The pool learns of a GOAWAY: the next request takes a new connection, and that is no retry.
#[tokio::test]
async fn a_shared_connection_that_takes_no_more_is_replaced() {
    for target in [to as fn(&[SocketAddr]) -> Target, |addrs| passthrough(addrs[0])] {
        local(async {
            let server = Server::start(|io, _| async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                // Serves one request, says GOAWAY, and lives on for as long as the client wants.
                let (_, mut respond) = connection.accept().await.unwrap().unwrap();
                respond.send_response(Response::new(()), true).unwrap();
                connection.graceful_shutdown();
                while connection.accept().await.is_some() {}
            })
            .await;
            let world = World::new();
            for n in 1..=5 {
                let mut client = world.http2(world.outbound(target(&[server.addr]))).await;
                let (response, _) = client.send_request(h2_request("POST"), true).unwrap();
                assert_eq!(response.await.unwrap().status(), 200);
                sleep(Duration::from_millis(10)).await;
                assert_eq!(server.connections(), n);
            }
            assert_eq!(world.count("weft_retries_total", &[]), 0);
        })
        .await;
    }
}

#[tokio::test]
async fn no_retry_goes_beyond_the_budget() {
    local(async {
        let budget = RetryBudget { percent: 0, min_per_second: 1 };
        let world = World::new();
        let target = with_spec(ServiceSpec { retry_budget: budget, ..spec() }, &[nobody().await, nobody().await]);
        for _ in 0..30 {
            let answer = say(world.http1(world.outbound(target.clone())).await, &request("GET")).await;
            assert_eq!(status(&answer), "503");
        }
        // One a second, over the ten seconds that it looks back.
        assert_eq!(world.count("weft_retries_total", &[]), 10);
        assert!(world.count("weft_retry_budget_exhausted_total", &[]) >= 20);
    })
    .await;
}

/// By status, by gRPC status, by both not.
#[tokio::test]
async fn a_policy_retries_by_status() {
    for (code, grpc, spec, attempts) in [
        (503, None, with_policy(), 3),
        (503, None, spec(), 1),
        (500, None, with_policy(), 1),
        (200, Some("14"), with_policy(), 3),
        (200, Some("13"), with_policy(), 1),
    ] {
        local(async {
            let asked = Counter::default();
            let counter = asked.clone();
            let server = h2_server(move |_, mut respond| {
                counter.add();
                async move {
                    let response = Response::builder().status(code);
                    let response =
                        grpc.into_iter().fold(response, |response, code| response.header("grpc-status", code));
                    respond.send_response(response.body(()).unwrap(), true).unwrap();
                }
            })
            .await;
            let world = World::new();
            let mut client = world.http2(world.outbound(with_spec(spec, &[server.addr]))).await;
            let (response, _) = client.send_request(h2_request("GET"), true).unwrap();
            assert_eq!((response.await.unwrap().status().as_u16(), asked.get()), (code, attempts), "{code} {grpc:?}");
        })
        .await;
    }
}

/// The peer's proxy says that its application is not there: in both versions the request goes elsewhere, and an
/// impostor next to no proxy is not believed.
#[tokio::test]
async fn a_proxy_whose_application_is_away_is_passed_over() {
    local(async {
        let (ca, time) = (TestCa::new("mesh"), ManualTime::new());
        let mesh =
            |account: &str| World::with(Setting { tls: ca.mesh(id(account).as_str(), &time), ..Setting::default() });
        let (near, far) = (mesh("web"), mesh("order"));
        let executed = Counter::default();
        let app = honest(&executed).await;
        let meshed = |addr| EndpointSpec { identity: Some(id("order")), ..endpoint(addr) };
        let endpoints =
            vec![meshed(far.listen_inbound(app.addr).await), meshed(far.listen_inbound(nobody().await).await)];
        let target = Target::Service(service_of(spec(), endpoints, BackendPolicy::default()));
        for n in 1..=20 {
            let answer = say(near.http1(near.outbound(target.clone())).await, &request("POST")).await;
            assert_eq!((status(&answer), executed.get()), ("200", n));
        }
        let away = far.ended("app-connect");
        assert!(away > 0);
        // HTTP/2: the far proxy says REFUSED_STREAM, and the near one, with nobody else to ask, names a reason.
        let alone = vec![meshed(far.listen_inbound(nobody().await).await)];
        let target = Target::Service(service_of(spec(), alone, BackendPolicy::default()));
        let mut client = near.http2(near.outbound(target)).await;
        let response = client.send_request(h2_request("POST"), true).unwrap().0.await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.headers()["weft-error"].as_bytes()),
            (502, &b"upstream-reset"[..])
        );
        assert!(far.ended("app-connect") > away);

        let liar = Server::answering(|_| {
            "HTTP/1.1 503 Service Unavailable\r\nweft-error: app-connect\r\nContent-Length: 0\r\n\r\n".to_owned()
        })
        .await;
        let world = World::new();
        let answer = say(world.http1(world.outbound(to(&[liar.addr, liar.addr]))).await, &request("GET")).await;
        assert!(status(&answer) == "503" && !answer.contains("weft-error"), "{answer}");
        assert_eq!(liar.connections(), 1);
    })
    .await;
}

/// A burst to an endpoint that does not answer fails after one connect timeout, not after one each.
#[tokio::test]
async fn those_who_wait_for_one_dial_fail_with_it() {
    local(async {
        let silent = Server::start(|io, _| async move {
            sleep(Duration::from_secs(60)).await;
            drop(io);
        })
        .await;
        let (ca, time) = (TestCa::new("mesh"), ManualTime::new());
        let world = World::with(Setting { tls: ca.mesh(id("web").as_str(), &time), ..Setting::default() });
        let policy =
            BackendPolicy { connect_timeout: ConnectTimeout(Duration::from_millis(300)), ..BackendPolicy::default() };
        let endpoints = vec![EndpointSpec { identity: Some(id("order")), ..endpoint(silent.addr) }];
        let spec = ServiceSpec { retry_budget: RetryBudget { percent: 0, min_per_second: 0 }, ..spec() };
        let target = Target::Service(service_of(spec, endpoints, policy));
        let mut client = world.http2(world.outbound(target)).await;
        let begin = tokio::time::Instant::now();
        let asked: Vec<_> = (0..20).map(|_| client.send_request(h2_request("GET"), true).unwrap().0).collect();
        for response in asked {
            assert_eq!(response.await.unwrap().headers()["weft-error"], "connect-timeout");
        }
        assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    })
    .await;
}

/// Who gives up while there is no connection yet is not waited for.
#[tokio::test]
async fn a_client_that_gives_up_ends_the_attempt_to_connect() {
    local(async {
        let silent = Server::start(|mut io, _| async move {
            sleep(Duration::from_secs(60)).await;
            drop(io.shutdown().await);
        })
        .await;
        let (ca, time) = (TestCa::new("mesh"), ManualTime::new());
        let world = World::with(Setting { tls: ca.mesh(id("web").as_str(), &time), ..Setting::default() });
        let policy =
            BackendPolicy { connect_timeout: ConnectTimeout(Duration::from_secs(60)), ..BackendPolicy::default() };
        let endpoints = vec![EndpointSpec { identity: Some(id("order")), ..endpoint(silent.addr) }];
        let target = Target::Service(service_of(spec(), endpoints, policy));
        let mut client = world.http2(world.outbound(target)).await;
        let (response, mut stream) = client.send_request(h2_request("GET"), true).unwrap();
        sleep(Duration::from_millis(20)).await;
        stream.send_reset(Reason::CANCEL);
        drop(response);
        world.until_ended("client-gone", 1).await;
    })
    .await;
}
