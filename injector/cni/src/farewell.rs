//! Whether this process ends because Weft's node part is being removed, or only to come back: an upgrade, a drained node, a crash. In
//! the first case the plugin goes from the chain. In all others it stays, and it works without us.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client};
use tokio::time::timeout;

/// The kubelet gives us longer; without an answer nothing is removed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for the DaemonSet. That we may not even ask any more says the same as that it is gone: our rights go with it, and nobody takes
/// them from a DaemonSet that is to stay.
pub(crate) async fn is_removed(client: Client, namespace: &str, name: &str) -> bool {
    let sets: Api<DaemonSet> = Api::namespaced(client, namespace);
    let asked = timeout(PATIENCE, sets.get_metadata_opt(name)).await;
    match asked {
        Ok(Ok(set)) => set.is_none_or(|set| set.metadata.deletion_timestamp.is_some()),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "whether weft-cni is being removed cannot be told: the plugin stays in the chain");
            false
        }
        Err(_) => {
            tracing::warn!(
                "the API server does not say whether weft-cni is being removed: the plugin stays in the chain"
            );
            false
        }
    }
}
