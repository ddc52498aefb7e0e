//! Who of several replicas writes: the one that holds the Lease (`coordination.k8s.io/v1`). The others serve proxies as it does, and
//! take over when it has not renewed for as long as the Lease lasts.
//!
//! Whether another's Lease has run out is told by our own clock, from when we saw it renewed last: clocks of nodes differ. The values
//! are those of Kubernetes' own controllers (client-go's leader election: 15 s, 10 s, 2 s).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use weft_runtime::drain::Drain;

/// How long a Lease lasts without being renewed.
const LASTS: Duration = Duration::from_secs(15);
/// How long its holder tries to renew it before it stops writing: well before another may begin.
const RENEW_MAX: Duration = Duration::from_secs(10);
/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// The Lease's name, in the control plane's own namespace.
pub(crate) const NAME: &str = "weft-control-plane";

/// One replica's part in it.
pub(crate) struct Candidate {
    api: Api<Lease>,
    /// This replica: its pod's name.
    me: String,
    leads: watch::Sender<bool>,
    seen: Option<Observed>,
    renewed: Instant,
}

/// What the Lease said, and since when it has said so.
#[derive(Clone, Debug, PartialEq)]
struct Observed {
    version: String,
    since: Instant,
}

/// What is to be done about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Nobody has it, or we have: make it ours, for another while.
    Take,
    /// Somebody else has it.
    Wait,
}

impl Candidate {
    /// A candidate called `me`, and whether it leads now.
    pub(crate) fn new(client: &Client, namespace: &str, me: String) -> (Self, watch::Receiver<bool>) {
        let (leads, led) = watch::channel(false);
        let api = Api::namespaced(client.clone(), namespace);
        (Self { api, me, leads, seen: None, renewed: Instant::now() }, led)
    }

    /// Stands for election until the drain is over; then gives the Lease back, so that nobody has to wait for its end.
    pub(crate) async fn run(mut self, drain: Drain) {
        loop {
            match timeout(RENEW_MAX / 2, self.attempt()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the Lease is not ours now");
                }
                Err(_slow) => tracing::debug!("the API server does not answer about the Lease"),
            }
            if *self.leads.borrow() && self.renewed.elapsed() >= RENEW_MAX {
                tracing::warn!("the Lease could not be renewed: another replica may write now");
                self.leads.send_replace(false);
            }
            // Nothing is lost in either.
            tokio::select! {
                () = drain.draining() => break,
                () = sleep(EVERY) => {}
            }
        }
        if self.leads.send_replace(false) {
            // It runs out by itself where this fails.
            drop(timeout(RENEW_MAX / 2, self.release()).await);
        }
    }

    async fn attempt(&mut self) -> Result<(), kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                spec: Some(self.claim(0, None)),
            };
            self.api.create(&PostParams::default(), &lease).await?;
            self.won();
            return Ok(());
        };
        let now = Instant::now();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            self.seen = Some(Observed { version, since: now });
        }
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |seen| now.duration_since(seen.since));
        let spec = lease.spec.clone().unwrap_or_default();
        if act(&spec, &self.me, unchanged) == Act::Wait {
            self.leads.send_if_modified(std::mem::take);
            return Ok(());
        }
        let is_ours = spec.holder_identity.as_ref() == Some(&self.me);
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(!is_ours);
        let acquired = spec.acquire_time.filter(|_| is_ours);
        // The version in the metadata makes it fail where somebody was faster.
        let claimed = Lease { spec: Some(self.claim(transitions, acquired)), ..lease };
        self.api.replace(NAME, &PostParams::default(), &claimed).await?;
        self.won();
        Ok(())
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else { return Ok(()) };
        if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.me)) {
            spec.holder_identity = None;
            self.api.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    fn won(&mut self) {
        self.renewed = Instant::now();
        if !self.leads.send_replace(true) {
            tracing::info!(me = self.me, "this replica writes from now on");
        }
    }

    fn claim(&self, transitions: i32, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

/// What is to be done about a Lease that we have seen unchanged for so long.
fn act(lease: &LeaseSpec, me: &str, unchanged: Duration) -> Act {
    let lasts =
        lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(LASTS, Duration::from_secs);
    match lease.holder_identity.as_deref() {
        None | Some("") => Act::Take,
        Some(holder) if holder == me || unchanged >= lasts => Act::Take,
        Some(_other) => Act::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_nobody_holds_it_any_more() {
        let held = |by: Option<&str>| LeaseSpec {
            holder_identity: by.map(str::to_owned),
            lease_duration_seconds: Some(30),
            ..LeaseSpec::default()
        };
        let short = Duration::from_secs(29);
        for (by, unchanged, want) in [
            (None, Duration::ZERO, Act::Take),
            (Some(""), Duration::ZERO, Act::Take),
            (Some("me"), Duration::ZERO, Act::Take),
            (Some("other"), Duration::ZERO, Act::Wait),
            (Some("other"), short, Act::Wait),
            (Some("other"), short + EVERY, Act::Take),
        ] {
            assert_eq!(act(&held(by), "me", unchanged), want, "{by:?} {unchanged:?}");
        }
    }
}
