//! Chapter 5: which endpoint takes it. Invariant: [`Picked`] is made here and only from an [`Admitted`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use weft_model::policy::ConnectTimeout;
use weft_model::{ClientAddr, SpiffeId, WorkloadName};
use weft_proxy_core::balance::{pick, pick_by_client};
use weft_proxy_core::classify::Class;
use weft_proxy_core::endpoint::{Endpoint, InFlight};

use crate::admit::Admitted;
use crate::discovery::Backend;
use crate::error::Reason;
use crate::route::To;

/// How long a service without endpoints is waited for, so that a rollout's gap of an instant is not an error.
const ENDPOINTS_WAIT: Duration = Duration::from_secs(1);

/// Where something goes, and how it gets there.
#[derive(Debug)]
pub(crate) struct Picked {
    addr: SocketAddr,
    /// The endpoint with this request counted in; `None` for the application beside us and for what is not meshed.
    in_flight: Option<InFlight>,
    own: bool,
}

/// What a pooled connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PoolKey {
    /// An unmeshed address, or the application beside us.
    Addr(SocketAddr),
    /// An endpoint instance, by its process-wide number.
    Endpoint(u64),
}

/// How a picked endpoint is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Via<'a> {
    /// By mesh TLS with exactly this peer.
    MeshTls(&'a SpiffeId),
    /// It is this very workload: handed to the inbound story in memory.
    Own,
    /// As it is.
    Plaintext,
}

impl Picked {
    /// The address to dial.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How to get there.
    pub(crate) fn via(&self) -> Via<'_> {
        match self.endpoint().and_then(|endpoint| endpoint.spec().identity.as_ref()) {
            _ if self.own => Via::Own,
            Some(identity) => Via::MeshTls(identity),
            None => Via::Plaintext,
        }
    }

    /// The endpoint, where discovery knows one.
    pub(crate) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.in_flight.as_ref().map(InFlight::endpoint)
    }

    /// What a pooled connection to it is kept under.
    pub(crate) fn pool_key(&self) -> PoolKey {
        self.endpoint().map_or(PoolKey::Addr(self.addr), |endpoint| PoolKey::Endpoint(endpoint.id()))
    }

    /// How long connecting may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.endpoint().map_or_else(ConnectTimeout::default, |endpoint| endpoint.policy().connect_timeout).0
    }

    /// The request is on its way.
    pub(crate) fn sent(&mut self, now: Instant) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.sent(now.into_std());
        }
    }

    /// The first byte of an answer is there, and `class` is what it says so far.
    pub(crate) fn first_byte(&mut self, class: Class, now: Instant) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.first_byte(class, now.into_std());
        }
    }

    /// How it ended; only the first report counts. `true`: the endpoint is left out from now on.
    pub(crate) fn report(&mut self, class: Class, now: Instant) -> bool {
        let Some(in_flight) = &mut self.in_flight else { return false };
        let before = in_flight.has_ejected();
        in_flight.report(class, now.into_std(), fastrand::u64(..));
        in_flight.has_ejected() && !before
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        if let Some(in_flight) = self.in_flight.as_mut().filter(|in_flight| in_flight.is_waiting()) {
            in_flight.give_up(Instant::now().into_std());
        }
    }
}

/// What a choice goes by, beside the endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// Who asks, for affinity and for the family of the endpoint's address.
    pub(crate) client: ClientAddr,
    /// Ids of endpoints that have had their chance.
    pub(crate) tried: &'a [u64],
    /// Who we are: an endpoint of ours is not dialled.
    pub(crate) own: &'a WorkloadName,
}

/// Picks where it goes; waits a moment for a service that has no endpoint.
///
/// **Cancel:** loses nothing.
///
/// # Errors
/// [`Reason::NoEndpoints`].
pub(crate) async fn balance(admitted: &Admitted, choice: Choice<'_>) -> Result<Picked, Reason> {
    let in_flight = match &admitted.routed().to {
        To::Addr(addr) => return Ok(Picked { addr: *addr, in_flight: None, own: false }),
        To::Workload(workload) => {
            // A set of one: another attempt has nowhere else to go.
            pick(&workload.endpoints, Instant::now().into_std(), 0, &[]).ok_or(Reason::NoEndpoints)?
        }
        To::Backend { backend, client_ip_affinity } => {
            let affinity = client_ip_affinity.then(|| choice.client.ip());
            pick_or_wait(backend, |backend| {
                let now = Instant::now().into_std();
                let endpoints = backend.endpoints();
                // Both ends of its connection have one family: that of the Service's address that it asked for.
                let among = endpoints.for_client(choice.client.ip());
                match affinity {
                    Some(client) => pick_by_client(among, now, client, choice.tried),
                    None => pick(among, now, fastrand::u64(..), choice.tried),
                }
            })
            .await
            .ok_or(Reason::NoEndpoints)?
        }
    };
    let spec = in_flight.endpoint().spec();
    let own = spec.workload.as_ref() == Some(choice.own);
    Ok(Picked { addr: spec.addr.0, own, in_flight: Some(in_flight) })
}

async fn pick_or_wait(backend: &Backend, pick: impl Fn(&Backend) -> Option<InFlight>) -> Option<InFlight> {
    if let Some(picked) = pick(backend) {
        return Some(picked);
    }
    let until = Instant::now() + ENDPOINTS_WAIT;
    let mut changed = backend.changes();
    loop {
        if let Some(picked) = pick(backend) {
            return Some(picked);
        }
        // A writer that is gone changes nothing any more.
        timeout_at(until, changed.changed()).await.ok()?.ok()?;
    }
}
