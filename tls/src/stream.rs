//! Handshakes, what their failures mean, and how a stream ended.

use std::io;

use rustls::{AlertDescription, CommonState};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{client, server};
use weft_model::{EndpointAddr, SpiffeId};

use crate::config::{Alpn, ConfigError, MeshTls, session_name};
use crate::peer::PeerIdentity;
use crate::verify::{Verifier, VerifyError};

/// The namespace and the service account of the control plane: the only one that a proxy gives its token to.
const CONTROL_PLANE: (&str, &str) = ("weft-system", "weft-control-plane");

impl MeshTls {
    /// Shakes hands as a client with a peer that must be `expected`. Returns before any application byte was sent or read.
    ///
    /// In TLS 1.3 the client is done before the server has judged the client's certificate: a refusal of ours is seen as
    /// the first read's error, see [`StreamEnd::of`].
    ///
    /// **Cancel:** drops the connection. The deadline is the caller's.
    ///
    /// # Errors
    /// Each way in which the peer is not `expected`, does not speak mesh TLS, or goes away.
    pub async fn connect<IO>(
        &self,
        io: IO,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<(client::TlsStream<IO>, PeerIdentity, Alpn), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.connect_endpoint(io, expected, None, alpn).await
    }

    /// As [`MeshTls::connect`], with the address that was dialled: a ticket is then offered only to the process that can
    /// read it, which makes resumption work with several endpoints of one identity.
    ///
    /// # Errors
    /// As [`MeshTls::connect`].
    pub async fn connect_endpoint<IO>(
        &self,
        io: IO,
        expected: &SpiffeId,
        endpoint: Option<EndpointAddr>,
        alpn: Alpn,
    ) -> Result<(client::TlsStream<IO>, PeerIdentity, Alpn), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mesh = self.state().mesh.ok_or(TlsError::NotReady)?;
        let name = session_name(expected, endpoint)?;
        let stream = mesh
            .client
            .with_alpn(vec![alpn.as_bytes().to_vec()])
            .connect(name, io)
            .await
            .map_err(TlsError::from_handshake)?;
        let session = stream.get_ref().1;
        let peer = self.peer(session, &mesh.verifier)?.ok_or(TlsError::Refused(VerifyError::NoCertificate))?;
        expect(expected, &peer)?;
        let alpn = negotiated(session)?;
        Ok((stream, peer, alpn))
    }

    /// Shakes hands as a server with any meshed peer; who may do what is decided by others. Returns before any
    /// application byte was read.
    ///
    /// **Cancel:** drops the connection. The deadline is the caller's.
    ///
    /// # Errors
    /// Each way in which the peer is not acceptable, does not speak mesh TLS, or goes away.
    pub async fn accept<IO>(&self, io: IO) -> Result<(server::TlsStream<IO>, PeerIdentity, Alpn), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mesh = self.state().mesh.ok_or(TlsError::NotReady)?;
        let stream = mesh.server.accept(io).await.map_err(TlsError::from_handshake)?;
        let session = stream.get_ref().1;
        let peer = self.peer(session, &mesh.verifier)?.ok_or(TlsError::Refused(VerifyError::NoCertificate))?;
        let alpn = negotiated(session)?;
        Ok((stream, peer, alpn))
    }

    /// Shakes hands as the control plane: ALPN `h2`, and a client certificate is optional, since a client may be about to
    /// ask for its first one. One that is presented must be acceptable.
    ///
    /// # Errors
    /// As [`MeshTls::accept`].
    pub async fn accept_control<IO>(&self, io: IO) -> Result<(server::TlsStream<IO>, Option<PeerIdentity>), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mesh = self.state().mesh.ok_or(TlsError::NotReady)?;
        let stream = mesh.control_server.accept(io).await.map_err(TlsError::from_handshake)?;
        let peer = self.peer(stream.get_ref().1, &mesh.verifier)?;
        Ok((stream, peer))
    }

    /// Shakes hands with the control plane, which must have [`MeshTls::control_plane_id`]: ALPN `h2`; with our
    /// certificate if there is one that has not expired. A bundle must have been published, credentials need not.
    ///
    /// # Errors
    /// As [`MeshTls::connect`].
    pub async fn connect_control<IO>(&self, io: IO) -> Result<(client::TlsStream<IO>, PeerIdentity), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let control = self.state().control.ok_or(TlsError::NotReady)?;
        let expected = self.control_plane_id()?;
        let name = session_name(&expected, None)?;
        let connector = control.client(self.now().ok_or(TlsError::NoTime)?);
        let stream = connector.connect(name, io).await.map_err(TlsError::from_handshake)?;
        let peer =
            self.peer(stream.get_ref().1, &control.verifier)?.ok_or(TlsError::Refused(VerifyError::NoCertificate))?;
        expect(&expected, &peer)?;
        Ok((stream, peer))
    }

    /// Who the control plane of our trust domain is.
    ///
    /// # Errors
    /// None that can be had with a valid trust domain.
    pub fn control_plane_id(&self) -> Result<SpiffeId, TlsError> {
        let (namespace, service_account) = CONTROL_PLANE;
        SpiffeId::new(self.trust_domain(), namespace, service_account)
            .map_err(|error| TlsError::Refused(VerifyError::Identity(error)))
    }

    /// Identifies the peer of a finished handshake, resumed or not.
    fn peer(&self, session: &CommonState, verifier: &Verifier) -> Result<Option<PeerIdentity>, TlsError> {
        let Some(chain) = session.peer_certificates() else { return Ok(None) };
        let now = self.now().ok_or(TlsError::NoTime)?;
        let peer = verifier.identify(chain, now).map_err(TlsError::from_verdict)?;
        // A bundle that was published during the handshake rules at once: what it removed is not let in by a race.
        if self.bundle().is_none_or(|bundle| !bundle.contains(peer.anchor)) {
            return Err(TlsError::Refused(VerifyError::Untrusted));
        }
        Ok(Some(peer))
    }
}

