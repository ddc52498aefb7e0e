//! `weft.identity.v1.Identity`: turns a proof of who a workload is into a certificate. It decides who may have which
//! certificate; `crate::ca` makes it. Every refusal says what was wrong, none shows a token.
//!
//! Invariant: the request is checked before a token is used up, and the use is on disk before the certificate is
//! returned.

use std::sync::Arc;

use kube::Client;
use tonic::{Code, Request, Response, Status};
use weft_model::{SpiffeId, TrustDomain};
use weft_proto::identity::v1::certify_request::Proof;
use weft_proto::identity::v1::identity_server::{Identity, IdentityServer};
use weft_proto::identity::v1::{CertifyRequest, CertifyResponse};
use weft_runtime::clock::WallClock;
use weft_tls::PeerIdentity;

use crate::ca::{Authority, CheckedRequest, Leaf, SignError};
use crate::kubernetes::review::{ReviewError, review};
use crate::token::{JoinTokens, TokenError};

/// A request is a CSR of up to 8 KiB, a token of up to 4 and an identity of up to 2.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The client certificate of a connection, if it presented one: the serving code puts it into each request's extensions.
/// A request without the extension is one without a certificate.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Option<PeerIdentity>);

/// Says whether a Workload with this identity exists now.
pub type WorkloadExists = Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>;

/// What checks projected service-account tokens.
#[derive(Clone)]
pub enum TokenReviewer {
    /// Nothing does: there is no Kubernetes API (the directory source).
    Absent,
    /// The API server.
    Kubernetes(Client),
}

/// The service's parts.
pub struct IdentityService {
    /// Makes the certificates.
    pub authority: Arc<Authority>,
    /// Accepts join tokens.
    pub tokens: Arc<JoinTokens>,
    /// Whose certificates are renewed.
    pub workload_exists: WorkloadExists,
    /// Checks service-account tokens.
    pub reviewer: TokenReviewer,
    /// Whose identities are served.
    pub trust_domain: TrustDomain,
    /// By which certificates are dated.
    pub clock: WallClock,
}

impl IdentityService {
    /// The service for tonic's router, with its bounds.
    pub fn into_server(self) -> IdentityServer<Self> {
        IdentityServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }

    async fn answer(&self, request: CertifyRequest, peer: Option<PeerIdentity>) -> Result<CertifyResponse, Refusal> {
        let identity: SpiffeId = request.identity.parse().map_err(|error| Refusal::invalid(&error))?;
        if identity.trust_domain() != self.trust_domain.as_str() {
            return Err(Refusal::denied(format!("{identity} is not of the trust domain {}", self.trust_domain)));
        }
        if identity.namespace() == "weft-system" && identity.service_account() == "weft-control-plane" {
            // Whoever had it could play the control plane to every proxy.
            return Err(Refusal::denied("the control plane's own identity is not given away".to_owned()));
        }
        let csr = CheckedRequest::check(&request.csr_der, &identity).map_err(|error| Refusal::invalid(&error))?;
        let proof = self.prove(request.proof, &identity, &csr, peer).await?;
        let leaf = self.authority.issue(&csr, &identity, self.clock.unix_seconds())?;
        tracing::info!(%identity, proof, not_after_unix_s = leaf.not_after_unix_s, "certificate issued");
        Ok(self.response(leaf))
    }

