//! Kubernetes' API, watched. One watch a kind; [`gather::Gatherer`] puts together what they say. Before the whole of every kind is known
//! it says of each part that it is one: a proxy is never told that something is not there because its list was late.
//!
//! A watch that breaks is opened again where it stopped, or lists anew (kube's `watcher`); until then what was told holds. That it told
//! everything is not taken on trust: every while each kind is listed by name and version, and where the watch is behind it begins anew.

mod gather;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use weft_index::{Kind, Object, ObjectKey};
use weft_runtime::clock::WallClock;
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;

use self::gather::{Found, Gatherer, Version, key_of, version_of};
use super::Seen;
use crate::metrics::Metrics;

/// What watches have said and is not put together yet. Little: a slice of a thousand endpoints takes half a megabyte until it is read.
const SAID_MAX: usize = 16;

/// How many names a page of a list for comparison has.
const PAGE: u32 = 500;

/// How often it is said in the log what is still waited for at the start.
const REMIND_EVERY: Duration = Duration::from_secs(10);

/// How long nothing must be heard of a failure until a watch is taken to work again. A watch that fails is tried again after a minute
/// at most (kube's back-off with its jitter), and finds out within half a minute that nobody answers.
const FORGIVE_AFTER: Duration = Duration::from_secs(120);

/// Slices that Kubernetes derives from Pods are not read: the Pods themselves say it earlier, and say who they are.
const HAND_MADE: &str = "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";

/// How many slices a page of their list has. They are large: a thousand endpoints each, at most.
const SLICES_PAGE: u32 = 20;

/// How long a watch has to say what a list already names, until that counts as missed.
const SETTLE: Duration = Duration::from_secs(10);

/// How many of those that were missed a line of the log names.
const NAMED_MAX: usize = 5;

/// What is said of one kind: by its watch, or by the list that is compared with it.
enum Said {
    Begin(Kind),
    Compare(Kind, Option<BTreeMap<ObjectKey, Version>>),
    Event(Kind, Box<watcher::Event<Found>>),
    Failed { kind: Kind, message: String, absent: bool },
}

/// What following needs.
pub(crate) struct Follow {
    pub(crate) client: Client,
    /// How often what the watches told is compared with what the API server has.
    pub(crate) compare_every: Duration,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: WallClock,
}

/// Watches every kind; what is seen comes in by `seen`, in parts until everything is known. Ends with the drain.
pub(crate) fn follow(follow: Follow, seen: mpsc::Sender<Seen>, tasks: &Tasks, drain: &Drain) {
    let (say, said) = mpsc::channel(SAID_MAX);
    let mut again = BTreeMap::new();
    for (at, kind) in Kind::ALL.into_iter().enumerate() {
        let anew = Arc::new(Notify::new());
        again.insert(kind, Arc::clone(&anew));
        let (client, say_of_watch, drain_of_watch) = (follow.client.clone(), say.clone(), drain.clone());
        tasks.spawn("watch-kind", async move {
            // What was not said before the end concerns nobody any more.
            tokio::select! {
                () = drain_of_watch.cut() => {}
                () = watch(&client, kind, &say_of_watch, &anew) => {}
            }
        });
        // Never all at once.
        let every = follow.compare_every;
        let first = every + every.mul_f64(at as f64 / Kind::ALL.len() as f64);
        let (client, say, drain) = (follow.client.clone(), say.clone(), drain.clone());
        tasks.spawn("compare-kind", async move {
            // What was not compared before the end concerns nobody any more.
            tokio::select! {
                () = drain.cut() => {}
                () = compare(&client, kind, say, first, every) => {}
            }
        });
    }
    let Follow { metrics, clock, .. } = follow;
    tasks.spawn("gather", gather(said, seen, Known { again, metrics, clock }));
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
        Kind::Node => "nodes",
        Kind::Pod => "pods",
        Kind::Service => "services",
        Kind::TrafficPolicy => "trafficpolicies",
        Kind::Workload => "workloads",
    }
}

/// Says everything of one kind, as long as somebody listens; from the beginning whenever `anew` says so.
async fn watch(client: &Client, kind: Kind, say: &mpsc::Sender<Said>, anew: &Notify) {
    loop {
        let mut events = watched(client, kind);
        loop {
            // Nothing is lost: a stream that is left is begun anew.
            let event = tokio::select! {
                () = anew.notified() => break,
                event = events.next() => event,
            };
            let said = match event {
                Some(Ok(event)) => Said::Event(kind, Box::new(event)),
                Some(Err(error)) => failure(kind, &error),
                None => return,
            };
            if say.send(said).await.is_err() {
                return;
            }
        }
    }
}

type Events = BoxStream<'static, watcher::Result<watcher::Event<Found>>>;

