//! How a proxy begins: by what it kept before a restart, or by waiting for the control plane (semantics 22).

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;
use weft_model::WorkloadName;
use weft_tls::peer::identify;
use weft_tls::{DefaultTimeProvider, MeshTls, TimeProvider as _, TrustBundle};

use crate::config::Config;
use crate::discovery::{Discovery, Inbox};
use crate::state::{Kind, StateDir};

/// A proxy that is not ready after so long says what it waits for; with a control plane it takes less than one.
const PATIENCE: Duration = Duration::from_secs(5);

/// The directory for state, if there is to be one.
pub(super) fn open(config: &Config) -> anyhow::Result<Option<Arc<StateDir>>> {
    let Some(path) = &config.state_dir else { return Ok(None) };
    let Config { identity, workload, workload_uid, .. } = config;
    let state = StateDir::open(path, identity, workload, workload_uid).context("WEFT_STATE_DIR")?;
    Ok(Some(Arc::new(state)))
}

/// Puts in force what was kept. Snapshots go only with credentials that are still valid: so they are never older than a
/// certificate lives, whoever starts a proxy on them.
pub(super) fn resume(state: &StateDir, tls: &MeshTls, inbox: &mut Inbox, own: &WorkloadName) {
    let kept =
        DefaultTimeProvider.current_time().and_then(|now| Some((state.credentials(tls.trust_domain(), now)?, now)));
    let Some(((credentials, bundle), now)) = kept else {
        // Otherwise the next restart would find them beside the certificate that is asked for now.
        state.forget(Kind::Snapshots);
        return;
    };
    let not_after_unix_s = credentials.not_after().as_secs();
    let destinations = state.snapshots().map_or(0, |kept| inbox.restore(kept, own));
    // The mesh's bundle is the younger one, except where a renewal found that it had missed a rotation.
    let vouches = |bundle: &TrustBundle| identify(credentials.chain(), bundle, tls.trust_domain(), now).is_ok();
    let bundle = inbox.trust().filter(vouches).unwrap_or(bundle);
    match tls.publish(credentials, bundle) {
        Ok(()) => tracing::info!(destinations, not_after_unix_s, "resumed from the state directory"),
        Err(error) => tracing::warn!(error = &error as &dyn Error, "the credentials that were kept cannot be used"),
    }
}

/// Says that the proxy waits, if it does.
pub(super) async fn say_that_it_waits(discovery: Discovery, tls: MeshTls, keeps_state: bool) {
    let ready = async {
        tls.ready().await;
        discovery.ready().await;
    };
    if timeout(PATIENCE, ready).await.is_ok() {
        return;
    }
    if keeps_state {
        tracing::info!("not ready: waits for the control plane");
    } else {
        tracing::info!(
            "not ready: waits for the control plane; with WEFT_STATE_DIR a restarted proxy resumes without it"
        );
    }
}