    /// Checks the proof and says which kind it was.
    async fn prove(
        &self,
        proof: Option<Proof>,
        identity: &SpiffeId,
        csr: &CheckedRequest,
        peer: Option<PeerIdentity>,
    ) -> Result<&'static str, Refusal> {
        match proof {
            None => Err(Refusal::unauthenticated("a proof is needed: a join token or a still valid certificate")),
            Some(Proof::ServiceAccountToken(token)) => match &self.reviewer {
                TokenReviewer::Absent => Err(Refusal {
                    code: Code::Unimplemented,
                    text: "no Kubernetes API here to check a service-account token: use a join token".to_owned(),
                }),
                TokenReviewer::Kubernetes(client) => {
                    review(client, token, identity).await?;
                    Ok("service-account token")
                }
            },
            Some(Proof::JoinToken(token)) => {
                self.use_token(token, identity.clone(), csr.key_hash()).await?;
                Ok("join token")
            }
            Some(Proof::CurrentCertificate(_)) => {
                self.check_current(identity, peer)?;
                Ok("current certificate")
            }
        }
    }

    /// On another thread: it waits for the disk.
    async fn use_token(&self, token: String, identity: SpiffeId, key_hash: [u8; 32]) -> Result<(), Refusal> {
        let tokens = Arc::clone(&self.tokens);
        let now_unix_s = self.clock.unix_seconds();
        let used =
            tokio::task::spawn_blocking(move || tokens.verify_and_consume(&token, &identity, &key_hash, now_unix_s));
        match used.await {
            Ok(used) => Ok(used?),
            Err(_panicked_or_shutting_down) => Err(Refusal::internal()),
        }
    }

    fn check_current(&self, identity: &SpiffeId, peer: Option<PeerIdentity>) -> Result<(), Refusal> {
        let peer = peer.ok_or(Refusal::unauthenticated("this connection has no client certificate"))?;
        if peer.id != *identity {
            return Err(Refusal::denied(format!("the client certificate is {}, not {identity}", peer.id)));
        }
        // The connection may be older than the certificate's end or the anchor's removal.
        if self.clock.unix_seconds() > peer.not_after.as_secs() {
            return Err(Refusal::unauthenticated("the client certificate has expired"));
        }
        if !self.authority.bundle().contains(peer.anchor) {
            return Err(Refusal::unauthenticated("the client certificate's trust anchor was removed"));
        }
        if !(self.workload_exists)(identity) {
            return Err(Refusal::denied(format!("there is no Workload with the identity {identity} any more")));
        }
        Ok(())
    }

    fn response(&self, leaf: Leaf) -> CertifyResponse {
        CertifyResponse {
            chain_der: leaf.chain_der,
            trust_anchors_der: self.authority.bundle().to_der(),
            not_after_unix_s: i64::try_from(leaf.not_after_unix_s).unwrap_or(i64::MAX),
        }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let peer = request.extensions().get::<PeerCertificate>().and_then(|PeerCertificate(peer)| peer.clone());
        let request = request.into_inner();
        // Quoted, since it is whatever somebody sent; bounded by what a SPIFFE id may have.
        let asked: String = request.identity.chars().take(256).collect();
        self.answer(request, peer).await.map(Response::new).map_err(|Refusal { code, text }| {
            tracing::warn!(identity = ?asked, %code, reason = text, "certificate refused");
            Status::new(code, text)
        })
    }
}

/// Why there is no certificate, as the client is told.
struct Refusal {
    code: Code,
    text: String,
}

impl Refusal {
    fn invalid(error: &dyn std::error::Error) -> Self {
        Self { code: Code::InvalidArgument, text: error.to_string() }
    }

    fn denied(text: String) -> Self {
        Self { code: Code::PermissionDenied, text }
    }

    fn unauthenticated(text: &str) -> Self {
        Self { code: Code::Unauthenticated, text: text.to_owned() }
    }

    /// What is wrong here is for our log, not for the client.
    fn internal() -> Self {
        Self { code: Code::Internal, text: "the control plane cannot do this now: see its log".to_owned() }
    }
}

impl From<ReviewError> for Refusal {
    fn from(error: ReviewError) -> Self {
        let code = match &error {
            ReviewError::Ask(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "service-account token could not be checked");
                return Self {
                    code: Code::Unavailable,
                    text: "the API server cannot be asked about the token now".to_owned(),
                };
            }
            ReviewError::Audience | ReviewError::NoPod | ReviewError::Refused => Code::Unauthenticated,
            ReviewError::Other { .. } => Code::PermissionDenied,
        };
        Self { code, text: error.to_string() }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let code = match &error {
            TokenError::Expired | TokenError::Foreign | TokenError::Malformed | TokenError::Used => {
                Code::Unauthenticated
            }
            TokenError::OtherIdentity => Code::PermissionDenied,
            TokenError::TooMany => Code::ResourceExhausted,
            TokenError::BadKey
            | TokenError::BadMemory
            | TokenError::Files(_)
            | TokenError::NoUse
            | TokenError::Random => {
                tracing::error!(error = &error as &dyn std::error::Error, "join token could not be checked");
                return Self::internal();
            }
        };
        Self { code, text: error.to_string() }
    }
}

impl From<SignError> for Refusal {
    fn from(error: SignError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "certificate could not be made");
        match error {
            SignError::IssuerExpired { .. } => Self { code: Code::Unavailable, text: error.to_string() },
            SignError::Request(_) => Self { code: Code::InvalidArgument, text: error.to_string() },
            SignError::TrustDomain { .. } => Self { code: Code::PermissionDenied, text: error.to_string() },
            SignError::Credentials(_) | SignError::Make(_) | SignError::Random => Self::internal(),
        }
    }
}

#[cfg(test)]
mod tests;