/// The watch of a kind. Kubernetes' own are read at once as what they are; of Nodes only the metadata is asked for.
fn watched(client: &Client, kind: Kind) -> Events {
    let config = watcher::Config::default();
    match kind {
        Kind::EndpointSlice => {
            let config = config.labels(HAND_MADE).page_size(SLICES_PAGE);
            own::<EndpointSlice>(client, kind, config, |slice| Object::EndpointSlice(Box::new(slice)))
        }
        Kind::Node => {
            let read = move |found: PartialObjectMeta<Node>| {
                let node = |found: PartialObjectMeta<Node>| Node { metadata: found.metadata, ..Node::default() };
                Found::lenient(kind, found, |found| Object::Node(Box::new(node(found))))
            };
            let api = Api::<PartialObjectMeta<Node>>::all(client.clone());
            watcher(api, config).default_backoff().map_ok(each(read)).boxed()
        }
        Kind::Pod => own::<Pod>(client, kind, config, |pod| Object::Pod(Box::new(pod))),
        Kind::Service => own::<Service>(client, kind, config, |service| Object::Service(Box::new(service))),
        Kind::AuthorizationPolicy
        | Kind::GrpcRoute
        | Kind::HttpRoute
        | Kind::MeshPolicy
        | Kind::TrafficPolicy
        | Kind::Workload => {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
            let read = move |object| Found::strict(kind, object);
            watcher(api, config).default_backoff().map_ok(each(read)).boxed()
        }
    }
}

fn own<K>(client: &Client, kind: Kind, config: watcher::Config, read: fn(K) -> Object) -> Events
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let read = move |object| Found::lenient(kind, object, read);
    watcher(Api::<K>::all(client.clone()), config).default_backoff().map_ok(each(read)).boxed()
}

/// An event with what it says read.
fn each<K>(read: impl Fn(K) -> Found) -> impl Fn(watcher::Event<K>) -> watcher::Event<Found> {
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    move |event| match event {
        Apply(object) => Apply(read(object)),
        Delete(object) => Delete(read(object)),
        Init => Init,
        InitApply(object) => InitApply(read(object)),
        InitDone => InitDone,
    }
}

/// Says every while what the API server has of a kind: names and versions alone.
async fn compare(client: &Client, kind: Kind, say: mpsc::Sender<Said>, first: Duration, every: Duration) {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
    let mut turn = interval_at(Instant::now() + first, every);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        if say.send(Said::Begin(kind)).await.is_err() {
            return;
        }
        let listed = match list(&api, kind).await {
            Ok(listed) => Some(listed),
            // Its CRD is not installed, which the watch says.
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => {
                tracing::warn!(%kind, error = &error as &dyn std::error::Error, "cannot be compared with the API server");
                None
            }
        };
        sleep(SETTLE).await;
        if say.send(Said::Compare(kind, listed)).await.is_err() {
            return;
        }
    }
}

async fn list(api: &Api<DynamicObject>, kind: Kind) -> Result<BTreeMap<ObjectKey, Version>, kube::Error> {
    let mut params = ListParams::default().limit(PAGE);
    if kind == Kind::EndpointSlice {
        params = params.labels(HAND_MADE);
    }
    let mut listed = BTreeMap::new();
    loop {
        let page = api.list_metadata(&params).await?;
        let names = page.items.iter().map(|it| (key_of(kind, &it.metadata), version_of(&it.metadata)));
        listed.extend(names);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(listed),
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

/// What is done with what is known of the watches themselves.
struct Known {
    /// Begins a kind's watch anew.
    again: BTreeMap<Kind, Arc<Notify>>,
    metrics: Arc<Metrics>,
    clock: WallClock,
}

impl Known {
    /// What is held of a kind is what the API server has, or will be in a moment.
    fn heard(&self, kind: Kind) {
        self.metrics.heard(kind.as_str(), self.clock.unix_seconds());
    }

    /// Deals with what a comparison found.
    fn compared(&self, kind: Kind, missed: &[ObjectKey]) {
        if missed.is_empty() {
            return self.heard(kind);
        }
        self.metrics.missed(kind.as_str(), missed.len());
        let named: Vec<String> = missed.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        tracing::warn!(
            %kind, count = missed.len(), resources = named.join(", "),
            "the watch missed changes; everything of the kind is read again"
        );
        if let Some(again) = self.again.get(&kind) {
            again.notify_one();
        }
    }
}

/// Puts together what the watches say until nobody watches or listens any more. What comes together is told together.
async fn gather(mut said: mpsc::Receiver<Said>, seen: mpsc::Sender<Seen>, known: Known) {
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
                Said::Begin(kind) => gatherer.begin_comparison(kind),
                Said::Compare(kind, Some(listed)) => known.compared(kind, &gatherer.compare(kind, &listed)),
                Said::Compare(kind, None) => gatherer.give_up_comparison(kind),
                Said::Event(kind, event) => {
                    known.heard(kind);
                    gatherer.take(kind, *event);
                }
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
