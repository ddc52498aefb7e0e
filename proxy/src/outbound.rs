//! The outbound story: what becomes of a connection that our application opened.

use std::rc::Rc;
use std::time::Duration;

use weft_model::{AppProtocol, ClientAddr, OriginalDst};
use weft_runtime::drain::Drain;

use crate::accept::Accepted;
use crate::admit;
use crate::detect::{First, Patience, SILENCE, Spoken, detect, first_of};
use crate::error::Reason;
use crate::forward::http::{Gate, Http, Http1End, Session, serve_http1, serve_http2};
use crate::forward::opaque::{Opened, carry, open};
use crate::forward::tcp::copy;
use crate::io::Io;
use crate::record::{Direction, Event, TcpRecord};
use crate::resolve::{Destination, resolve};
use crate::route::{self, Target};

/// Serves what the application opens. One a worker.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// What HTTP is served with; also dialer, recorder and discovery for bytes.
    pub(crate) http: Rc<Http>,
    /// When the application is gone and what is left is to end.
    pub(crate) drain: Drain,
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
struct Ends {
    client: ClientAddr,
    dst: OriginalDst,
}

impl Outbound {
    /// Serves one connection to its end.
    pub(crate) async fn serve(&self, accepted: Accepted) {
        let Accepted { io, client, dst, permit: _permit } = accepted;
        let ends = Ends { client, dst };
        match resolve(&self.http.discovery, dst).await {
            Ok(destination) => self.speak(io, ends, destination).await,
            Err(reason) => self.refuse(io, ends, reason),
        }
    }

    /// Chapter 2, where it is needed.
    async fn speak(&self, io: Io, ends: Ends, destination: Destination) {
        if destination.protocol == AppProtocol::Opaque {
            return self.opaque(io, ends, &destination).await;
        }
        let patience = Patience { silence: silence(&destination), mesh_tls: false };
        // Nobody is told about a connection that broke without a word.
        let Ok((io, spoken)) = detect(io, patience).await else { return };
        match spoken {
            Spoken::Silent => self.on_trial(io, ends, destination).await,
            spoken => self.spoken(io, ends, destination, spoken).await,
        }
    }

    async fn spoken(&self, io: Io, ends: Ends, destination: Destination, spoken: Spoken) {
        match spoken {
            Spoken::Ended => {}
            Spoken::Http1 => self.http1(io, ends, destination.target).await,
            Spoken::Http2 => serve_http2(&self.http, io, self.session(ends, destination.target)).await,
            Spoken::MeshTls | Spoken::Opaque | Spoken::Silent => {
                let needs_http = destination.protocol.is_http() || destination.wants_http;
                match needs_http {
                    true => self.refuse(io, ends, Reason::NotHttp),
                    false => self.opaque(io, ends, &destination).await,
                }
            }
        }
    }

    /// Semantics 13: nobody has spoken. The far end is opened as bytes, and whoever speaks first decides.
    async fn on_trial(&self, io: Io, ends: Ends, destination: Destination) {
        let mut record = self.record(ends);
        let opened = match self.open(ends, &destination, &mut record).await {
            Ok(opened) => opened,
            Err(reason) => return end(io, record, reason),
        };
        let (opened, upstream) = opened.split();
        let (io, upstream, first) = match first_of(io, upstream).await {
            Ok(first) => first,
            Err(_broken) => return record.finish(Err(Reason::ClientGone)),
        };
        match first {
            First::Client(spoken @ (Spoken::Http1 | Spoken::Http2)) => {
                forget(&destination.target);
                self.http.recorder.count(Event::HttpAfterTrial);
                record.discard();
                drop((opened, upstream));
                self.spoken(io, ends, destination, spoken).await;
            }
            First::Server { evidence } => {
                if evidence {
                    self.learn(&destination.target);
                }
                self.carry(io, opened.with(upstream), record).await;
            }
            First::Client(_) => self.carry(io, opened.with(upstream), record).await,
        }
    }

    async fn opaque(&self, io: Io, ends: Ends, destination: &Destination) {
        let mut record = self.record(ends);
        match self.open(ends, destination, &mut record).await {
            Ok(opened) => self.carry(io, opened, record).await,
            Err(reason) => end(io, record, reason),
        }
    }

    /// Chapters 3 to 6 for bytes.
    async fn open(&self, ends: Ends, destination: &Destination, record: &mut TcpRecord) -> Result<Opened, Reason> {
        let routed = route::tcp(&destination.target);
        record.traffic.service = routed.destination().cloned();
        let mesh = self.http.discovery.mesh().ok_or(Reason::DiscoveryUnavailable)?;
        let admitted =
            admit::outbound(&destination.target, routed, mesh.egress()).map_err(|refusal| refusal.reason)?;
        open(&admitted, ends.client, &self.http.own, &self.http.dialer, record).await
    }

    async fn carry(&self, io: Io, opened: Opened, record: TcpRecord) {
        carry(io, opened, &self.http.dialer.tls, self.drain.cut(), record).await;
    }

    async fn http1(&self, io: Io, ends: Ends, target: Target) {
        match serve_http1(&self.http, io, &self.session(ends, target)).await {
            Http1End::Closed => {}
            // The request that asked for the tunnel is recorded; its bytes are not HTTP any more.
            Http1End::Tunnel { client, upstream } => {
                drop(copy(client, upstream, |_, _| {}, self.drain.cut()).await);
            }
        }
    }

    fn session(&self, ends: Ends, target: Target) -> Session {
        let Ends { client, dst } = ends;
        let drain = self.drain.clone();
        Session { client, dst, target, gate: Gate::Outbound, released: drain.clone(), drain }
    }

    fn record(&self, ends: Ends) -> TcpRecord {
        self.http.recorder.tcp(Direction::Outbound, ends.client, ends.dst)
    }

    fn refuse(&self, io: Io, ends: Ends, reason: Reason) {
        end(io, self.record(ends), reason);
    }

    fn learn(&self, target: &Target) {
        let now = tokio::time::Instant::now().into_std();
        self.http.recorder.count(Event::ServerFirstLearned);
        match target {
            Target::Service(service) => service.learned.observe(now),
            Target::Workload(workload) => workload.learned.observe(now),
            Target::Application(_) | Target::Passthrough(_) => {}
        }
    }
}

/// A refusal of bytes is a reset: there is no other word for it.
fn end(io: Io, record: TcpRecord, reason: Reason) {
    io.reset();
    record.finish(Err(reason));
}

fn forget(target: &Target) {
    match target {
        Target::Service(service) => service.learned.forget(),
        Target::Workload(workload) => workload.learned.forget(),
        Target::Application(_) | Target::Passthrough(_) => {}
    }
}

/// How long to wait for the client's first byte: as long as it takes where HTTP is expected, not at all where servers
/// were seen to speak first.
fn silence(destination: &Destination) -> Option<Duration> {
    if destination.protocol.is_http() || destination.wants_http {
        None
    } else if destination.server_first {
        Some(Duration::ZERO)
    } else {
        Some(SILENCE)
    }
}
