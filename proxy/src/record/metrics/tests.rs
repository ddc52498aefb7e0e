//! Shards, expiry and bounds.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_model::{ClientAddr, OriginalDst, WorkloadName};
use weft_runtime::clock::WallClock;

use super::super::facts::{Direction, HttpFacts, Protocol, Traffic};
use super::{IDLE_MAX, OUTCOMES_MAX, Outcome, Registry, SERIES_MAX, Shard};
use crate::record::Event;

#[tokio::test(start_paused = true)]
async fn shards_are_summed() {
    let registry = Arc::new(Registry::new(&WallClock::system()));
    let shards = [registry.shard(), registry.shard(), registry.shard()];
    for (shard, requests) in shards.iter().zip(1..) {
        for _ in 0..requests {
            shard.request(&facts("a", 200), Instant::now(), None);
        }
    }
    // A worker that is gone keeps its counts.
    drop(shards);
    assert_eq!(requests(&registry, "a"), 6);
}

#[tokio::test(start_paused = true)]
async fn one_shard_is_written_while_it_is_read() {
    let registry = Arc::new(Registry::new(&WallClock::system()));
    let theirs = Arc::clone(&registry);
    let worker = std::thread::spawn(move || {
        let shard = theirs.shard();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        for n in 0..20_000_u16 {
            shard.request(&facts(if n % 2 == 0 { "a" } else { "b" }, 200 + n % 8), Instant::now(), None);
        }
    });
    let mut last = 0;
    while !worker.is_finished() {
        let now = requests(&registry, "a");
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
    worker.join().unwrap();
    assert_eq!((requests(&registry, "a"), requests(&registry, "b")), (10_000, 10_000));
}

#[tokio::test(start_paused = true)]
async fn an_idle_series_goes_and_begins_anew() {
    let registry = Arc::new(Registry::new(&WallClock::system()));
    let shard = registry.shard();
    request(&shard, "idle");
    request(&shard, "busy");
    tokio::time::advance(IDLE_MAX).await;
    assert_eq!(requests(&registry, "idle"), 1, "not a second too early");
    request(&shard, "busy");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(requests(&registry, "busy"), 2);
    assert!(!text(&registry).contains("\"idle\""));
    request(&shard, "idle");
    assert_eq!(requests(&registry, "idle"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_series_that_lives_in_one_shard_stays_in_all() {
    let registry = Arc::new(Registry::new(&WallClock::system()));
    let (first, second) = (registry.shard(), registry.shard());
    request(&first, "a");
    for _ in 0..3 {
        tokio::time::advance(IDLE_MAX / 2 + Duration::from_secs(1)).await;
        request(&second, "a");
        text(&registry);
    }
    assert_eq!(requests(&registry, "a"), 4);
}

#[tokio::test(start_paused = true)]
async fn an_open_connection_keeps_its_series() {
    let registry = Arc::new(Registry::new(&WallClock::system()));
    let shard = registry.shard();
    let handle = shard.tcp_opened(&traffic("db"), Instant::now());
    handle.bytes(7, 0);
    tokio::time::advance(IDLE_MAX * 3).await;
    assert!(text(&registry).contains("\"db\""));
    shard.tcp_closed(&handle, Outcome::of_connection(None), Instant::now());
    assert!(text(&registry).contains("weft_tcp_connections_closed_total{"));
    tokio::time::advance(IDLE_MAX + Duration::from_secs(1)).await;
    assert!(!text(&registry).contains("\"db\""));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_series_are_counted_together() {
    let registry = Arc::new(Registry::new(&WallClock::system()));
    let shard = registry.shard();
    let beyond = 5;
    for n in 0..SERIES_MAX + beyond {
        request(&shard, &format!("w{n}"));
    }
    assert_eq!(requests(&registry, "overflow"), beyond as u64);
    assert_eq!(registry.counted(Event::SeriesOverflow), beyond as u64);
    // Those that have a series keep it.
    request(&shard, "w7");
    assert_eq!(requests(&registry, "w7"), 2);
    // And room comes back.
    tokio::time::advance(IDLE_MAX + Duration::from_secs(1)).await;
    text(&registry);
    request(&shard, "late");
    assert_eq!(requests(&registry, "late"), 1);
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_bounded() {
    let registry = Arc::new(Registry::new(&WallClock::system()));
    let shard = registry.shard();
    for status in 100..600 {
        shard.request(&facts("a", status), Instant::now(), None);
    }
    let lines = text(&registry).lines().filter(|line| line.starts_with("weft_requests_total{")).count();
    assert_eq!(lines, OUTCOMES_MAX + 2);
    assert_eq!(requests(&registry, "a"), 500);
}

fn request(shard: &Shard, source: &str) {
    shard.request(&facts(source, 200), Instant::now(), None);
}

fn facts(source: &str, status: u16) -> HttpFacts {
    let addr = ([127, 0, 0, 1], 1).into();
    let mut facts = HttpFacts::new(traffic(source), ClientAddr(addr), OriginalDst(addr), Instant::now());
    facts.status = Some(status);
    facts
}

fn traffic(source: &str) -> Traffic {
    let mut traffic = Traffic::new(Direction::Inbound, Protocol::Http1);
    traffic.source = Some(WorkloadName::new("shop", source));
    traffic
}

fn text(registry: &Registry) -> String {
    let mut out = String::new();
    registry.write(&mut out);
    out
}

fn requests(registry: &Registry, source: &str) -> u64 {
    let text = text(registry);
    let label = format!("source_workload=\"{source}\"");
    let lines = text.lines().filter(|line| line.starts_with("weft_requests_total{") && line.contains(&label));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}
