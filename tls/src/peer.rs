//! Who the peer is: what a finished handshake proved, and until when it stands.

use std::sync::Arc;

use rustls_pki_types::UnixTime;
use tokio::sync::watch;
use weft_model::SpiffeId;

use crate::bundle::{AnchorId, TrustBundle};

pub use crate::verify::identify;

/// A verified peer. Only a handshake or [`identify`] makes one from certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is.
    pub id: SpiffeId,
    /// The anchor that vouches for it. When it leaves the bundle, the connection must end: see [`AnchorWatch`].
    pub anchor: AnchorId,
    /// The last second in which its chain is valid. Expiry alone does not end a connection.
    pub not_after: UnixTime,
}

/// Tells a sleeping connection that the anchor which vouched for its peer is no longer trusted.
#[derive(Clone, Debug)]
pub struct AnchorWatch {
    pub(crate) bundles: watch::Receiver<Option<Arc<TrustBundle>>>,
}

impl AnchorWatch {
    /// Whether `anchor` is trusted now.
    pub fn is_trusted(&self, anchor: AnchorId) -> bool {
        self.bundles.borrow().as_ref().is_some_and(|bundle| bundle.contains(anchor))
    }

    /// Returns when a bundle was published since this was made or last returned. **Cancel:** loses nothing.
    pub async fn changed(&mut self) {
        if self.bundles.changed().await.is_err() {
            // As in `removed`.
            std::future::pending::<()>().await;
        }
    }

    /// Returns when `anchor` is not trusted (any more); at once if it is not now. A connection selects on it beside its
    /// copying, and closes.
    ///
    /// **Cancel:** loses nothing.
    pub async fn removed(&mut self, anchor: AnchorId) {
        let gone = |bundle: &Option<Arc<TrustBundle>>| bundle.as_ref().is_none_or(|bundle| !bundle.contains(anchor));
        if self.bundles.wait_for(gone).await.is_err() {
            // The last MeshTls is gone: nothing will be published again, so nothing will be removed.
            std::future::pending::<()>().await;
        }
    }
}
