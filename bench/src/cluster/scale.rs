//! The control plane in a cluster that is large and never still.
//!
//! Everything is real but the pods and the proxies: pods are objects of which no kubelet knows, and proxies are gRPC streams over TLS
//! without traffic. The API server, its watches and the control plane's replicas are what an installation has. What is measured is what
//! the control plane takes, and how long after a request to the API server the proxies that need it know of a change.

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use weft_control_plane::ca::{Authority, Settings};
use weft_model::{SpiffeId, TrustDomain};
use weft_proto::proxy::v1::resource_key::Kind;
use weft_proto::proxy::v1::{ResourceKey, ServiceKey, Unit};
use weft_runtime::clock::WallClock;
use weft_tests::memory::memory;
use weft_tls::MeshTls;

use super::eventually;
use super::objects::{self, NAMESPACE, Objects, PORT, ROLLED};
use crate::fleet::Shared;
use crate::fleet::proxy::Proxy;
use crate::kernel;

/// What the control plane does after a burst is over by then.
const SETTLE: Duration = Duration::from_secs(5);
/// How long a pod that is told to end takes for it.
const ENDING: Duration = Duration::from_secs(2);
/// Services that one proxy talks to, beside the one whose pods are rolled.
const ASKED: usize = 10;

/// Flags of `scale`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Services.
    #[arg(long, default_value_t = 200, value_name = "N")]
    services: usize,
    /// Slices of each.
    #[arg(long, default_value_t = 10, value_name = "N")]
    slices: usize,
    /// Endpoints of each slice.
    #[arg(long, default_value_t = 100, value_name = "N")]
    endpoints: usize,
    /// Simulated proxies.
    #[arg(long, default_value_t = 100, value_name = "N")]
    proxies: usize,
    /// Endpoints that change in a second.
    #[arg(long, default_value_t = 10, value_name = "N")]
    changes: u32,
    /// Pods that are replaced in a minute.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pods: u32,
    /// For how long, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u32,
}

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) services: usize,
    pub(super) slices: usize,
    pub(super) endpoints: usize,
}

/// One replica of the control plane.
#[derive(Clone, Copy, Debug)]
struct Replica {
    addr: SocketAddr,
    process: u32,
}

/// Measures it, and takes away what it made.
pub(super) async fn run(options: &Options, client: &Client) -> anyhow::Result<()> {
    let objects = Objects::new(client.clone());
    let measured = Box::pin(measure(options, client, &objects)).await;
    let cleared = objects.clear().await.context("taking it away again");
    measured.and(cleared)
}

async fn measure(options: &Options, client: &Client, objects: &Objects) -> anyhow::Result<()> {
    let Options { services, slices, endpoints, proxies, .. } = *options;
    let size = Size { services, slices, endpoints };
    let before = replicas(client).await?;
    tell("at rest", &before)?;
    eprintln!("making {services} Services of {slices} × {endpoints} endpoints, {proxies} pods with simulated proxies");
    objects.make_place().await?;
    let addresses = objects.make_services(size).await?;
    let mut uids = Vec::new();
    for proxy in 0..proxies {
        let uid = objects.make_pod(&proxy_name(proxy), "client", objects::address(240, proxy)).await?;
        uids.push(uid);
    }
    let mut rolled = VecDeque::new();
    for pod in 0..options.pods as usize {
        rolled.push_back(pod);
        objects.make_pod(&rolled_name(pod), ROLLED, objects::address(244, pod)).await?;
    }
    sleep(SETTLE).await;
    tell("with all of it", &before)?;

    let shared = Arc::new(Shared::default());
    let mut running = JoinSet::new();
    for proxy in simulated(client, uids, &addresses, &before).await? {
        let shared = Arc::clone(&shared);
        running.spawn(async move { proxy.run(&shared).await });
    }
    synced(&shared, proxies).await?;
    sleep(SETTLE).await;
    tell("with proxies", &before)?;

    churn(options, size, objects, &shared, rolled, &before).await?;

    eprintln!("restarting the control plane");
    let name = ["--namespace", "weft-system", "rollout", "restart", "deployment/weft-control-plane"];
    weft_tests_kubernetes::kubectl(&name)?;
    let again = eventually("other replicas of the control plane", async || {
        let now = replicas(client).await.ok()?;
        let is_new = |replica: &Replica| before.iter().all(|old| old.process != replica.process);
        (now.len() == before.len() && now.iter().all(is_new)).then_some(now)
    });
    let again = again.await?;
    sleep(SETTLE).await;
    tell("after a restart", &again)?;
    running.abort_all();
    Ok(())
}

