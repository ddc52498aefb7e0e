//! Bytes from an admitted connection to an endpoint: chapters 5 to 7 of a connection that is not looked into.

use std::future::pending;
use std::pin::{Pin, pin};

use smallvec::SmallVec;
use tokio::time::Instant;
use weft_model::{ClientAddr, EndpointAddr};
use weft_proxy_core::classify::Class;
use weft_proxy_core::retry::UNPROCESSED_RETRIES_MAX;
use weft_tls::{Alpn, AnchorId, MeshTls};

use super::http::Http;
use super::tcp::{Broken, copy};
use crate::admit::Admitted;
use crate::balance::{Choice, Picked, balance};
use crate::connect::ConnectError;
use crate::detect::{First, Lost, Patience, first_of};
use crate::error::Reason;
use crate::io::Io;
use crate::record::{Event, Mtls, Recorder, TcpRecord};
use crate::route::Routed;

/// A connection whose far end is open.
#[derive(Debug)]
pub(crate) struct Opened {
    upstream: Io,
    anchor: Option<AnchorId>,
    /// Counts as in flight for as long as the connection lives.
    _picked: Picked,
}

impl Opened {
    /// Waits for whoever speaks first, the client or the far end. The bytes are read again by [`carry`].
    ///
    /// # Errors
    /// One side broke, or `until` resolved; both are still to be reset.
    pub(crate) async fn first(
        &mut self,
        client: &mut Io,
        patience: Patience,
        tls: &MeshTls,
        until: Pin<&mut impl Future<Output = Reason>>,
    ) -> Result<First, Broken> {
        // Whichever ends first: after the other two nobody reads on.
        tokio::select! {
            first = first_of(client, &mut self.upstream, patience) => first.map_err(|lost| match lost {
                Lost::Client => Broken::Client,
                Lost::Server(error) => Broken::upstream(&error),
            }),
            reason = until => Err(Broken::Cut(reason)),
            reason = distrusted(tls, self.anchor) => Err(Broken::Cut(reason)),
        }
    }

    /// Ends the far end so that nobody takes it for an orderly end.
    pub(crate) fn reset(self) {
        self.upstream.reset();
    }
}

/// Opens the far end; another endpoint is tried while nothing was sent.
///
/// **Cancel:** gives the attempt up.
///
/// # Errors
/// Why the last attempt failed.
pub(crate) async fn open(
    admitted: &Admitted,
    client: ClientAddr,
    http: &Http,
    record: &mut TcpRecord,
) -> Result<Opened, Reason> {
    let routed = admitted.routed();
    if let Some(service) = &routed.service {
        service.budget.deposit(Instant::now().into_std());
    }
    let mut tried = SmallVec::<[u64; 4]>::new();
    let mut failed = None;
    loop {
        let choice = Choice { client, tried: &tried, own: &http.own };
        // That no endpoint is left says less than why the last one was of no use.
        let mut picked = balance(admitted, choice).await.map_err(|reason| failed.unwrap_or(reason))?;
        tried.extend(picked.endpoint().map(|endpoint| endpoint.id()));
        describe(record, &picked);
        match http.dialer.connect(&picked, Alpn::Tcp).await {
            Ok(connected) => {
                let now = Instant::now();
                picked.first_byte(Class::Success, now);
                picked.report(Class::Success, now);
                return Ok(Opened { upstream: connected.io, anchor: connected.anchor, _picked: picked });
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no connection to an endpoint");
                blame(&mut picked, &error, &http.recorder);
                if tried.len() > RETRIES_MAX || !pays(routed, &http.recorder) {
                    return Err(error.reason());
                }
                failed = Some(error.reason());
            }
        }
    }
}

/// Connecting is provably unprocessed: tried again without a policy.
const RETRIES_MAX: usize = UNPROCESSED_RETRIES_MAX as usize;

/// What we lack is not the endpoint's fault.
fn blame(picked: &mut Picked, error: &ConnectError, recorder: &Recorder) {
    let ours = matches!(error, ConnectError::NoIdentity { .. } | ConnectError::Own);
    if !ours && picked.report(Class::Failure, Instant::now()) {
        recorder.count(Event::Ejected);
    }
}

/// Takes a further attempt from the service's budget; without a service there is nowhere else to go.
fn pays(routed: &Routed, recorder: &Recorder) -> bool {
    let Some(service) = &routed.service else { return false };
    let paid = service.budget.withdraw(&routed.retry_budget, Instant::now().into_std());
    if !paid {
        recorder.count(Event::RetryBudgetEmpty);
    }
    paid
}

fn describe(record: &mut TcpRecord, picked: &Picked) {
    record.endpoint = Some(EndpointAddr(picked.addr()));
    if let Some(endpoint) = picked.endpoint() {
        let spec = endpoint.spec();
        record.traffic.destination.clone_from(&spec.workload);
        record.traffic.peer.clone_from(&spec.identity);
        record.traffic.mtls = if spec.identity.is_some() { Mtls::Yes } else { Mtls::No };
    }
}

/// Copies both ways until both sides are done, or `until` resolves, or the peer's trust anchor is removed.
///
/// What says when to end is pinned where it was made: handed on by value, each call on the way would keep room for it, and
/// connections are counted in thousands.
pub(crate) async fn carry(
    client: Io,
    opened: Opened,
    tls: &MeshTls,
    until: Pin<&mut impl Future<Output = Reason>>,
    mut record: TcpRecord,
) {
    let Opened { upstream, anchor, _picked } = opened;
    record.opened();
    let until = pin!(async {
        // Either ends the connection; neither has anything to lose.
        tokio::select! {
            reason = until => reason,
            reason = distrusted(tls, anchor) => reason,
        }
    });
    let ended = copy(client, upstream, |sent, received| record.passed(sent, received), until).await;
    record.finish(ended.map_err(Broken::reason));
}

/// Copies both ways after a request asked for it. The request is in the record; its bytes are not HTTP any more.
pub(crate) async fn tunnel(client: Io, upstream: Io, until: Pin<&mut impl Future<Output = Reason>>) {
    if let Err(broken) = copy(client, upstream, |_, _| {}, until).await {
        tracing::debug!(reason = %broken.reason(), "a tunnel broke");
    }
}

/// A refusal of bytes is a reset: there is no other word for it.
pub(crate) fn end(client: Io, record: TcpRecord, reason: Reason) {
    client.reset();
    record.finish(Err(reason));
}

/// Resolves when the anchor that authenticated a peer is trusted no longer (semantics 35).
pub(crate) async fn distrusted(tls: &MeshTls, anchor: Option<AnchorId>) -> Reason {
    match anchor {
        Some(anchor) => tls.anchor_watch().removed(anchor).await,
        None => pending().await,
    }
    Reason::IdentityMismatch
}
