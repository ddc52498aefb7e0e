//! How a proxy begins: by what it kept before a restart, or by waiting for the control plane (semantics 22).

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;
use weft_model::WorkloadName;
use weft_tls::peer::identify;
use weft_tls::{MeshTls, TrustBundle, UnixTime};

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

/// The anchors of the operator; without them nothing is resumed, and the certificate client says what is wrong.
pub(super) fn anchors(config: &Config) -> Option<TrustBundle> {
    std::fs::read(&config.trust_anchors).ok().and_then(|pem| TrustBundle::from_pem(&pem).ok())
}

/// Puts in force what was kept. Snapshots go only with credentials that are still valid: so they are never older than a
/// certificate lives, whoever starts a proxy on them.
pub(super) fn resume(
    state: &StateDir,
    tls: &MeshTls,
    inbox: &mut Inbox,
    own: &WorkloadName,
    anchors: &TrustBundle,
    now: UnixTime,
) {
    let Some((credentials, bundle)) = state.credentials(tls.trust_domain(), anchors, now) else {
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

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use weft_model::TrustDomain;
    use weft_model::resources::{EgressMode, MeshSpec, Resource, ResourceKey, TelemetrySpec, Update};
    use weft_tls::testing::{LEAF_LIFE, START_UNIX_S, TestCa};

    use super::*;
    use crate::state::testing::in_memory;

    const ORDER: &str = "spiffe://cluster.local/ns/shop/sa/order";

    /// What `shop/order-1` kept: credentials of one authority, and a mesh that trusts these.
    fn kept(there: &TempDir, ca: &TestCa, trusted: &TrustBundle) -> StateDir {
        let own = WorkloadName::new("shop", "order-1");
        let state = StateDir::open(there.path(), &ORDER.parse().unwrap(), &own, "").unwrap();
        let (chain, key) = ca.leaf_der(ORDER);
        state.keep_credentials(&chain, key.secret_der(), &ca.bundle()).unwrap();
        let mesh = MeshSpec {
            trust_anchors: trusted.to_der(),
            networks: Vec::new(),
            egress: EgressMode::Allow,
            telemetry: TelemetrySpec::default(),
        };
        let update = Update { key: ResourceKey::Mesh, version: 0, resource: Resource::Mesh(mesh) };
        state.keep_snapshots(vec![(&update).into()]).unwrap();
        state
    }

    fn resumed(state: &StateDir, ca: &TestCa, at_unix_s: u64) -> (MeshTls, Discovery) {
        let tls = MeshTls::new(TrustDomain::default());
        let (discovery, mut inbox) = Discovery::new(Duration::MAX);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at_unix_s));
        resume(state, &tls, &mut inbox, &WorkloadName::new("shop", "order-1"), &ca.bundle(), now);
        (tls, discovery)
    }

    #[test]
    fn credentials_snapshots_and_the_younger_bundle_are_in_force_at_once() {
        let (there, ca, next) = (in_memory(), TestCa::new("ca"), TestCa::new("next"));
        let both = TrustBundle::from_der([ca.anchor_der(), next.anchor_der()]).unwrap();
        let (tls, discovery) = resumed(&kept(&there, &ca, &both), &ca, START_UNIX_S + 1);
        assert_eq!(tls.credentials().unwrap().id().as_str(), ORDER);
        assert_eq!(*tls.bundle().unwrap(), both);
        assert!(discovery.mesh().is_some());
    }

    #[test]
    fn a_bundle_that_does_not_vouch_for_our_own_certificate_is_not_the_younger_one() {
        let (there, ca) = (in_memory(), TestCa::new("ca"));
        let (tls, _) = resumed(&kept(&there, &ca, &TestCa::new("old").bundle()), &ca, START_UNIX_S + 1);
        assert_eq!(*tls.bundle().unwrap(), ca.bundle());
    }

    #[test]
    fn without_valid_credentials_snapshots_are_neither_taken_nor_left() {
        let (there, ca) = (in_memory(), TestCa::new("ca"));
        let state = kept(&there, &ca, &ca.bundle());
        let (tls, discovery) = resumed(&state, &ca, START_UNIX_S + LEAF_LIFE.as_secs() + 1);
        assert!(tls.credentials().is_none() && tls.bundle().is_none() && discovery.mesh().is_none());
        assert!(state.snapshots().is_none());
    }

    #[test]
    fn damaged_snapshots_do_not_cost_the_certificate() {
        let (there, ca) = (in_memory(), TestCa::new("ca"));
        let state = kept(&there, &ca, &ca.bundle());
        std::fs::write(there.path().join(Kind::Snapshots.name()), "damaged").unwrap();
        let (tls, discovery) = resumed(&state, &ca, START_UNIX_S + 1);
        assert!(tls.credentials().is_some() && discovery.mesh().is_none());
    }
}
