//! The inbound story: what becomes of a connection to our application.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use weft_model::policy::MtlsMode;
use weft_model::{AppProtocol, ClientAddr, OriginalDst, SpiffeId};
use weft_runtime::drain::Drain;
use weft_tls::{Alpn, AnchorId, TlsError};

use crate::accept::Accepted;
use crate::admit::{self, Admitted, Asked, Decided};
use crate::connect::Handoff;
use crate::detect::{First, Patience, SILENCE, Spoken, detect, first_of};
use crate::discovery::Inbound as Configuration;
use crate::error::Reason;
use crate::forward::http::{Gate, Http, Http1End, Session, serve_http1, serve_http2};
use crate::forward::opaque::{Opened, carry, distrusted, open};
use crate::forward::tcp::copy;
use crate::io::Io;
use crate::record::{Direction, Event, Mtls, TcpRecord, Verdict};
use crate::route::{self, Target};

/// How long a TLS handshake with a client may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
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

impl Inbound {
    /// Serves one connection to its end.
    pub(crate) async fn serve(&self, accepted: Accepted) {
        let Accepted { io, client, dst, permit: _permit } = accepted;
        let asker = Asker { client, dst, peer: None, anchor: None };
        match self.configuration().await {
            Some(configuration) => self.speak(io, asker, &configuration).await,
            None => self.refuse(io, &asker, Reason::DiscoveryUnavailable),
        }
    }

    /// Serves what our own outbound story hands over in memory (semantics 5).
    pub(crate) async fn serve_own(&self, handoff: Handoff) {
        let Handoff { io, dst, alpn } = handoff;
        let asker = Asker { client: ClientAddr(dst.0), dst, peer: Some(self.own.clone()), anchor: None };
        self.meshed(io, asker, alpn).await;
    }

    /// Chapter 2 for a connection that may or may not come from a proxy.
    async fn speak(&self, io: Io, asker: Asker, configuration: &Configuration) {
        let port = asker.dst.port();
        let policies = &configuration.policies;
        // Who must speak first anyway is waited for: on a strict port a client sends a ClientHello, and HTTP has no
        // server that greets.
        let waits = policies.mtls(port) == MtlsMode::Strict || policies.protocol(port).is_http();
        let patience = Patience { silence: (!waits).then_some(SILENCE), mesh_tls: true };
        // Nobody is told about a connection that broke without a word.
        let Ok((io, spoken)) = detect(io, patience).await else { return };
        match spoken {
            Spoken::MeshTls => self.handshake(io, asker).await,
            Spoken::Silent => self.on_trial(io, asker).await,
            spoken => self.spoken(io, asker, spoken).await,
        }
    }

