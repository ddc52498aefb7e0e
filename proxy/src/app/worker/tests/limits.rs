//! Limits hold for the process, however many workers it has (semantics 23), and connections are spread (semantics 24).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_model::AppProtocol;
use weft_model::policy::{BackendPolicy, Ejection, RetryBudget};
use weft_model::resources::EndpointsDelta;

use super::world::{
    GET, OK, Settings, V4, ask, endpoints, expect, head, pair_of, service_spec, status, unmeshed, until,
};
use crate::record::Event;

const WORKERS: [usize; 2] = [1, 4];

fn with(workers: usize) -> Settings {
    Settings { workers, ..Settings::of(V4) }
}

#[tokio::test]
async fn connections_at_once() {
    for workers in WORKERS {
        let settings = Settings { connections_max: 3, ..with(workers) };
        let pair = pair_of(settings, |spec| spec.protocol = AppProtocol::Opaque).await;
        let mut clients = Vec::new();
        for _ in 0..7 {
            clients.push(pair.open().await);
        }
        let mut served = Vec::new();
        for _ in 0..3 {
            served.push(pair.accept().await);
        }
        let fourth = tokio::time::timeout(Duration::from_millis(100), pair.app.accept()).await;
        assert!(fourth.is_err(), "{workers} workers serve more than three");
        // Every place that is given back is taken by one that waited.
        drop((clients, served));
        for _ in 0..4 {
            drop(pair.accept().await);
        }
        until(|| pair.client.balance.total() == 0).await.expect("all ends");
    }
}

#[tokio::test]
async fn requests_at_once() {
    for workers in WORKERS {
        let pair = pair_of(Settings { requests_max: 4, ..with(workers) }, |_| {}).await;
        let mut clients = Vec::new();
        let mut at_app = Vec::new();
        for _ in 0..4 {
            let mut client = pair.open().await;
            client.write_all(GET.as_bytes()).await.unwrap();
            clients.push(client);
            let mut app = pair.accept().await;
            head(&mut app).await;
            at_app.push(app);
        }
        for _ in 0..3 {
            let refusal = ask(&mut pair.open().await, GET).await;
            assert_eq!(status(&refusal), 503, "{workers} workers");
            assert!(refusal.contains("weft-error: overloaded\r\n"), "{refusal}");
        }
        for (client, app) in clients.iter_mut().zip(&mut at_app) {
            app.write_all(OK.as_bytes()).await.unwrap();
            assert_eq!(status(&head(client).await), 200);
        }
        assert_eq!(pair.client.reason("overloaded"), 3, "{workers} workers");
    }
}

#[tokio::test]
async fn retries_of_a_service() {
    for workers in WORKERS {
        let budget = RetryBudget { percent: 0, min_per_second: 1 };
        let pair = pair_of(with(workers), |_| {}).await;
        let dead = std::net::TcpListener::bind((V4, 0)).unwrap().local_addr().unwrap();
        let mut spec = service_spec();
        spec.retry_budget = budget;
        spec.protocol = AppProtocol::Opaque;
        let policy = BackendPolicy { ejection: None, ..BackendPolicy::default() };
        let delta = EndpointsDelta { policy, ..endpoints([unmeshed(dead)]) };
        pair.client.told.service(pair.service, spec, &delta);
        for _ in 0..10 {
            pair.client.open_in_vain(pair.service).await;
        }
        // Ten connections wanted three retries each; one a second is ten in the window.
        assert_eq!(pair.client.counted(Event::UpstreamConnectFailed), 20, "{workers} workers");
        assert_eq!(pair.client.counted(Event::RetryBudgetEmpty), 7, "{workers} workers");
    }
}

#[tokio::test]
async fn failures_that_eject() {
    for workers in WORKERS {
        let pair = pair_of(with(workers), |_| {}).await;
        let dead = std::net::TcpListener::bind((V4, 0)).unwrap().local_addr().unwrap();
        let ejection = Ejection {
            consecutive_failures: 5,
            base: Duration::from_secs(60),
            max_ejected_percent: 100,
            panic_percent: 0,
            ..Ejection::default()
        };
        let policy = BackendPolicy { ejection: Some(ejection), ..BackendPolicy::default() };
        let mut spec = service_spec();
        spec.protocol = AppProtocol::Opaque;
        pair.client.told.service(pair.service, spec, &EndpointsDelta { policy, ..endpoints([unmeshed(dead)]) });
        // Four attempts each: the fifth failure ejects, after which there is none to try.
        for _ in 0..2 {
            pair.client.open_in_vain(pair.service).await;
        }
        assert_eq!(pair.client.counted(Event::UpstreamConnectFailed), 5, "{workers} workers");
        assert_eq!(pair.client.counted(Event::Ejected), 1, "{workers} workers");
    }
}

#[tokio::test]
async fn eight_long_connections_are_spread_over_four_workers() {
    let pair = pair_of(with(4), |_| {}).await;
    let mut held: Vec<(TcpStream, TcpStream)> = Vec::new();
    for _ in 0..8 {
        held.push(pair.open_carried().await);
    }
    for proxy in [&pair.client, &pair.server] {
        let counts = proxy.balance.counts();
        assert_eq!(counts.iter().sum::<usize>(), 8);
        assert!(counts.iter().all(|count| *count <= 3), "{}: {counts:?}", proxy.name);
    }
    assert_eq!(pair.client.counted(Event::ConnectionAccepted), 8);
}

#[tokio::test]
async fn what_is_under_way_is_told() {
    let pair = pair_of(with(4), |_| {}).await;
    let held = (pair.open_carried().await, pair.open_carried().await);
    let gauges = || {
        let mut text = String::new();
        pair.client.telemetry.write(&mut text);
        let gauge = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            name.starts_with("weft_").then(|| (name.to_owned(), value.to_owned()))
        };
        text.lines().filter_map(gauge).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(gauges()["weft_connections"], "2");
    drop(held);
    until(|| gauges()["weft_connections"] == "0").await.expect("both end");
    let mut client = pair.open().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut app = pair.accept().await;
    head(&mut app).await;
    assert_eq!(gauges()["weft_requests_in_flight"], "1");
    app.write_all(OK.as_bytes()).await.unwrap();
    head(&mut client).await;
    expect(&mut client, b"ok").await;
    until(|| gauges()["weft_requests_in_flight"] == "0").await.expect("it is over");
    drop(app.read(&mut [0; 1]));
}
