//! The outbound story: what becomes of a connection that our application opened.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use weft_model::{AppProtocol, ClientAddr, OriginalDst};
use weft_runtime::drain::Drain;

use crate::accept::Accepted;
use crate::admit;
use crate::detect::{First, Patience, SILENCE, Spoken, detect_while};
use crate::error::Reason;
use crate::forward::http::{Gate, Http, Http1End, Session, serve_http1, serve_http2};
use crate::forward::opaque::{Opened, carry, end, open, tunnel};
use crate::io::Io;
use crate::record::{Direction, Event, TcpRecord};
use crate::resolve::{Destination, Target, resolve};
use crate::route;

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
    async fn speak(&self, mut io: Io, ends: Ends, destination: Destination) {
        if destination.protocol == AppProtocol::Opaque {
            return self.opaque(io, ends, &destination).await;
        }
        // Nobody is told about a connection that ended or broke without a word.
        let Some(spoken) = detect_while(&mut io, patience(&destination), &self.drain).await else { return };
        match spoken {
            Spoken::Silent => self.on_trial(io, ends, destination).await,
            spoken => self.spoken(io, ends, destination, spoken).await,
        }
    }

    async fn spoken(&self, io: Io, ends: Ends, destination: Destination, spoken: Spoken) {
        match spoken {
            Spoken::Ended => {}
            Spoken::Http1 => self.http1(io, ends, destination.target).await,
            Spoken::Http2 => self.http2(io, ends, destination.target).await,
            Spoken::MeshTls | Spoken::Opaque | Spoken::Silent => match needs_http(&destination) {
                true => self.refuse(io, ends, Reason::NotHttp),
                false => self.opaque(io, ends, &destination).await,
            },
        }
    }

    /// Semantics 13: nobody has spoken. The far end is opened as bytes, and whoever speaks first decides.
    async fn on_trial(&self, mut io: Io, ends: Ends, destination: Destination) {
        if !destination.server_first {
            self.http.recorder.count(Event::DetectTimeout);
        }
        let mut record = self.record(ends);
        let mut opened = match self.open(ends, &destination, &mut record).await {
            Ok(opened) => opened,
            Err(reason) => return end(io, record, reason),
        };
        let first = opened.first(&mut io, Patience::UNDECLARED, &self.http.dialer.tls, pin!(self.cut())).await;
        match first {
            Err(broken) => {
                opened.reset();
                end(io, record, broken.reason());
            }
            Ok(First::Client(spoken @ (Spoken::Http1 | Spoken::Http2))) => {
                forget(&destination.target);
                self.http.recorder.count(Event::HttpAfterTrial);
                record.discard();
                drop(opened);
                // Boxed: few come here, and all would pay for its size.
                Box::pin(self.spoken(io, ends, destination, spoken)).await;
            }
            Ok(first) => {
                if first == (First::Server { evidence: true }) {
                    self.learn(&destination.target);
                }
                self.carry(io, opened, record).await;
            }
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
        let admitted = admit::outbound(&destination.target, routed, mesh.egress()).map_err(|refusal| refusal.reason)?;
        // Boxed: needed for a moment, while the connection may live for days.
        Box::pin(open(&admitted, ends.client, &self.http, record)).await
    }

    async fn carry(&self, io: Io, opened: Opened, record: TcpRecord) {
        let carried = async { carry(io, opened, &self.http.dialer.tls, pin!(self.cut()), record).await };
        Box::pin(carried).await;
    }

    async fn http1(&self, io: Io, ends: Ends, target: Target) {
        let session = self.session(ends, target);
        // At the cut nobody waits for an answer any more.
        let ended = tokio::select! {
            ended = Box::pin(serve_http1(&self.http, io, &session)) => ended,
            _ = self.cut() => return,
        };
        if let Http1End::Tunnel { client, upstream } = ended {
            tunnel(client, upstream, pin!(self.cut())).await;
        }
    }

    async fn http2(&self, io: Io, ends: Ends, target: Target) {
        // As for HTTP/1.
        tokio::select! {
            () = Box::pin(serve_http2(&self.http, io, self.session(ends, target))) => {}
            _ = self.cut() => {}
        }
    }

    /// Resolves at the end of the drain.
    async fn cut(&self) -> Reason {
        self.drain.cut().await;
        Reason::Draining
    }

    fn session(&self, ends: Ends, target: Target) -> Session {
        let Ends { client, dst } = ends;
        let drain = self.drain.clone();
        let (released, farewell) = (drain.clone(), Rc::default());
        Session { client, dst, target, gate: Gate::Outbound, drain, released, farewell }
    }

    fn record(&self, ends: Ends) -> TcpRecord {
        self.http.recorder.tcp(Direction::Outbound, ends.client, ends.dst)
    }

    fn refuse(&self, io: Io, ends: Ends, reason: Reason) {
        end(io, self.record(ends), reason);
    }

    fn learn(&self, target: &Target) {
        let learned = match target {
            Target::Service(service) => &service.learned,
            Target::Workload(workload) => &workload.learned,
            Target::Application(_) | Target::Passthrough(_) => return,
        };
        let now = tokio::time::Instant::now().into_std();
        let before = learned.is_known(now);
        learned.observe(now);
        if !before && learned.is_known(now) {
            self.http.recorder.count(Event::ServerFirstLearned);
        }
    }
}

fn forget(target: &Target) {
    match target {
        Target::Service(service) => service.learned.forget(),
        Target::Workload(workload) => workload.learned.forget(),
        Target::Application(_) | Target::Passthrough(_) => {}
    }
}

/// Whether nothing but HTTP is let through.
fn needs_http(destination: &Destination) -> bool {
    destination.protocol.is_http() || destination.wants_http
}

/// How long to wait for the client's first byte: as long as it takes where HTTP is expected, not at all where servers
/// were seen to speak first.
fn patience(destination: &Destination) -> Patience {
    if needs_http(destination) {
        return Patience::HTTP;
    }
    let silence = if destination.server_first { Duration::ZERO } else { SILENCE };
    Patience { silence: Some(silence), ..Patience::UNDECLARED }
}
