//! Mutual TLS with SPIFFE names: which certificates are accepted, how connections between proxies and to the control
//! plane are made from them, and who the peer is afterwards.
//!
//! It is not a certificate authority and makes no keys. Sockets, deadlines and retries belong to the caller: every
//! future here waits for a peer and must be put under a timeout.
//!
//! Invariants: TLS 1.3 only; no early data; *ring* is the only provider and is named explicitly; after every handshake,
//! resumed or not, the peer's chain is identified again before the caller gets the stream, because rustls restores the
//! chain from a ticket without verifying it.

// The anchors that are trusted, and their ids.
pub mod bundle;
// Our own key and chain.
pub mod credentials;

// Who the peer is: the verdict of a handshake.
pub mod peer;
// Which certificates are accepted as a peer's, and why the others are not.
pub mod verify;

// ALPN names and rustls configurations; rotation is a new value.
pub mod config;
// Handshakes and what their failures mean; how a stream ended.
pub mod stream;

// Certificates made on the spot, for tests.
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
pub use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

pub use bundle::{AnchorId, TrustBundle};
pub use config::{Alpn, MeshTls};
pub use credentials::Credentials;
pub use peer::{AnchorWatch, PeerIdentity};
pub use stream::{StreamEnd, TlsError};
pub use verify::VerifyError;
