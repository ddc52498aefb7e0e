//! Keeps the certificate authority going: tells proxies which anchors hold, renews our own certificate, makes each step
//! of a rotation when the proxies' acknowledgements allow it, takes the issuer that somebody else makes, and reads the directory again
//! when somebody changed it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use weft_model::SpiffeId;
use weft_runtime::clock::WallClock;
use weft_runtime::drain::Drain;
use weft_tls::{Credentials, MeshTls, TlsError, TrustBundle};

use super::AppError;
use crate::ca::{Adopted, Authority, Rotation, SignError, Step};
use crate::config::Config;
use crate::hub::Hub;
use crate::kubernetes::issuer::Seen;
use crate::metrics::Metrics;

/// How often it is looked what is due. Leaves may live for seconds only.
const EVERY: Duration = Duration::from_secs(1);

/// Keeps the certificate authority going.
pub(super) struct Keeper {
    authority: Arc<Authority>,
    hub: Arc<Hub>,
    tls: MeshTls,
    identity: SpiffeId,
    directory: PathBuf,
    clock: WallClock,
    /// What our own certificate was made under: when any of it changes, it is made anew.
    made_under: Option<MadeUnder>,
    /// What the directory looked like.
    seen: Vec<Mark>,
    /// What the Secret of somebody else's issuer says; `None` where the issuer is our own.
    issuer: Option<watch::Receiver<Seen>>,
    /// What became of it last, so that a wait is told once.
    adopted: Adopted,
    /// How far a rotation was when it was looked at last, and since when.
    rotation: (Rotation, Instant),
}

#[derive(Clone, PartialEq)]
struct MadeUnder {
    bundle: Arc<TrustBundle>,
    rotation: Rotation,
    issuer_not_after_unix_s: u64,
}

/// A file's name, size and time of change.
type Mark = (std::ffi::OsString, u64, Option<std::time::SystemTime>);

impl Keeper {
    /// Puts our own first certificate and the anchors in force.
    pub(super) fn new(
        authority: Arc<Authority>,
        hub: Arc<Hub>,
        tls: MeshTls,
        config: &Config,
        clock: WallClock,
    ) -> Result<Self, AppError> {
        let identity = tls.control_plane_id().map_err(|error| AppError::Certificate(KeepError::Identity(error)))?;
        let directory = config.ca_dir.clone();
        let seen = marks(&directory);
        let (issuer, adopted, rotation) = (None, Adopted::Nothing, (authority.rotation(), Instant::now()));
        let mut keeper =
            Self { authority, hub, tls, identity, directory, clock, made_under: None, seen, issuer, adopted, rotation };
        keeper.publish().map_err(AppError::Certificate)?;
        Ok(keeper)
    }

    /// With the issuer that somebody else makes, where there is one.
    pub(super) fn taking(self, issuer: Option<watch::Receiver<Seen>>) -> Self {
        Self { issuer, ..self }
    }

    /// Looks every second, and whenever `kick` says so, until the drain is over.
    /// Of several replicas only the one that `leads` makes steps; without others that is always this one.
    pub(super) async fn keep(
        mut self,
        kick: Arc<Notify>,
        leads: Option<watch::Receiver<bool>>,
        drain: Drain,
        metrics: Arc<Metrics>,
    ) {
        loop {
            // Nothing is lost: what was not looked at now is looked at in a second.
            tokio::select! {
                () = drain.cut() => return,
                _ = timeout(EVERY, kick.notified()) => {}
            }
            // It waits for the disk.
            let is_leading = leads.as_ref().is_none_or(|leads| *leads.borrow());
            let stepped = tokio::task::spawn_blocking(move || {
                self.step(is_leading);
                self
            });
            let Ok(back) = stepped.await else { return };
            self = back;
            let expiries = self.authority.bundle().anchors().iter().map(|anchor| anchor.not_after().as_secs()).min();
            let (end, overdue) = (self.authority.issuer_not_after_unix_s(), self.authority.issuer_overdue_unix_s());
            metrics.set_expiries(expiries.unwrap_or_default(), end, overdue);
        }
    }

