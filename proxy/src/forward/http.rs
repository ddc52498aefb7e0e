//! HTTP of both versions and both directions: one connection's requests, each through chapters 3 to 7.
//! [`Http::exchange`] is the story of one request. What differs between the directions is in [`Gate`] alone.

mod answer;
mod attempt;
mod body;
mod exchange;
mod farewell;
mod guard;
mod headers;
mod http1;
mod http2;
mod message;
mod replay;
mod responder;
mod upstream;

use std::rc::Rc;
use std::sync::Arc;

use weft_model::{ClientAddr, OriginalDst, SpiffeId, WorkloadName};
use weft_proxy_core::limit::Concurrency;
use weft_runtime::drain::Drain;
use weft_runtime::task::Tasks;

use crate::connect::Dialer;
use crate::connect::pool::Pool;
use crate::discovery::{Discovery, Inbound};
use crate::probe::Detours;
use crate::record::{Direction, Recorder};
use crate::resolve::Target;

/// What a worker serves HTTP with.
#[derive(Debug)]
pub(crate) struct Http {
    /// Opens connections.
    pub(crate) dialer: Dialer,
    /// Keeps them.
    pub(crate) pool: Pool,
    /// Writes down what happened.
    pub(crate) recorder: Recorder,
    /// Requests in flight, over all workers.
    pub(crate) requests: Arc<Concurrency>,
    /// What is known of the mesh.
    pub(crate) discovery: Discovery,
    /// Where probes go that the application would send on.
    pub(crate) detours: Detours,
    /// Who we are.
    pub(crate) own: WorkloadName,
    /// Owns the streams of HTTP/2 connections.
    pub(crate) tasks: Tasks,
}

/// What holds for all requests of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Who opened it.
    pub(crate) client: ClientAddr,
    /// Where it was going.
    pub(crate) dst: OriginalDst,
    /// What that is.
    pub(crate) target: Target,
    /// Who may pass.
    pub(crate) gate: Gate,
    /// When to tell the client to go elsewhere.
    pub(crate) drain: Drain,
    /// When to close what is idle: nobody sends any more.
    pub(crate) released: Drain,
    /// When this one connection is to end, whatever the others do.
    pub(crate) farewell: Rc<Farewell>,
}

/// What differs between the directions: who asks, and what lets them through.
#[derive(Clone, Debug)]
pub(crate) enum Gate {
    /// A peer or a stranger asks our application.
    Inbound {
        /// Who it is, verified by mesh TLS.
        peer: Option<SpiffeId>,
    },
    /// Our application asks.
    Outbound,
}

impl Session {
    fn direction(&self) -> Direction {
        match self.gate {
            Gate::Inbound { .. } => Direction::Inbound,
            Gate::Outbound => Direction::Outbound,
        }
    }

    fn peer(&self) -> Option<&SpiffeId> {
        match &self.gate {
            Gate::Inbound { peer } => peer.as_ref(),
            Gate::Outbound => None,
        }
    }

    /// Whether the client is a proxy of the mesh or our own application: they may know reasons.
    fn is_meshed(&self) -> bool {
        match &self.gate {
            Gate::Inbound { peer } => peer.is_some(),
            Gate::Outbound => true,
        }
    }
}

impl Http {
    /// Our inbound policy as it is now; without one nothing is let in.
    fn inbound(&self) -> Option<Arc<Inbound>> {
        self.discovery.inbound()
    }
}

pub(crate) use self::farewell::Farewell;
pub(crate) use self::http1::Http1End;

#[cfg(test)]
mod tests;

/// Serves one HTTP/1 connection to its end.
pub(crate) async fn serve_http1(http: &Rc<Http>, io: crate::io::Io, session: &Session) -> Http1End {
    http1::serve(http, io, session).await
}

/// Serves one HTTP/2 connection to its end.
pub(crate) async fn serve_http2(http: &Rc<Http>, io: crate::io::Io, session: Session) {
    http2::serve(http, io, session).await;
}