fn expect(expected: &SpiffeId, peer: &PeerIdentity) -> Result<(), TlsError> {
    if peer.id == *expected {
        return Ok(());
    }
    Err(TlsError::IdentityMismatch { expected: expected.clone(), actual: peer.id.clone() })
}

fn negotiated(session: &CommonState) -> Result<Alpn, TlsError> {
    session.alpn_protocol().and_then(Alpn::from_bytes).ok_or(TlsError::NoAlpn)
}

/// Why a handshake failed. What it means for the caller: `IdentityMismatch`, `Expired` and `Refused` are the peer's
/// identity; `NotTls`, `NoAlpn` and `Incompatible` say that it is not a proxy of ours; `PeerRefused` that it does not
/// like us; `Closed` and `Io` are the network.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The connection ended in the middle of the handshake.
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
    /// A certificate of the peer's chain is not valid at this time.
    #[error("the peer's certificate is not valid now")]
    Expired(#[source] VerifyError),
    /// The peer proved another identity than the expected one.
    #[error("the peer is {actual}, expected {expected}")]
    IdentityMismatch {
        /// Who should have answered.
        expected: SpiffeId,
        /// Who did.
        actual: SpiffeId,
    },
    /// It speaks TLS, but no TLS 1.3 that we share.
    #[error("the peer speaks no TLS 1.3 that we share")]
    Incompatible(#[source] rustls::Error),
    /// Reading or writing failed.
    #[error("input or output failed during the TLS handshake")]
    Io(#[source] io::Error),
    /// No ALPN name of ours was agreed upon.
    #[error("no ALPN name of the mesh was agreed upon")]
    NoAlpn,
    /// The clock says nothing.
    #[error("the clock gives no time")]
    NoTime,
    /// Nothing was published yet.
    #[error("there is no certificate yet")]
    NotReady,
    /// What the peer sent is not TLS.
    #[error("the peer does not speak TLS")]
    NotTls(#[source] rustls::Error),
    /// The peer ended the handshake with an alert.
    #[error("the peer refused the TLS handshake: {}", alert_name(*.0))]
    PeerRefused(AlertDescription),
    /// The peer broke the protocol.
    #[error("the TLS handshake failed")]
    Protocol(#[source] rustls::Error),
    /// The peer's certificate is not acceptable.
    #[error("the peer's certificate is not acceptable")]
    Refused(#[source] VerifyError),
    /// Our own configuration fails.
    #[error("the TLS configuration fails")]
    Config(#[from] ConfigError),
}

impl TlsError {
    fn from_verdict(error: VerifyError) -> Self {
        match error {
            VerifyError::Expired { .. } | VerifyError::NotYetValid { .. } => Self::Expired(error),
            _ => Self::Refused(error),
        }
    }

    fn from_handshake(error: io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::UnexpectedEof) {
            return Self::Closed;
        }
        let error = match error.downcast::<rustls::Error>() {
            Ok(error) => error,
            Err(error) => return Self::Io(error),
        };
        match error {
            rustls::Error::AlertReceived(alert) => Self::PeerRefused(alert),
            rustls::Error::InvalidCertificate(reason) => Self::from_verdict(VerifyError::from_rustls(&reason)),
            rustls::Error::InvalidMessage(_) => Self::NotTls(error),
            rustls::Error::NoApplicationProtocol => Self::NoAlpn,
            rustls::Error::NoCertificatesPresented => Self::Refused(VerifyError::NoCertificate),
            rustls::Error::PeerIncompatible(_) => Self::Incompatible(error),
            other => Self::Protocol(other),
        }
    }
}

/// How the peer's half of a TLS stream ended. `close_notify` is a read of 0 bytes and the only orderly end; everything
/// else is an error of the read, and tells that bytes may be missing (RFC 8446 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The peer sent a fatal alert. Right after a client's handshake: it refuses our certificate.
    Alert(AlertDescription),
    /// The connection was reset or failed otherwise.
    Reset,
    /// FIN without `close_notify`: a truncation, whether by an attacker or by a process that died.
    Truncated,
}

impl StreamEnd {
    /// Which end the error of a read from a TLS stream means.
    pub fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Truncated;
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            _ => Self::Reset,
        }
    }

    /// Whether the peer said that it does not accept our certificate.
    pub fn is_certificate_refused(self) -> bool {
        matches!(
            self,
            Self::Alert(
                AlertDescription::AccessDenied
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateRequired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
                    | AlertDescription::UnsupportedCertificate
            )
        )
    }
}

/// An alert's name; rustls shows unknown ones with their number.
fn alert_name(alert: AlertDescription) -> String {
    format!("{alert:?}")
}

#[cfg(test)]
mod tests;