    fn step(&mut self, leads: bool) {
        let now = self.clock.unix_seconds();
        self.hub.tick(now);
        let marks_now = marks(&self.directory);
        if marks_now != self.seen {
            match self.authority.reload(now) {
                Ok(()) => tracing::info!("certificate authority read again"),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "authority's files refused, old ones stay"
                    );
                }
            }
        }
        self.adopt(leads, now);
        if leads {
            self.advance(now);
        }
        if let Err(error) = self.publish() {
            tracing::error!(error = &error as &dyn std::error::Error, "own certificate cannot be renewed");
        }
        // After our own writes, which need no reading again.
        self.seen = if marks_now == self.seen { marks(&self.directory) } else { marks_now };
    }

    /// Takes the issuer that somebody else made, as far as it may be taken now.
    fn adopt(&mut self, leads: bool, now: u64) {
        let rotation = self.authority.rotation();
        if self.rotation.0 != rotation {
            self.rotation = (rotation, Instant::now());
        }
        let Some(Seen { offer: Some(offer), asked, .. }) = self.issuer.as_ref().map(|issuer| issuer.borrow().clone())
        else {
            return;
        };
        // Whoever began the rotation may have read a newer Secret than we have, which would take its issuer back.
        if asked.is_none_or(|asked| asked < self.rotation.1) {
            return;
        }
        let adopted = match self.authority.adopt(&offer, leads, now) {
            Ok(adopted) => adopted,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the Secret's issuer cannot be taken");
                return;
            }
        };
        match adopted {
            Adopted::Announced => {
                tracing::info!("the Secret's issuer has another anchor: it signs when proxies know that");
            }
            Adopted::Signs => tracing::info!("the Secret's issuer signs"),
            Adopted::Waits if self.adopted != adopted && leads => {
                tracing::warn!("the Secret's issuer has another anchor, and waits until a rotation has ended");
            }
            Adopted::Withdrawn => {
                tracing::warn!("the Secret's issuer is another one than was announced, whose anchor goes");
            }
            Adopted::Nothing | Adopted::Waits => {}
        }
        self.adopted = adopted;
    }

    /// Makes the next step of a rotation, where it is due.
    fn advance(&self, now: u64) {
        match self.authority.advance(self.hub.without_anchors(now), now) {
            Ok(Step::Wait) => {}
            Ok(Step::Switch) => tracing::info!("new issuer signs"),
            Ok(Step::Retire) => tracing::info!("old trust anchor removed"),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "authority cannot make its next step");
            }
        }
    }

    /// Puts the bundle, and our own certificate where it is due, in force: for our port first, then for proxies.
    fn publish(&mut self) -> Result<(), KeepError> {
        let now = self.clock.unix_seconds();
        let under = MadeUnder {
            bundle: self.authority.bundle(),
            rotation: self.authority.rotation(),
            issuer_not_after_unix_s: self.authority.issuer_not_after_unix_s(),
        };
        let credentials = self.tls.credentials();
        if self.made_under.as_ref() != Some(&under) || credentials.is_none_or(|own| is_due(&own, now)) {
            let own = self.authority.credentials(&self.identity, now).map_err(KeepError::Sign)?;
            self.tls.publish(own, (*under.bundle).clone()).map_err(KeepError::Publish)?;
            self.hub.publish_anchors(under.bundle.to_der());
            self.made_under = Some(under);
        }
        Ok(())
    }
}

/// Whether 70 % of a certificate's life are over.
fn is_due(own: &Credentials, now_unix_s: u64) -> bool {
    let (from, to) = (own.not_before().as_secs(), own.not_after().as_secs());
    now_unix_s >= from + to.saturating_sub(from) * 7 / 10
}

/// What the directory looks like, without the files of join tokens, which change with each use. A directory that cannot
/// be listed looks empty, and reading it again says why.
fn marks(directory: &Path) -> Vec<Mark> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut marks: Vec<Mark> = entries
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"join"))
        .filter_map(|entry| {
            let metadata = std::fs::metadata(entry.path()).ok()?;
            Some((entry.file_name(), metadata.len(), metadata.modified().ok()))
        })
        .collect();
    marks.sort();
    marks
}