/// Changes endpoints and rolls pods, and tells what that costs and how soon it is known.
async fn churn(
    options: &Options,
    size: Size,
    objects: &Objects,
    shared: &Arc<Shared>,
    mut rolled: VecDeque<usize>,
    replicas: &[Replica],
) -> anyhow::Result<()> {
    let length = Duration::from_secs(options.seconds.into());
    eprintln!("for {length:?}: {} endpoints change in a second, {} pods in a minute", options.changes, options.pods);
    let cpu = |replicas: &[Replica]| -> anyhow::Result<Vec<f64>> {
        replicas.iter().map(|replica| kernel::cpu_seconds(replica.process)).collect()
    };
    let (begun, used) = (Instant::now(), cpu(replicas)?);
    let mut work: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let (mut changes, mut rolls) =
        (interval(Duration::from_secs(1) / options.changes), interval(Duration::from_mins(1) / options.pods));
    changes.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut changed, mut made) = (0_usize, rolled.len());
    let mut moved = Vec::new();
    while begun.elapsed() < length {
        tokio::select! {
            _ = changes.tick() => {
                let to = objects::address(208, changed);
                // Far apart, so that no slice is written twice at once: the step and the number of slices have no common divisor.
                let at = changed * 7919 % (size.services * size.slices);
                let (service, slice) = (at / size.slices, at % size.slices);
                moved.push((objects::endpoint(to), asking(options.proxies, size.services, service)));
                let (objects, shared) = (objects.clone(), Arc::clone(shared));
                work.spawn(async move { change(&objects, &shared, service, slice, to).await });
                changed += 1;
            }
            _ = rolls.tick() => {
                let (new, ip) = (made, objects::address(244, made));
                made += 1;
                rolled.push_back(new);
                moved.push((objects::endpoint(ip), options.proxies));
                let old = rolled.pop_front();
                let (objects, shared) = (objects.clone(), Arc::clone(shared));
                work.spawn(async move { Box::pin(roll(&objects, &shared, new, ip, old)).await });
            }
        }
    }
    let (took, used) =
        (begun.elapsed().as_secs_f64(), cpu(replicas)?.into_iter().zip(used).map(|(now, then)| now - then));
    let shares: Vec<f64> = used.map(|seconds| seconds / took * 100.0).collect();
    while let Some(done) = work.join_next().await {
        done.context("a change panicked")??;
    }
    sleep(SETTLE).await;
    let unheard = moved.iter().filter(|(to, proxies)| shared.moves.heard(to) < *proxies).count();
    let delays = shared.moves.delays();
    for (replica, share) in replicas.iter().zip(shares) {
        println!("churn: CPU of {}: {share:.1} % of a core (at most 20)", replica.addr.ip());
    }
    tell("churn", replicas)?;
    println!(
        "churn: {} changes known to {} proxies; median {:.0} ms, p99 {:.0} ms (at most 500); {unheard} not known to all",
        moved.len(),
        delays.values().len(),
        delays.median().unwrap_or(f64::NAN),
        delays.p99().unwrap_or(f64::NAN),
    );
    ensure!(unheard == 0, "{unheard} of {} changes did not reach everybody", moved.len());
    Ok(())
}

/// Gives the first endpoint of a slice another address.
async fn change(
    objects: &Objects,
    shared: &Shared,
    service: usize,
    slice: usize,
    to: std::net::Ipv4Addr,
) -> anyhow::Result<()> {
    let name = objects::slice_name(service, slice);
    let mut written = objects.slices.get(&name).await?;
    let first = written.endpoints.first_mut().context("a slice without endpoints")?;
    first.addresses = vec![to.to_string()];
    shared.moves.begin(&objects::endpoint(to));
    objects.slices.replace(&name, &PostParams::default(), &written).await.context("changing a slice")?;
    Ok(())
}

/// Replaces a pod by another.
async fn roll(
    objects: &Objects,
    shared: &Shared,
    new: usize,
    ip: std::net::Ipv4Addr,
    old: Option<usize>,
) -> anyhow::Result<()> {
    shared.moves.begin(&objects::endpoint(ip));
    objects.make_pod(&rolled_name(new), ROLLED, ip).await?;
    if let Some(old) = old {
        objects.terminate_pod(&rolled_name(old)).await?;
        sleep(ENDING).await;
        objects.end_pod(&rolled_name(old)).await?;
    }
    Ok(())
}

/// The proxies, each with a certificate that the cluster's own authority signed, spread over the replicas.
async fn simulated(
    client: &Client,
    uids: Vec<String>,
    addresses: &[String],
    replicas: &[Replica],
) -> anyhow::Result<Vec<Proxy>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "weft-system");
    let files = secrets.get("weft-authority").await.context("the authority's Secret")?.data.unwrap_or_default();
    let directory = tempfile::tempdir().context("making a directory")?;
    for (name, content) in files {
        fs::write(directory.path().join(name), content.0).context("copying the authority")?;
    }
    let (domain, now) = (TrustDomain::default(), WallClock::system().unix_seconds());
    let authority = Authority::open(directory.path(), Settings::new(domain.clone()), now)?;
    let identity = SpiffeId::new(&domain, NAMESPACE, "default")?;
    let proxy = |(at, uid): (usize, String)| {
        let tls = MeshTls::new(domain.clone());
        tls.publish(authority.credentials(&identity, now)?, authority.bundle().as_ref().clone())?;
        let control = replicas.get(at % replicas.len()).context("no control plane")?.addr;
        let (name, keys) = (proxy_name(at), keys(at, addresses));
        Ok(Proxy { namespace: NAMESPACE, name, uid, identity: identity.clone(), control, tls, keys })
    };
    uids.into_iter().enumerate().map(proxy).collect()
}

