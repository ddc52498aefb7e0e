//! The inbound story: what becomes of a connection to our application.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use weft_model::policy::MtlsMode;
use weft_model::{AppProtocol, ClientAddr, OriginalDst, PolicyId, SpiffeId};
use weft_proxy_core::authz::Policies;
use weft_runtime::drain::Drain;
use weft_tls::{Alpn, AnchorId, TlsError};

use crate::accept::Accepted;
use crate::admit::{self, Admitted, Asked, Decided};
use crate::connect::Handoff;
use crate::detect::{First, HELLO_MAX, Patience, Spoken, detect_while};
use crate::discovery::Inbound as Configuration;
use crate::error::Reason;
use crate::forward::http::{Farewell, Gate, Http, Http1End, Session, serve_http1, serve_http2};
use crate::forward::opaque::{Opened, carry, distrusted, end, open, tunnel};
use crate::io::Io;
use crate::record::{Direction, Event, Mtls, TcpRecord, Verdict};
use crate::resolve::Target;
use crate::route;

/// How long a connection waits for the first word of the control plane after a start.
const CONFIGURATION_MAX: Duration = Duration::from_secs(3);

/// Serves what comes to the application. One a worker.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// What HTTP is served with; also dialer, recorder and discovery for bytes.
    pub(crate) http: Rc<Http>,
    /// When to send clients elsewhere, and when to cut.
    pub(crate) drain: Drain,
    /// When nobody sends any more.
    pub(crate) released: Drain,
    /// Our own identity as a peer, for what our application sends to itself.
    pub(crate) own: SpiffeId,
}

/// Who talks to which port, and how it came.
#[derive(Clone, Debug)]
struct Asker {
    client: ClientAddr,
    dst: OriginalDst,
    /// Who it is, verified.
    peer: Option<SpiffeId>,
    /// What vouches for it.
    anchor: Option<AnchorId>,
}

impl Asker {
    /// Chapters 3 and 4 for bytes.
    fn admit(&self, policies: &Policies, decided: impl FnMut(Option<&PolicyId>, Decided)) -> Result<Admitted, Reason> {
        let asked = Asked { port: self.dst.port(), peer: self.peer.as_ref(), request: None, detours: None };
        let routed = route::tcp(&Target::Application(self.dst));
        admit::inbound(policies, asked, routed, decided).map_err(|refusal| refusal.reason)
    }
}

impl Inbound {
    /// Serves one connection to its end.
    pub(crate) async fn serve(&self, accepted: Accepted) {
        let Accepted { io, client, dst, permit: _permit } = accepted;
        let asker = Asker { client, dst, peer: None, anchor: None };
        match self.configuration().await {
            // Boxed, as `meshed` is: a connection's state is too large to be moved from story to story.
            Some(configuration) => Box::pin(self.speak(io, asker, &configuration.policies)).await,
            None => self.refuse(io, &asker, Reason::DiscoveryUnavailable),
        }
    }

    /// Serves what our own outbound story hands over in memory (semantics 5).
    pub(crate) async fn serve_own(&self, handoff: Handoff) {
        let Handoff { io, dst, alpn } = handoff;
        let asker = Asker { client: ClientAddr(dst.0), dst, peer: Some(self.own.clone()), anchor: None };
        Box::pin(self.meshed(io, asker, alpn)).await;
    }

    /// Chapter 2 for a connection that may or may not come from a proxy.
    async fn speak(&self, mut io: Io, asker: Asker, policies: &Policies) {
        let is_http = policies.protocol(asker.dst.port()).is_http();
        let patience = if is_http { Patience::HTTP } else { Patience::UNDECLARED };
        // On a strict port only a ClientHello is of use, and clients send it at once.
        let is_strict = policies.mtls(asker.dst.port()) == MtlsMode::Strict;
        let silence = if is_strict { Some(HELLO_MAX) } else { patience.silence };
        let patience = Patience { silence, ..patience }.and_mesh_tls();
        // Nobody is told about a connection that ended or broke without a word.
        let Some(spoken) = detect_while(&mut io, patience, &self.released).await else { return };
        match spoken {
            Spoken::Silent => self.silent(io, asker).await,
            spoken => self.spoken(io, asker, spoken).await,
        }
    }

