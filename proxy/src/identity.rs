//! Our certificate: asked for with a token, renewed with the platform's token or with itself, published to `MeshTls`. One task on the control
//! thread. A private key is made here, in memory, for each certificate; it is never sent, and written only where
//! [`StateDir`] keeps it in memory for a restart.
//!
//! Invariant: what is published was checked as a peer would check it. When the control plane is away, the certificate in
//! force goes on, and the attempts go on beyond its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use weft_model::SpiffeId;
use weft_proto::identity::v1::certify_request::Proof;
use weft_proto::identity::v1::identity_client::IdentityClient;
use weft_proto::identity::v1::{CertifyRequest, CertifyResponse, CurrentCertificate};
use weft_tls::bundle::BundleError;
use weft_tls::config::ConfigError;
use weft_tls::credentials::CredentialsError;
use weft_tls::{
    CertificateDer, Credentials, MeshTls, PrivateKeyDer, PrivatePkcs8KeyDer, TimeProvider, TrustBundle, VerifyError,
};
use zeroize::Zeroizing;

use crate::control::ControlPlane;
use crate::record::{Kind, Text};
use crate::state::StateDir;

// When to renew, and when to try again.
mod schedule;

/// A chain of four and a bundle of sixteen certificates of at most 2 KiB are 40 KiB.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;

/// For one request: connecting, the disk of the control plane, the answer.
const CERTIFY_DEADLINE: Duration = Duration::from_secs(10);

/// A machine that slept finds out that its certificate has aged within this.
const WAKE_EVERY: Duration = Duration::from_secs(30);

/// What metrics say of our certificate.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// The last second in which it is valid, since 1970; 0 while there is none.
    pub(crate) not_after_unix_s: AtomicU64,
    /// Attempts that brought none.
    pub(crate) failures: AtomicU64,
    /// Certificates that were put in force.
    pub(crate) renewals: AtomicU64,
}

impl Stats {
    /// Writes them, at a scrape.
    pub(crate) fn write(&self, text: &mut Text<'_>) {
        text.family(
            "weft_identity_expiry_timestamp_seconds",
            Kind::Gauge,
            "When our certificate expires, in seconds since 1970; 0 before the first.",
        );
        text.sample(&[], self.not_after_unix_s.load(Ordering::Relaxed));
        text.family("weft_identity_renewals", Kind::Counter, "Certificates obtained.");
        text.sample(&[], self.renewals.load(Ordering::Relaxed));
        text.family("weft_identity_failures", Kind::Counter, "Attempts to obtain a certificate that failed.");
        text.sample(&[], self.failures.load(Ordering::Relaxed));
    }
}

/// Who gives certificates: the control plane, or a test's.
pub(crate) trait Certify: Send + Sync {
    /// Asks for one.
    fn certify(&self, request: CertifyRequest) -> impl Future<Output = Result<CertifyResponse, IdentityError>> + Send;
}

impl Certify for ControlPlane {
    async fn certify(&self, request: CertifyRequest) -> Result<CertifyResponse, IdentityError> {
        // A channel of its own each time: it shows the certificate that is in force now.
        let channel = self.channel().await.map_err(IdentityError::Connect)?;
        let mut client = IdentityClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
        match client.certify(request).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(IdentityError::Refused(Box::new(status))),
        }
    }
}

/// What the certificate client is told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Who we are.
    pub(crate) identity: SpiffeId,
    /// PEM file with the trust anchors to begin with; read anew at each attempt.
    pub(crate) trust_anchors: PathBuf,
    /// File with a join token; read anew at each attempt.
    pub(crate) join_token_file: Option<PathBuf>,
    /// File with a service-account token; the kubelet renews it, so that it is read anew at each attempt.
    pub(crate) service_account_token_file: Option<PathBuf>,
    /// Where each certificate is kept for a restart, if anywhere.
    pub(crate) state: Option<Arc<StateDir>>,
}

/// The task.
pub(crate) struct Renewer<C> {
    settings: Settings,
    mesh: MeshTls,
    certify: C,
    time: Arc<dyn TimeProvider>,
    stats: Arc<Stats>,
    /// Made for the attempt under way and kept until one succeeds: the control plane takes the same key with the same
    /// token for the same machine, so an answer that got lost costs nothing.
    key: Option<KeyPair>,
    /// Whether the certificate was refused as a proof, so that a token, if there is one, is tried next.
    prefer_token: bool,
}