    /// Terminates mesh TLS; from then on the client is a verified peer.
    async fn handshake(&self, io: Io, asker: Asker) {
        let raw = match io.into_raw() {
            Ok(raw) => raw,
            Err(io) => return self.refuse(io, &asker, Reason::Internal),
        };
        match timeout(HANDSHAKE_MAX, self.http.dialer.tls.accept(raw)).await {
            Ok(Ok((tls, peer, alpn))) => {
                let asker = Asker { peer: Some(peer.id), anchor: Some(peer.anchor), ..asker };
                self.meshed(tls.into(), asker, alpn).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, client = %asker.client, "a handshake failed");
                self.record(&asker).finish(Err(handshake_reason(&error)));
            }
            Err(_slow) => self.record(&asker).finish(Err(Reason::TlsHandshake)),
        }
    }

    /// A verified peer: its ALPN says what is inside, and is believed only where no policy depends on it.
    async fn meshed(&self, io: Io, asker: Asker, alpn: Alpn) {
        let looked_into = self.http.discovery.inbound().is_none_or(|it| it.policies.needs_l7(asker.dst.port()));
        match alpn {
            Alpn::Http1 => self.http1(io, asker).await,
            Alpn::H2 => self.http2(io, asker).await,
            Alpn::Tcp if looked_into => {
                let patience = Patience { silence: Some(SILENCE), mesh_tls: false };
                let Ok((io, spoken)) = detect(io, patience).await else { return };
                self.spoken(io, asker, if spoken == Spoken::Silent { Spoken::Opaque } else { spoken }).await;
            }
            Alpn::Tcp => self.opaque(io, asker).await,
        }
    }

    async fn spoken(&self, io: Io, asker: Asker, spoken: Spoken) {
        let declared = self.http.discovery.inbound().map(|it| it.policies.protocol(asker.dst.port()));
        match spoken {
            Spoken::Ended => {}
            // Declared bytes are bytes, whatever they look like, unless a policy must look into them.
            Spoken::Http1 | Spoken::Http2
                if declared == Some(AppProtocol::Opaque) && !self.needs_l7(&asker) =>
            {
                self.opaque(io, asker).await;
            }
            Spoken::Http1 => self.http1(io, asker).await,
            Spoken::Http2 => self.http2(io, asker).await,
            Spoken::MeshTls | Spoken::Opaque | Spoken::Silent => {
                // The application's own TLS on an HTTP port is the application's business only where nothing is declared.
                match declared.is_some_and(AppProtocol::is_http) && asker.peer.is_none() {
                    true => self.refuse(io, &asker, Reason::NotHttp),
                    false => self.opaque(io, asker).await,
                }
            }
        }
    }

    fn needs_l7(&self, asker: &Asker) -> bool {
        self.http.discovery.inbound().is_none_or(|it| it.policies.needs_l7(asker.dst.port()))
    }

    /// An unmeshed client that says nothing: the application may be the one to greet (semantics 13).
    async fn on_trial(&self, io: Io, asker: Asker) {
        let mut record = self.record(&asker);
        let opened = match self.open(&asker, &mut record).await {
            Ok(opened) => opened,
            Err(reason) => return end(io, record, reason),
        };
        let (claim, upstream) = opened.split();
        let (io, upstream, first) = match first_of(io, upstream).await {
            Ok(first) => first,
            Err(_broken) => return record.finish(Err(Reason::ClientGone)),
        };
        match first {
            First::Client(spoken @ (Spoken::Http1 | Spoken::Http2)) => {
                self.http.recorder.count(Event::HttpAfterTrial);
                record.discard();
                drop((claim, upstream));
                self.spoken(io, asker, spoken).await;
            }
            First::Client(_) | First::Server { .. } => self.carry(io, asker, claim.with(upstream), record).await,
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
        let opened = open(&admitted, asker.client, &self.http.own, &self.http.dialer, record).await;
        // Next to the application every failure to connect is the application's.
        opened.map_err(|reason| match reason {
            Reason::ConnectRefused | Reason::ConnectTimeout => Reason::AppConnect,
            other => other,
        })
    }

    fn admit(&self, asker: &Asker, record: &mut TcpRecord) -> Result<Admitted, Reason> {
        let configuration = self.http.discovery.inbound().ok_or(Reason::DiscoveryUnavailable)?;
        let port = asker.dst.port();
        record.traffic.service = configuration.policies.service(port).cloned();
        let asked = Asked { port, peer: asker.peer.as_ref(), request: None };
        let routed = route::tcp(&Target::Application(asker.dst));
        let told = |policy: Option<&_>, decided| record.judged(policy, verdict(decided));
        admit::inbound(&configuration.policies, asked, routed, told).map_err(|refusal| refusal.reason)
    }

    async fn carry(&self, io: Io, asker: Asker, opened: Opened, record: TcpRecord) {
        let tls = &self.http.dialer.tls;
        let until = async {
            // Each ends the connection; none has anything to lose.
            tokio::select! {
                () = self.drain.cut() => {}
                () = distrusted(tls, asker.anchor) => {}
                () = self.forbidden(&asker) => {}
            }
        };
        carry(io, opened, tls, until, record).await;
    }

    /// Resolves when policy no longer lets a connection be: it is judged again at each change.
    async fn forbidden(&self, asker: &Asker) {
        let mut changes = self.http.discovery.inbound_changes();
        loop {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            let allowed = self.http.discovery.inbound().is_some_and(|configuration| {
                let asked = Asked { port: asker.dst.port(), peer: asker.peer.as_ref(), request: None };
                let routed = route::tcp(&Target::Application(asker.dst));
                admit::inbound(&configuration.policies, asked, routed, |_, _| {}).is_ok()
            });
            if !allowed {
                return;
            }
        }
    }

    async fn http1(&self, io: Io, asker: Asker) {
        let anchor = asker.anchor;
        let session = self.session(asker);
        let tls = &self.http.dialer.tls;
        // A connection whose peer is trusted no longer is cut where it stands (semantics 35).
        let ended = tokio::select! {
            ended = serve_http1(&self.http, io, &session) => ended,
            () = distrusted(tls, anchor) => Http1End::Closed,
        };
        if let Http1End::Tunnel { client, upstream } = ended {
            drop(copy(client, upstream, |_, _| {}, self.drain.cut()).await);
        }
    }

    async fn http2(&self, io: Io, asker: Asker) {
        let anchor = asker.anchor;
        let session = self.session(asker);
        // As for HTTP/1.
        tokio::select! {
            () = serve_http2(&self.http, io, session) => {}
            () = distrusted(&self.http.dialer.tls, anchor) => {}
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

/// A refusal of bytes is a reset: there is no other word for it.
fn end(io: Io, record: TcpRecord, reason: Reason) {
    io.reset();
    record.finish(Err(reason));
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