/// What the proxy of this number asks for; the last address is that of the Service whose pods are rolled.
fn keys(proxy: usize, addresses: &[String]) -> Vec<ResourceKey> {
    let services = addresses.len() - 1;
    let key = |name: String| ServiceKey { namespace: NAMESPACE.to_owned(), name, port: PORT.into() };
    let others = asked(proxy, services).map(|at| (objects::service_name(at), addresses.get(at)));
    let all = others.chain([(ROLLED.to_owned(), addresses.last())]);
    let kinds = all.flat_map(|(name, address)| {
        let destination = address.map(|address| Kind::Destination(format!("{address}:{PORT}")));
        destination.into_iter().chain([Kind::Service(key(name.clone())), Kind::Endpoints(key(name))])
    });
    let kinds = kinds.chain([Kind::Inbound(Unit {}), Kind::Mesh(Unit {})]);
    kinds.map(|kind| ResourceKey { kind: Some(kind) }).collect()
}

/// Which Services the proxy of this number asks for.
fn asked(proxy: usize, services: usize) -> impl Iterator<Item = usize> {
    (0..ASKED.min(services)).map(move |next| (proxy * 2 + next) % services)
}

/// How many proxies ask for a Service.
fn asking(proxies: usize, services: usize, service: usize) -> usize {
    (0..proxies).filter(|proxy| asked(*proxy, services).any(|at| at == service)).count()
}

fn proxy_name(proxy: usize) -> String {
    format!("client-{proxy}")
}

fn rolled_name(pod: usize) -> String {
    format!("{ROLLED}-{pod}")
}

/// Waits until every proxy has what it asked for.
async fn synced(shared: &Shared, proxies: usize) -> anyhow::Result<()> {
    let done = eventually("proxies with all that they asked for", async || {
        (shared.synced.load(Ordering::Relaxed) == proxies).then_some(())
    });
    let now = || shared.synced.load(Ordering::Relaxed);
    done.await.with_context(|| format!("{} of {proxies}; the last trouble: {}", now(), shared.trouble()))
}

/// The replicas that are ready, each with its process on this machine.
async fn replicas(client: &Client) -> anyhow::Result<Vec<Replica>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "weft-system");
    let pods = pods.list(&ListParams::default().labels("app=weft-control-plane")).await?.items;
    let of = |pod: &Pod| -> Option<Replica> {
        let status = pod.status.as_ref()?;
        let is_ready = status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
        if !is_ready || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let addr = SocketAddr::new(status.pod_ip.as_ref()?.parse().ok()?, 14010);
        Some(Replica { addr, process: process_of(pod.metadata.uid.as_deref()?)? })
    };
    let found: Vec<Replica> = pods.iter().filter_map(of).collect();
    ensure!(!found.is_empty(), "no replica of the control plane is ready, or none runs on this machine");
    Ok(found)
}

/// The control plane's process in the pod with this uid, which its cgroup names.
fn process_of(uid: &str) -> Option<u32> {
    let flat = uid.replace('-', "_");
    let ids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_ours = |id: &u32| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
        let cgroup = read("cgroup");
        // The name of a thread group is cut at 15 bytes.
        read("comm").starts_with("weft-control-pl") && (cgroup.contains(uid) || cgroup.contains(&flat))
    };
    ids.into_iter().find(is_ours)
}

/// Tells what the replicas hold of memory.
fn tell(when: &str, replicas: &[Replica]) -> anyhow::Result<()> {
    for replica in replicas {
        let now = memory(replica.process)?;
        println!(
            "{when}: memory of {}: {:.0} MiB, at most so far {:.0} (at most 190)",
            replica.addr.ip(),
            now.rss,
            now.peak
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_asked_for_by_somebody() {
        let least = (0..200).map(|service| asking(100, 200, service)).min();
        assert_eq!(least, Some(5));
    }

    #[test]
    fn a_proxy_asks_for_the_service_that_is_rolled_and_for_ten_others() {
        let addresses: Vec<String> = (0..201).map(|at| format!("10.96.1.{at}")).collect();
        assert_eq!(keys(7, &addresses).len(), 3 * (ASKED + 1) + 2);
    }
}