impl<C: Certify> Renewer<C> {
    /// A task that publishes to `mesh`, by the clock `time`. Credentials that are in force already are renewed.
    pub(crate) fn new(
        settings: Settings,
        mesh: MeshTls,
        certify: C,
        time: Arc<dyn TimeProvider>,
        stats: Arc<Stats>,
    ) -> Self {
        let resumed = mesh.credentials().map_or(0, |own| own.not_after().as_secs());
        stats.not_after_unix_s.store(resumed, Ordering::Relaxed);
        Self { settings, mesh, certify, time, stats, key: None, prefer_token: false }
    }

    /// Gets a certificate and keeps it fresh, for as long as it is polled.
    ///
    /// **Cancel:** what is in force stays in force and ages.
    pub(crate) async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let pause = match self.renew().await {
                Ok(life) => {
                    failures = 0;
                    self.prefer_token = false;
                    self.stats.renewals.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(identity = %self.settings.identity, life_s = life.as_secs(), "certificate in force");
                    schedule::renewal(life, fastrand::f64())
                }
                Err(error) => {
                    self.stats.failures.fetch_add(1, Ordering::Relaxed);
                    self.note_refusal(&error);
                    let left = self.left();
                    let pause = schedule::retry(failures, left, fastrand::f64());
                    failures = failures.saturating_add(1);
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, left_s = left.as_secs(), "no new certificate, trying again");
                    pause
                }
            };
            self.pause(pause).await;
        }
    }

    /// One attempt: returns for how long the new certificate is valid.
    async fn renew(&mut self) -> Result<Duration, IdentityError> {
        let left = self.left();
        if left.is_zero() {
            self.read_anchors().await?;
        }
        let proof = self.proof(left).await?;
        let key = match self.key.take() {
            Some(key) => key,
            None => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Key)?,
        };
        let request = CertifyRequest {
            csr_der: signing_request(&key, &self.settings.identity)?,
            identity: self.settings.identity.as_str().to_owned(),
            proof: Some(proof),
        };
        let key_der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        self.key = Some(key);
        // With little time left an attempt that hangs must not cost all of it.
        let deadline =
            if left.is_zero() { CERTIFY_DEADLINE } else { (left / 2).clamp(CERTIFY_DEADLINE / 10, CERTIFY_DEADLINE) };
        let answered = timeout(deadline, self.certify.certify(request)).await;
        let response = answered.unwrap_or(Err(IdentityError::Timeout { after: deadline }))?;
        let life = self.take(response, key_der)?;
        if let Some(key) = self.key.take() {
            self.keep(&key);
        }
        Ok(life)
    }

    /// Keeps what has just been put in force for a restart. Where that fails, the restart has less to go by, not we.
    fn keep(&self, key: &KeyPair) {
        let Some(state) = &self.settings.state else { return };
        let (Some(own), Some(bundle)) = (self.mesh.credentials(), self.mesh.bundle()) else { return };
        let key = Zeroizing::new(key.serialize_der());
        if let Err(error) = state.keep_credentials(own.chain(), &key, &bundle) {
            tracing::warn!(%error, "the certificate cannot be kept for a restart");
        }
    }

    /// Checks an answer as a peer would, and puts it in force.
    fn take(&self, response: CertifyResponse, key: PrivateKeyDer<'static>) -> Result<Duration, IdentityError> {
        let now = self.time.current_time().ok_or(IdentityError::NoTime)?;
        let bundle = TrustBundle::from_der(&response.trust_anchors_der).map_err(IdentityError::Bundle)?;
        let chain = response.chain_der.into_iter().map(CertificateDer::from).collect();
        let credentials = Credentials::from_der(chain, key).map_err(IdentityError::Certificate)?;
        let acceptable =
            |bundle: &TrustBundle| weft_tls::peer::identify(credentials.chain(), bundle, self.mesh.trust_domain(), now);
        acceptable(&bundle).map_err(IdentityError::Unusable)?;
        if *credentials.id() != self.settings.identity {
            return Err(IdentityError::OtherIdentity { got: credentials.id().clone() });
        }
        let not_after = credentials.not_after();
        // Discovery keeps the bundle fresh. An answer that was under way while it changed must not bring back an anchor
        // that was removed, so the answer's counts only where ours does not do: at first, and after a rotation missed.
        let ours_does = !self.left().is_zero() && self.mesh.bundle().is_some_and(|ours| acceptable(&ours).is_ok());
        let published =
            if ours_does { self.mesh.publish_credentials(credentials) } else { self.mesh.publish(credentials, bundle) };
        published.map_err(IdentityError::Publish)?;
        self.stats.not_after_unix_s.store(not_after.as_secs(), Ordering::Relaxed);
        Ok(Duration::from_secs(not_after.as_secs().saturating_sub(now.as_secs())))
    }

    /// The platform's token where there is one: it ends with the pod, which a certificate does not (semantics 31). Else the
    /// certificate as long as it is valid, unless it was just refused; else the join token.
    async fn proof(&self, left: Duration) -> Result<Proof, IdentityError> {
        if let Some(path) = &self.settings.service_account_token_file {
            return Ok(Proof::ServiceAccountToken(read_token(path).await?));
        }
        let current = || Proof::CurrentCertificate(CurrentCertificate {});
        if !left.is_zero() && !self.prefer_token {
            return Ok(current());
        }
        match self.join_token().await {
            Ok(token) => Ok(Proof::JoinToken(token)),
            Err(_) if !left.is_zero() => Ok(current()),
            Err(error) => Err(error),
        }
    }

    async fn join_token(&self) -> Result<String, IdentityError> {
        read_token(self.settings.join_token_file.as_ref().ok_or(IdentityError::NoProof)?).await
    }

    /// Trusts what the file says, beside what we were told since. Without a valid certificate only: it is how a proxy
    /// begins, and how one that was away during a rotation comes back. No weaker than a restart, which believes the file
    /// alone.
    async fn read_anchors(&self) -> Result<(), IdentityError> {
        let path = &self.settings.trust_anchors;
        let pem = tokio::fs::read(path).await.map_err(|source| IdentityError::File { path: path.clone(), source })?;
        let file = TrustBundle::from_pem(&pem).map_err(IdentityError::Bundle)?;
        let known = self.mesh.bundle().map(|bundle| bundle.to_der()).unwrap_or_default();
        let both = TrustBundle::from_der(file.to_der().into_iter().chain(known)).unwrap_or(file);
        self.mesh.publish_bundle(both).map_err(IdentityError::Publish)
    }

    /// How long the certificate in force is still valid.
    fn left(&self) -> Duration {
        let (Some(now), Some(own)) = (self.time.current_time(), self.mesh.credentials()) else { return Duration::ZERO };
        Duration::from_secs(own.not_after().as_secs().saturating_sub(now.as_secs()))
    }

    fn note_refusal(&mut self, error: &IdentityError) {
        if let IdentityError::Refused(status) = error
            && matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
        {
            // The other one next time, if there is another one.
            self.prefer_token = !self.prefer_token;
        }
    }

    /// Sleeps, by whichever clock is faster: a timer stands still while the machine sleeps, certificates age.
    async fn pause(&self, pause: Duration) {
        let wall = || self.time.current_time().map(|now| Duration::from_secs(now.as_secs()));
        let (until, due) = (Instant::now() + pause, wall().map(|now| now + pause));
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let is_due = wall().zip(due).is_some_and(|(now, due)| now >= due);
            if left.is_zero() || is_due {
                return;
            }
            sleep(left.min(WAKE_EVERY)).await;
        }
    }
}

