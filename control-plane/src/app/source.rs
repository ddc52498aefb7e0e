//! The source, brought up: a directory with its thread, or a cluster with all that goes with it.

use std::io;
use std::sync::Arc;

use kube::Client;
use tokio::sync::{mpsc, watch};
use weft_runtime::clock::WallClock;
use weft_runtime::drain::Drain;
use weft_runtime::exit::told;
use weft_runtime::task::Tasks;
use weft_tls::MeshTls;

use super::waiting::Waiting;
use super::{AppError, KeepError};
use crate::ca::Authority;
use crate::config::{Config, Source};
use crate::hub::Hub;
use crate::kubernetes::authority::Mirror;
use crate::kubernetes::issuer::{IssuerSecret, Seen as IssuerSeen};
use crate::kubernetes::lease::Candidate;
use crate::kubernetes::{bundle, client, status, uninjected};
use crate::metrics::Metrics;
use crate::serve::identity::TokenReviewer;
use crate::source::{Seen, directory, kubernetes};

/// Keeps a directory followed for as long as it lives.
pub(super) type Following = directory::Following;

/// Batches of changes that wait for the hub: it takes each in a moment, and they may be large.
const SEEN_MAX: usize = 2;

/// The cluster that we are the control plane of.
pub(super) struct Cluster {
    client: Client,
    clock: WallClock,
    /// Whether this replica is the one that writes.
    pub(super) leads: watch::Receiver<bool>,
    /// Where the issuer comes from, if somebody else makes it.
    issuer: Option<IssuerSecret>,
}

impl Cluster {
    /// Stands for election, and puts the authority's files where the authority will look for them. Where these are to begin with an
    /// issuer of somebody else's, it waits for that.
    pub(super) async fn join(
        config: &Config,
        clock: &WallClock,
        metrics: &Arc<Metrics>,
        (tasks, drain): (&Tasks, &Drain),
    ) -> Result<Self, AppError> {
        let client = client().await.map_err(AppError::Cluster)?;
        let (candidate, leads) = Candidate::new(&client, &config.namespace, config.replica.clone());
        tasks.spawn("lease", candidate.run(drain.clone()));
        let issuer = issuer_secret(config, &client, clock)?;
        let mut waiting = Waiting::new(config, metrics);
        let made = async || made(config, clock, issuer.as_ref(), &mut waiting).await;
        let mirror = Mirror::open::<AppError>(&client, &config.namespace, &config.ca_dir, made).await?;
        waiting.end().await;
        tasks.spawn("authority-secret", mirror.keep(leads.clone(), drain.clone()));
        Ok(Self { client, clock: clock.clone(), leads, issuer })
    }

    /// Follows the issuer that somebody else makes from now on, where there is one. It is taken once at once: the one that the
    /// authority remembers may have expired since.
    pub(super) async fn follow_issuer(
        &self,
        authority: &Authority,
        metrics: &Arc<Metrics>,
        (tasks, drain): (&Tasks, &Drain),
    ) -> Option<watch::Receiver<IssuerSeen>> {
        let secret = self.issuer.clone()?;
        if let Ok(offer) = secret.read().await
            && let Err(error) = authority.adopt(&offer, false, self.clock.unix_seconds())
        {
            tracing::error!(error = &error as &dyn std::error::Error, "the Secret's issuer cannot be taken");
        }
        let (sender, seen) = watch::channel(IssuerSeen::default());
        tasks.spawn("issuer-secret", secret.follow(sender, Arc::clone(metrics), drain.clone()));
        Some(seen)
    }

    /// What checks the tokens of pods.
    pub(super) fn reviewer(&self) -> TokenReviewer {
        TokenReviewer::Kubernetes(self.client.clone())
    }

    /// Writes the status of every resource from now on.
    pub(super) fn tell_status(&self, hub: &Arc<Hub>, tasks: &Tasks, drain: &Drain) {
        let telling = status::keep(self.client.clone(), Arc::clone(hub), self.leads.clone(), drain.clone());
        tasks.spawn("status", telling);
    }

    /// Tells of pods without a proxy from now on.
    pub(super) fn tell_uninjected(&self, metrics: &Arc<Metrics>, tasks: &Tasks, drain: &Drain) {
        let telling = uninjected::tell(self.client.clone(), Arc::clone(metrics), self.leads.clone(), drain.clone());
        tasks.spawn("uninjected", telling);
    }

    /// Writes the anchors into every labelled namespace from now on.
    pub(super) fn tell_anchors(&self, authority: &Authority, tasks: &Tasks, drain: &Drain) {
        let telling = bundle::keep(self.client.clone(), authority.subscribe(), self.leads.clone(), drain.clone());
        tasks.spawn("trust-bundle", telling);
    }
}

fn issuer_secret(config: &Config, client: &Client, clock: &WallClock) -> Result<Option<IssuerSecret>, AppError> {
    let Some(name) = &config.issuer_secret else { return Ok(None) };
    let identity = MeshTls::new(config.trust_domain.clone()).control_plane_id();
    let identity = identity.map_err(|error| AppError::Certificate(KeepError::Identity(error)))?;
    Ok(Some(IssuerSecret::new(client, &config.namespace, name, identity, clock.clone())))
}

/// Makes the authority's files where there are none, or waits for a while for the issuer that they are to begin with, and says which.
async fn made(
    config: &Config,
    clock: &WallClock,
    issuer: Option<&IssuerSecret>,
    waiting: &mut Waiting<'_>,
) -> Result<bool, AppError> {
    let Some(issuer) = issuer else { return super::open_authority(config, clock).map(|_opened| true) };
    // What is there is older than the Secret that is gone, and signs until another is announced.
    if Authority::is_there(&config.ca_dir).map_err(AppError::Authority)? {
        return Ok(true);
    }
    match issuer.read().await {
        Ok(offer) => Authority::create_from(&config.ca_dir, &offer).map(|()| true).map_err(AppError::Authority),
        Err(error) => waiting.wait(told(&error)).await.map(|()| false),
    }
}

/// Follows the source; when this returns, the hub knows all that it held to begin with.
pub(super) async fn follow(
    config: &Config,
    cluster: Option<&Cluster>,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
    (tasks, drain): (&Tasks, &Drain),
) -> Result<Option<Following>, AppError> {
    let (sender, mut seen) = mpsc::channel::<Seen>(SEEN_MAX);
    let following = match (&config.source, cluster) {
        (Source::Directory(path), _) => {
            if !path.is_dir() {
                let missing = format!("{} is not a directory", path.display());
                return Err(AppError::Source(io::Error::new(io::ErrorKind::NotADirectory, missing)));
            }
            Some(directory::follow(path, config.status_dir.as_deref(), sender).map_err(AppError::Source)?)
        }
        (Source::Kubernetes, Some(cluster)) => {
            let follow = kubernetes::Follow {
                client: cluster.client.clone(),
                compare_every: config.compare_every,
                metrics: Arc::clone(metrics),
                clock: cluster.clock.clone(),
            };
            kubernetes::follow(follow, sender, tasks, drain);
            None
        }
        (Source::Kubernetes, None) => return Err(AppError::Ended),
    };
    while !hub.is_loaded() {
        hub.take(&seen.recv().await.ok_or(AppError::Ended)?);
    }
    let (hub, drain) = (Arc::clone(hub), drain.clone());
    tasks.spawn("source", async move {
        // What a stop cuts off is read again at the next start.
        loop {
            tokio::select! {
                () = drain.cut() => return,
                seen = seen.recv() => match seen {
                    Some(seen) => hub.take(&seen),
                    None => return,
                },
            }
        }
    });
    Ok(following)
}
