//! Kubernetes' API, watched. One watch a kind; [`gather::Gatherer`] puts together what they say, and tells
//! nothing before the whole of every kind is known: a proxy is never told that something is not there because its list was late.
//!
//! A watch that breaks is opened again where it stopped, or lists anew (kube's `watcher`); until then what was told holds.

mod gather;

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};
use weft_index::Kind;
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;

use self::gather::Gatherer;
use super::Seen;

/// What watches have said and is not put together yet: a page of a list.
const SAID_MAX: usize = 512;

/// How often it is said in the log what is still waited for at the start.
const REMIND_EVERY: Duration = Duration::from_secs(10);

/// How long nothing must be heard of a failure until a watch is taken to work again. A watch that fails is tried again after a minute
/// at most (kube's back-off with its jitter), and finds out within half a minute that nobody answers.
const FORGIVE_AFTER: Duration = Duration::from_secs(120);

/// Slices that Kubernetes derives from Pods are not read: the Pods themselves say it earlier, and say who they are.
const HAND_MADE: &str = "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";

/// What one watch said.
enum Said {
    Event(Kind, Box<watcher::Event<DynamicObject>>),
    Failed { kind: Kind, message: String, absent: bool },
}

/// Watches every kind; what is seen comes in by `seen`, the first time when everything is known. Ends with the drain.
pub(crate) fn follow(client: &Client, seen: mpsc::Sender<Seen>, tasks: &Tasks, drain: &Drain) {
    let (say, said) = mpsc::channel(SAID_MAX);
    for kind in Kind::ALL {
        let (client, say, drain) = (client.clone(), say.clone(), drain.clone());
        tasks.spawn("watch-kind", async move {
            // What was not said before the end concerns nobody any more.
            tokio::select! {
                () = drain.cut() => {}
                () = watch(client, kind, say) => {}
            }
        });
    }
    tasks.spawn("gather", gather(said, seen));
}

/// The resource of a kind, as the API server names it.
pub(crate) fn resource(kind: Kind) -> ApiResource {
    let (group, version) = kind.api_version().split_once('/').unwrap_or(("", kind.api_version()));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: kind.api_version().to_owned(),
        kind: kind.as_str().to_owned(),
        plural: plural(kind).to_owned(),
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::AuthorizationPolicy => "authorizationpolicies",
        Kind::EndpointSlice => "endpointslices",
        Kind::GrpcRoute => "grpcroutes",
        Kind::HttpRoute => "httproutes",
        Kind::MeshPolicy => "meshpolicies",
        Kind::Pod => "pods",
        Kind::Service => "services",
        Kind::TrafficPolicy => "trafficpolicies",
        Kind::Workload => "workloads",
    }
}

/// Says everything of one kind, as long as somebody listens.
async fn watch(client: Client, kind: Kind, say: mpsc::Sender<Said>) {
    let api: Api<DynamicObject> = Api::all_with(client, &resource(kind));
    let config = match kind {
        Kind::EndpointSlice => watcher::Config::default().labels(HAND_MADE),
        _ => watcher::Config::default(),
    };
    let mut events = pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let said = match event {
            Ok(event) => Said::Event(kind, Box::new(event)),
            Err(error) => failure(kind, &error),
        };
        if say.send(said).await.is_err() {
            return;
        }
    }
}

fn failure(kind: Kind, error: &watcher::Error) -> Said {
    use kube::Error::Api;
    let (message, absent) = match error {
        watcher::Error::InitialListFailed(Api(status)) if status.code == 404 => {
            (format!("the cluster has no {kind} ({}): its CRD is not installed", kind.api_version()), true)
        }
        watcher::Error::InitialListFailed(Api(status)) if status.is_forbidden() => (
            format!("{kind} cannot be listed: {}; the ClusterRole of the control plane allows it", status.message),
            false,
        ),
        // Their turn comes again soon, and what was told holds.
        other => (format!("{kind} cannot be watched: {other}"), false),
    };
    Said::Failed { kind, message, absent }
}

/// Puts together what the watches say until nobody watches or listens any more. What comes together is told together.
async fn gather(mut said: mpsc::Receiver<Said>, seen: mpsc::Sender<Seen>) {
    let mut gatherer = Gatherer::new(Kind::ALL);
    let mut remind = interval_at(Instant::now() + REMIND_EVERY, REMIND_EVERY);
    let mut forgive = interval_at(Instant::now() + FORGIVE_AFTER, FORGIVE_AFTER);
    let mut batch = Vec::with_capacity(SAID_MAX);
    loop {
        // Nothing is lost: a message that is not taken stays in the channel.
        tokio::select! {
            count = said.recv_many(&mut batch, SAID_MAX) => if count == 0 { return },
            _ = remind.tick(), if !gatherer.awaited().is_empty() => {
                let kinds: Vec<&str> = gatherer.awaited().iter().map(|kind| kind.as_str()).collect();
                tracing::warn!(kinds = kinds.join(", "), "not ready: waiting for the API server's lists");
                continue;
            }
            _ = forgive.tick() => gatherer.look_again(),
        }
        for said in batch.drain(..) {
            match said {
                Said::Event(kind, event) => gatherer.take(kind, *event),
                Said::Failed { kind, message, absent } => gatherer.fail(kind, message, absent),
            }
        }
        if let Some(news) = gatherer.seen()
            && seen.send(news).await.is_err()
        {
            return;
        }
    }
}