async fn read_token(path: &Path) -> Result<String, IdentityError> {
    let read = tokio::fs::read_to_string(path).await;
    let token = read.map_err(|source| IdentityError::File { path: path.to_owned(), source })?;
    Ok(token.trim().to_owned())
}

/// A request that says who we are and nothing more.
fn signing_request(key: &KeyPair, identity: &SpiffeId) -> Result<Vec<u8>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(IdentityError::Key)?)];
    let request = params.serialize_request(key).map_err(IdentityError::Key)?;
    Ok(request.der().to_vec())
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The trust anchors, of the file or of the answer, cannot be used.
    #[error("the trust anchors cannot be used")]
    Bundle(#[source] BundleError),
    /// The certificate that came is not one for our key.
    #[error("the certificate that came cannot be used")]
    Certificate(#[source] CredentialsError),
    /// The control plane is not reached, or is not who it should be.
    #[error("no connection to the control plane")]
    Connect(#[source] tonic::transport::Error),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No key or no request could be made.
    #[error("cannot make a key and a request")]
    Key(#[source] rcgen::Error),
    /// There is nothing to prove ourselves by.
    #[error("no valid certificate and no token: set WEFT_SERVICE_ACCOUNT_TOKEN_FILE or WEFT_JOIN_TOKEN_FILE")]
    NoProof,
    /// The clock says nothing.
    #[error("the clock gives no time")]
    NoTime,
    /// It is somebody else's.
    #[error("the certificate that came is for {got}")]
    OtherIdentity {
        /// Whose it is.
        got: SpiffeId,
    },
    /// It cannot be put in force.
    #[error("the certificate cannot be put in force")]
    Publish(#[source] ConfigError),
    /// The control plane said no.
    #[error("the control plane refuses: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// No answer in time.
    #[error("no answer from the control plane within {} s", after.as_secs())]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// No peer would accept it.
    #[error("no peer would accept the certificate that came")]
    Unusable(#[source] VerifyError),
}

#[cfg(test)]
mod tests;