/// Why the authority cannot serve us.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Our own identity is not one.
    #[error("the control plane's own identity cannot be spelt")]
    Identity(#[source] TlsError),
    /// TLS refuses it.
    #[error("it cannot be put in force")]
    Publish(#[source] weft_tls::config::ConfigError),
    /// It cannot be signed.
    #[error("it cannot be signed")]
    Sign(#[source] SignError),
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use clap::Parser as _;
    use tempfile::TempDir;

    use super::*;
    use crate::ca::Offer;
    use crate::ca::testing::{NOW, anchor, read, secret};
    use crate::config::RawConfig;

    /// A replica that began with this issuer, and what it reads in the Secret.
    fn keeper(dir: &TempDir, offer: &Offer) -> (Keeper, watch::Sender<Seen>) {
        let ca_dir = format!("--ca-dir={}", dir.path().display());
        let args = ["a", "--source=kubernetes", ca_dir.as_str(), "--issuer-secret=weft-issuer"];
        let config = Config::new(RawConfig::try_parse_from(args).unwrap()).unwrap();
        let (clock, _) = WallClock::manual(UNIX_EPOCH + Duration::from_secs(NOW));
        Authority::create_from(dir.path(), offer).unwrap();
        let authority = super::super::open_authority(&config, &clock).unwrap();
        let hub = Arc::new(Hub::new(super::super::hub_config(&config), Metrics::new()));
        let tls = MeshTls::new(config.trust_domain.clone());
        let (sender, seen) = watch::channel(Seen::default());
        (Keeper::new(authority, hub, tls, &config, clock).unwrap().taking(Some(seen)), sender)
    }

    fn seen(offer: &Offer) -> Seen {
        Seen { offer: Some(Arc::new(offer.clone())), problem: None, asked: Some(Instant::now()) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_secrets_issuer_is_taken_and_an_old_reading_takes_none_back() {
        let (old, new) = (read(&secret(&anchor("old"))).unwrap(), read(&secret(&anchor("new"))).unwrap());
        let dir = TempDir::new().unwrap();
        let (mut keeper, secret) = keeper(&dir, &old);
        secret.send_replace(seen(&new));
        keeper.adopt(false, NOW);
        assert_eq!(keeper.authority.rotation(), Rotation::Steady, "it does not lead");
        // The replica that leads has announced it, and ours leads now.
        let of_before = seen(&old);
        tokio::time::advance(EVERY).await;
        keeper.authority.adopt(&new, true, NOW).unwrap();
        secret.send_replace(of_before);
        keeper.adopt(true, NOW);
        assert!(matches!(keeper.authority.rotation(), Rotation::Overlap { .. }));
        tokio::time::advance(EVERY).await;
        secret.send_replace(seen(&new));
        keeper.step(true);
        assert!(matches!(keeper.authority.rotation(), Rotation::Retiring { .. }), "there is no proxy to wait for");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_reading_takes_back_what_was_announced() {
        let (old, new) = (read(&secret(&anchor("old"))).unwrap(), read(&secret(&anchor("new"))).unwrap());
        let dir = TempDir::new().unwrap();
        let (mut keeper, secret) = keeper(&dir, &old);
        secret.send_replace(seen(&new));
        keeper.adopt(true, NOW);
        assert!(matches!(keeper.authority.rotation(), Rotation::Overlap { .. }));
        secret.send_replace(Seen { offer: None, problem: Some("it is bad".into()), asked: Some(Instant::now()) });
        keeper.adopt(true, NOW);
        assert!(matches!(keeper.authority.rotation(), Rotation::Overlap { .. }), "what cannot be used changes nothing");
        tokio::time::advance(EVERY).await;
        secret.send_replace(seen(&old));
        keeper.adopt(true, NOW);
        assert!(matches!(keeper.authority.rotation(), Rotation::Retiring { .. }));
    }
}
