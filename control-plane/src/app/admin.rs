//! The admin pages.

use std::io;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use weft_runtime::admin::{Access, Admin, AdminServer};
use weft_runtime::clock::WallClock;
use weft_runtime::telemetry::LogLevel;

use crate::ca::{Authority, CaError};
use crate::config::Config;
use crate::hub::Hub;
use crate::kubernetes::issuer::Seen;
use crate::metrics::Metrics;

/// What the pages show.
pub(super) struct Pages {
    pub(super) config: Config,
    pub(super) hub: Arc<Hub>,
    pub(super) authority: Arc<Authority>,
    /// Whether this replica is the one that writes; `None` where there are no others.
    pub(super) leads: Option<watch::Receiver<bool>>,
    /// What the Secret of somebody else's issuer says, where there is one.
    pub(super) issuer: Option<watch::Receiver<Seen>>,
}

impl Pages {
    /// Serves them on a thread of their own. `kick` is told when somebody asked for a rotation.
    pub(super) fn start(
        self,
        log: Option<LogLevel>,
        metrics: &Arc<Metrics>,
        clock: &WallClock,
        kick: &Arc<Notify>,
    ) -> io::Result<AdminServer> {
        let Self { config, hub, authority, leads, issuer } = self;
        let addrs = config.admin.clone();
        let counted = (Arc::clone(metrics), Arc::clone(&hub));
        let ready = Arc::clone(&hub);
        let rotation = (Arc::clone(&authority), Arc::clone(&hub), clock.clone());
        let secret = config.issuer_secret.clone();
        let act = |step| act(&authority, clock, kick, leads.clone(), step);
        let mut builder = Admin::builder()
            .metrics(move |out| {
                let (metrics, hub) = &counted;
                hub.measure();
                metrics.write(out);
            })
            .ready(move || if ready.is_loaded() { Ok(()) } else { Err(vec!["the source to be read".to_owned()]) })
            .config(move || config.to_json())
            .json("/status", Access::Anyone, move || {
                serde_json::to_string(&hub.report()).unwrap_or_else(|_| "{}".to_owned())
            })
            .json("/rotation", Access::Anyone, move || {
                let (authority, hub, clock) = &rotation;
                let problem = issuer.as_ref().and_then(|issuer| issuer.borrow().problem.clone());
                let secret =
                    secret.as_ref().map(|name| serde_json::json!({"name": name, "problem": problem.as_deref()}));
                rotation_json(authority, hub, clock, secret.as_ref())
            })
            .post("/rotate-issuer", act(Authority::renew_issuer))
            .post("/rotate-anchor", act(Authority::begin_rotation));
        if let Some(log) = log {
            builder = builder.log_level(log);
        }
        builder.bind(&addrs)?.start()
    }
}

/// Something that the authority is told to do. What a replica did that does not write would be known to it alone.
fn act(
    authority: &Arc<Authority>,
    clock: &WallClock,
    kick: &Arc<Notify>,
    leads: Option<watch::Receiver<bool>>,
    act: fn(&Authority, u64) -> Result<(), CaError>,
) -> impl Fn(&str) -> Result<String, String> + Send + Sync + 'static {
    let (authority, clock, kick) = (Arc::clone(authority), clock.clone(), Arc::clone(kick));
    move |_body| {
        if leads.as_ref().is_some_and(|leads| !*leads.borrow()) {
            return Err("this replica does not write: ask the one that holds the Lease weft-control-plane\n".to_owned());
        }
        act(&authority, clock.unix_seconds()).map_err(|error| format!("{error}\n"))?;
        kick.notify_one();
        Ok("begun\n".to_owned())
    }
}

fn rotation_json(
    authority: &Authority,
    hub: &Hub,
    clock: &WallClock,
    issuer_secret: Option<&serde_json::Value>,
) -> String {
    let now = clock.unix_seconds();
    let acknowledgements = hub.without_anchors(now);
    let rotation = authority.rotation();
    serde_json::json!({
        "state": rotation.name(),
        "meaning": rotation.meaning(),
        "oldAnchor": rotation.old().map(|anchor| anchor.to_string()),
        "anchors": authority.bundle().anchors().iter().map(|anchor| anchor.id().to_string()).collect::<Vec<_>>(),
        "proxiesWithoutBundle": acknowledgements.pending,
        "replicasUnheard": acknowledgements.replicas,
        "waitsFor": rotation.waits_for(acknowledgements, now),
        "issuerNotAfterUnixSeconds": authority.issuer_not_after_unix_s(),
        "issuerSecret": issuer_secret,
    })
    .to_string()
}
