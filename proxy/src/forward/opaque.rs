//! Bytes from an admitted connection to an endpoint: chapters 5 to 7 of a connection that is not looked into.

use std::future::pending;

use smallvec::SmallVec;
use tokio::time::Instant;
use weft_model::{ClientAddr, EndpointAddr, WorkloadName};
use weft_proxy_core::classify::Class;
use weft_proxy_core::retry::UNPROCESSED_RETRIES_MAX;
use weft_tls::{Alpn, AnchorId, MeshTls};

use super::tcp::{Broken, copy};
use crate::admit::Admitted;
use crate::balance::{Choice, Picked, balance};
use crate::connect::Dialer;
use crate::error::Reason;
use crate::io::Io;
use crate::record::{Mtls, TcpRecord};

/// A connection whose far end is open.
#[derive(Debug)]
pub(crate) struct Opened {
    upstream: Io,
    claim: Claim,
}

/// What a connection holds while it lives.
#[derive(Debug)]
pub(crate) struct Claim {
    anchor: Option<AnchorId>,
    /// Counts as in flight.
    picked: Picked,
}

impl Opened {
    /// Gives the far end out, to be looked at.
    pub(crate) fn split(self) -> (Claim, Io) {
        (self.claim, self.upstream)
    }
}

impl Claim {
    /// Takes the far end back.
    pub(crate) fn with(self, upstream: Io) -> Opened {
        Opened { upstream, claim: self }
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
    own: &WorkloadName,
    dialer: &Dialer,
    record: &mut TcpRecord,
) -> Result<Opened, Reason> {
    let mut tried = SmallVec::<[u64; 4]>::new();
    let retries_max = if admitted.routed().service.is_some() { UNPROCESSED_RETRIES_MAX } else { 0 };
    let mut retries = 0;
    loop {
        let mut picked = balance(admitted, Choice { client, tried: &tried, own }).await?;
        tried.extend(picked.endpoint().map(|endpoint| endpoint.id()));
        describe(record, &picked);
        match dialer.connect(&picked, Alpn::Tcp).await {
            Ok(connected) => {
                let now = Instant::now();
                picked.first_byte(Class::Success, now);
                picked.report(Class::Success, now);
                let claim = Claim { anchor: connected.anchor, picked };
                return Ok(Opened { upstream: connected.io, claim });
            }
            Err(error) => {
                picked.report(Class::Failure, Instant::now());
                tracing::debug!(error = &error as &dyn std::error::Error, "no connection to an endpoint");
                if retries == retries_max {
                    return Err(error.reason());
                }
                retries += 1;
            }
        }
    }
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
pub(crate) async fn carry(
    client: Io,
    opened: Opened,
    tls: &MeshTls,
    until: impl Future<Output = ()>,
    mut record: TcpRecord,
) {
    let Opened { upstream, claim: Claim { anchor, picked } } = opened;
    record.opened();
    let until = async {
        // Either ends the connection; neither has anything to lose.
        tokio::select! {
            () = until => {}
            () = distrusted(tls, anchor) => {}
        }
    };
    let ended = copy(client, upstream, |sent, received| record.passed(sent, received), until).await;
    drop(picked);
    record.finish(match ended {
        Ok(()) => Ok(()),
        Err(Broken::Client) => Err(Reason::ClientGone),
        Err(Broken::Cut) => Err(Reason::Draining),
        Err(Broken::Upstream) => Err(Reason::UpstreamReset),
    });
}

/// Resolves when the anchor that authenticated a peer is trusted no longer (semantics 35).
pub(crate) async fn distrusted(tls: &MeshTls, anchor: Option<AnchorId>) {
    match anchor {
        Some(anchor) => tls.anchor_watch().removed(anchor).await,
        None => pending().await,
    }
}