    /// Terminates mesh TLS; from then on the client is a verified peer.
    async fn handshake(&self, io: Io, asker: Asker) {
        let raw = match io.into_raw() {
            Ok(raw) => raw,
            Err(io) => return self.refuse(io, &asker, Reason::Internal),
        };
        let shaken = Box::pin(timeout(HELLO_MAX, self.http.dialer.tls.accept(raw))).await;
        let reason = match shaken {
            Ok(Ok((tls, peer, alpn))) => {
                let asker = Asker { peer: Some(peer.id), anchor: Some(peer.anchor), ..asker };
                return Box::pin(self.meshed(tls.into(), asker, alpn)).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, client = %asker.client, "a handshake failed");
                handshake_reason(&error)
            }
            Err(_slow) => Reason::TlsHandshake,
        };
        self.http.recorder.count(Event::TlsHandshakeFailed);
        if reason == Reason::IdentityMismatch {
            self.http.recorder.count(Event::IdentityMismatch);
        }
        self.record(&asker).finish(Err(reason));
    }

    /// A verified peer: its ALPN says what is inside, and is believed only where no policy depends on it.
    async fn meshed(&self, mut io: Io, asker: Asker, alpn: Alpn) {
        match alpn {
            Alpn::Http1 => self.http1(io, asker).await,
            Alpn::H2 => self.http2(io, asker).await,
            Alpn::Tcp if self.needs_l7(&asker) => {
                match detect_while(&mut io, Patience::UNDECLARED, &self.released).await {
                    None => {}
                    Some(Spoken::Silent) => self.silent(io, asker).await,
                    Some(spoken) => self.spoken(io, asker, spoken).await,
                }
            }
            Alpn::Tcp => self.opaque(io, asker).await,
        }
    }

    async fn spoken(&self, io: Io, asker: Asker, spoken: Spoken) {
        let declared = self.http.discovery.inbound().map(|it| it.policies.protocol(asker.dst.port()));
        match spoken {
            Spoken::Ended => {}
            // Boxed: a handshake leads back here, once.
            Spoken::MeshTls if asker.peer.is_none() => Box::pin(self.handshake(io, asker)).await,
            // Declared bytes are bytes, whatever they look like, unless a policy must look into them.
            Spoken::Http1 | Spoken::Http2 if declared == Some(AppProtocol::Opaque) && !self.needs_l7(&asker) => {
                self.opaque(io, asker).await;
            }
            Spoken::Http1 => self.http1(io, asker).await,
            Spoken::Http2 => self.http2(io, asker).await,
            // A peer's proxy has been asked the same before.
            Spoken::MeshTls | Spoken::Opaque | Spoken::Silent
                if declared.is_some_and(AppProtocol::is_http) && asker.peer.is_none() =>
            {
                self.refuse(io, &asker, Reason::NotHttp);
            }
            Spoken::MeshTls | Spoken::Opaque | Spoken::Silent => self.opaque(io, asker).await,
        }
    }

    fn needs_l7(&self, asker: &Asker) -> bool {
        self.http.discovery.inbound().is_none_or(|it| it.policies.needs_l7(asker.dst.port()))
    }

    /// A client that says nothing. The application may be the one to greet (semantics 13); but where bytes are not let in
    /// the client is waited for: it may be about to prove who it is, or to speak the HTTP that is.
    async fn silent(&self, mut io: Io, asker: Asker) {
        if self.judge(&asker).is_ok() {
            return self.on_trial(io, asker).await;
        }
        // Without a rule for HTTP only a ClientHello can help.
        let silence = (asker.peer.is_none() && !self.needs_l7(&asker)).then_some(HELLO_MAX);
        let patience = Patience { silence, undecided: HELLO_MAX, mesh_tls: asker.peer.is_none() };
        match detect_while(&mut io, patience, &self.released).await {
            None => {}
            Some(Spoken::Silent) => {
                self.http.recorder.count(Event::DetectTimeout);
                self.opaque(io, asker).await;
            }
            Some(spoken) => self.spoken(io, asker, spoken).await,
        }
    }

    async fn on_trial(&self, mut io: Io, asker: Asker) {
        self.http.recorder.count(Event::DetectTimeout);
        let mut record = self.record(&asker);
        let mut opened = match self.open(&asker, &mut record).await {
            Ok(opened) => opened,
            Err(reason) => return end(io, record, reason),
        };
        // A busy peer's ClientHello may come late.
        let patience = Patience { mesh_tls: asker.peer.is_none(), ..Patience::UNDECLARED };
        let first = opened.first(&mut io, patience, &self.http.dialer.tls, pin!(self.until(&asker))).await;
        match first {
            Err(broken) => {
                opened.reset();
                end(io, record, broken.reason());
            }
            Ok(First::Client(spoken @ (Spoken::Http1 | Spoken::Http2 | Spoken::MeshTls))) => {
                self.http.recorder.count(Event::HttpAfterTrial);
                record.discard();
                drop(opened);
                // Boxed: few come here, and all would pay for its size.
                Box::pin(self.spoken(io, asker, spoken)).await;
            }
            Ok(First::Client(_) | First::Server { .. }) => self.carry(io, asker, opened, record).await,
        }
    }

    async fn opaque(&self, io: Io, asker: Asker) {
        let mut record = self.record(&asker);
        match self.open(&asker, &mut record).await {
            Ok(opened) => self.carry(io, asker, opened, record).await,
            Err(reason) => end(io, record, reason),
        }
    }

    /// Chapters 3 to 6 for bytes.
    async fn open(&self, asker: &Asker, record: &mut TcpRecord) -> Result<Opened, Reason> {
        let admitted = self.admit(asker, record)?;
        // Boxed: needed for a moment, while the connection may live for days.
        let opened = Box::pin(open(&admitted, asker.client, &self.http, record)).await;
        // Next to the application every failure to connect is the application's.
        opened.map_err(|reason| match reason {
            Reason::ConnectRefused | Reason::ConnectTimeout => Reason::AppConnect,
            other => other,
        })
    }

    fn admit(&self, asker: &Asker, record: &mut TcpRecord) -> Result<Admitted, Reason> {
        let configuration = self.http.discovery.inbound().ok_or(Reason::DiscoveryUnavailable)?;
        record.traffic.service = configuration.policies.service(asker.dst.port()).cloned();
        asker.admit(&configuration.policies, |policy, decided| record.judged(policy, verdict(decided)))
    }

    /// Whether bytes are let in as policy is now; counts nothing.
    fn judge(&self, asker: &Asker) -> Result<(), Reason> {
        let configuration = self.http.discovery.inbound().ok_or(Reason::DiscoveryUnavailable)?;
        asker.admit(&configuration.policies, |_, _| {}).map(drop)
    }

    async fn carry(&self, io: Io, asker: Asker, opened: Opened, record: TcpRecord) {
        let carried = async { carry(io, opened, &self.http.dialer.tls, pin!(self.until(&asker)), record).await };
        Box::pin(carried).await;
    }

    /// Resolves when bytes that were let in must not go on.
    async fn until(&self, asker: &Asker) -> Reason {
        // Each ends the connection; neither has anything to lose.
        tokio::select! {
            reason = self.ended(asker.anchor) => reason,
            reason = self.forbidden(asker) => reason,
        }
    }

    /// Resolves at the end of the drain, and when the peer's anchor is removed.
    async fn ended(&self, anchor: Option<AnchorId>) -> Reason {
        // As above.
        tokio::select! {
            () = self.drain.cut() => Reason::Draining,
            reason = distrusted(&self.http.dialer.tls, anchor) => reason,
        }
    }

    /// Resolves when policy no longer lets a connection be: it is judged again at each change, and at once, because
    /// policy may have changed while the application was connected to.
    async fn forbidden(&self, asker: &Asker) -> Reason {
        let mut changes = self.http.discovery.inbound_changes();
        loop {
            if let Err(reason) = self.judge(asker) {
                return reason;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn http1(&self, io: Io, asker: Asker) {
        let anchor = asker.anchor;
        let session = self.session(asker);
        // What is under way at the cut is lost; that is what a cut is.
        let ended = tokio::select! {
            ended = Box::pin(serve_http1(&self.http, io, &session)) => ended,
            () = self.cut(anchor, &session.farewell) => return,
        };
        if let Http1End::Tunnel { client, upstream } = ended {
            tunnel(client, upstream, pin!(self.ended(anchor))).await;
        }
    }

    async fn http2(&self, io: Io, asker: Asker) {
        let anchor = asker.anchor;
        let session = self.session(asker);
        let farewell = Rc::clone(&session.farewell);
        // As for HTTP/1.
        tokio::select! {
            () = Box::pin(serve_http2(&self.http, io, session)) => {}
            () = self.cut(anchor, &farewell) => {}
        }
    }

    /// Resolves when requests must not go on: at the end of the drain, and a farewell after the peer's anchor was removed.
    async fn cut(&self, anchor: Option<AnchorId>, farewell: &Farewell) {
        let distrusted = async {
            distrusted(&self.http.dialer.tls, anchor).await;
            farewell.say().await;
        };
        // Each ends the connection; neither has anything to lose.
        tokio::select! {
            () = self.drain.cut() => {}
            () = distrusted => {}
        }
    }

    fn session(&self, asker: Asker) -> Session {
        let Asker { client, dst, peer, anchor: _ } = asker;
        Session {
            client,
            dst,
            target: Target::Application(dst),
            gate: Gate::Inbound { peer },
            drain: self.drain.clone(),
            released: self.released.clone(),
            farewell: Rc::default(),
        }
    }

    fn record(&self, asker: &Asker) -> TcpRecord {
        let mut record = self.http.recorder.tcp(Direction::Inbound, asker.client, asker.dst);
        if let Some(peer) = &asker.peer {
            record.traffic.mtls = Mtls::Yes;
            record.traffic.source = self.http.discovery.peer_workload(asker.client.ip(), peer);
            record.traffic.peer = Some(peer.clone());
        }
        record
    }

    fn refuse(&self, io: Io, asker: &Asker, reason: Reason) {
        end(io, self.record(asker), reason);
    }

    /// Our configuration; right after a start its first word is waited for.
    async fn configuration(&self) -> Option<Arc<Configuration>> {
        if let Some(configuration) = self.http.discovery.inbound() {
            return Some(configuration);
        }
        timeout(CONFIGURATION_MAX, self.http.discovery.ready()).await.ok()?;
        self.http.discovery.inbound()
    }
}

/// Why a peer was not let in.
fn handshake_reason(error: &TlsError) -> Reason {
    match error {
        TlsError::Expired(_) | TlsError::IdentityMismatch { .. } | TlsError::Refused(_) => Reason::IdentityMismatch,
        TlsError::NotReady | TlsError::NoTime | TlsError::Config(_) => Reason::DiscoveryUnavailable,
        TlsError::Closed
        | TlsError::Incompatible(_)
        | TlsError::Io(_)
        | TlsError::NoAlpn
        | TlsError::NotTls(_)
        | TlsError::PeerRefused(_)
        | TlsError::Protocol(_) => Reason::TlsHandshake,
    }
}

fn verdict(decided: Decided) -> Verdict {
    match decided {
        Decided::Allow => Verdict::Allow,
        Decided::Audit => Verdict::Audit,
        Decided::Deny => Verdict::Deny,
    }
}
