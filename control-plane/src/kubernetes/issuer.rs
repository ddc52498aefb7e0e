//! The issuer of somebody else, such as cert-manager: a Secret of the control plane's own namespace that is read again every few
//! seconds, by every replica. What is done about it is the authority's to decide; a Secret that cannot be used leaves in force what is.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use weft_model::SpiffeId;
use weft_runtime::clock::WallClock;
use weft_runtime::drain::Drain;
use weft_runtime::exit::told;

use super::REQUEST_MAX;
use crate::ca::{Offer, OfferError};
use crate::metrics::Metrics;

/// How often it is read: proxies renew for hours, and a few seconds are nothing to them.
pub(crate) const EVERY: Duration = Duration::from_secs(5);

/// What the Secret said last.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// The issuer; none where it cannot be used now.
    pub(crate) offer: Option<Arc<Offer>>,
    /// Why it cannot be used; none where it can, or was not read yet.
    pub(crate) problem: Option<Arc<str>>,
    /// When that was asked for: what the Secret was changed to before is in it.
    pub(crate) asked: Option<Instant>,
}

/// The Secret.
#[derive(Clone)]
pub(crate) struct IssuerSecret {
    api: Api<Secret>,
    name: Arc<str>,
    /// Whom the issuer signs a leaf for, on trial.
    identity: SpiffeId,
    clock: WallClock,
}

impl IssuerSecret {
    pub(crate) fn new(client: &Client, namespace: &str, name: &str, identity: SpiffeId, clock: WallClock) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), name: Arc::from(name), identity, clock }
    }

    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, is not there, or does not hold an issuer that can be used.
    pub(crate) async fn read(&self) -> Result<Offer, IssuerError> {
        let name = &self.name;
        let secret = timeout(REQUEST_MAX, self.api.get_opt(name)).await;
        let secret = secret.map_err(|_slow| IssuerError::Slow { name: Arc::clone(name) })?;
        let secret = secret.map_err(|source| IssuerError::Api { name: Arc::clone(name), source: Box::new(source) })?;
        let secret = secret.ok_or_else(|| IssuerError::Missing { name: Arc::clone(name) })?;
        offer_of(&secret, &self.identity, self.clock.unix_seconds())
            .map_err(|source| IssuerError::Unusable { name: Arc::clone(name), source })
    }

    /// Reads it again and again until the drain is over.
    pub(crate) async fn follow(self, seen: watch::Sender<Seen>, metrics: Arc<Metrics>, drain: Drain) {
        loop {
            let asked = Some(Instant::now());
            match self.read().await {
                Ok(offer) => {
                    seen.send_replace(Seen { offer: Some(Arc::new(offer)), problem: None, asked });
                }
                // While the API server is away nothing is known to be wrong.
                Err(error) if !error.is_verdict() => {
                    tracing::debug!(error = &error as &dyn Error, "the issuer's Secret cannot be read now");
                }
                Err(error) => {
                    let problem: Arc<str> = told(&error).into();
                    let is_new = seen.borrow().problem.as_ref() != Some(&problem);
                    if is_new {
                        tracing::error!(
                            secret = %self.name,
                            error = &error as &dyn Error,
                            "the issuer's Secret is refused, and what was in force stays"
                        );
                    }
                    seen.send_replace(Seen { offer: None, problem: Some(problem), asked });
                }
            }
            metrics.set_issuer_refused(seen.borrow().problem.is_some());
            // Nothing is lost: what was not read now is read in a while.
            tokio::select! {
                () = drain.cut() => return,
                () = sleep(EVERY) => {}
            }
        }
    }
}

fn offer_of(secret: &Secret, identity: &SpiffeId, now_unix_s: u64) -> Result<Offer, OfferError> {
    let data = secret.data.as_ref();
    Offer::read(|field| data?.get(field).map(|content| content.0.as_slice()), identity, now_unix_s)
}

/// Why there is no issuer in the Secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    /// The API server refuses, or does not answer.
    #[error("the Secret {name} cannot be read")]
    Api {
        /// The Secret.
        name: Arc<str>,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// There is no such Secret.
    #[error("there is no Secret {name}: maybe its Certificate is missing, or cert-manager has not issued it yet")]
    Missing {
        /// The Secret.
        name: Arc<str>,
    },
    /// The API server does not answer in time.
    #[error("the Secret {name} cannot be read: the API server does not answer")]
    Slow {
        /// The Secret.
        name: Arc<str>,
    },
    /// It holds no issuer that can be used.
    #[error("the Secret {name} cannot be used")]
    Unusable {
        /// The Secret.
        name: Arc<str>,
        /// What is wrong with it.
        source: OfferError,
    },
}

impl IssuerError {
    /// Whether it is about the Secret, and not about the API server.
    fn is_verdict(&self) -> bool {
        match self {
            Self::Api { source, .. } => matches!(&**source, kube::Error::Api(status) if status.is_forbidden()),
            Self::Missing { .. } | Self::Unusable { .. } => true,
            Self::Slow { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;
