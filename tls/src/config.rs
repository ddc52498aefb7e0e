//! From a key, a chain and anchors to rustls configurations. A renewal or a rotation is a new `Published` value: what
//! handshakes began before it ends as it began, what comes later sees all of the new and nothing of the old.
//!
//! Resumption: tickets are made and remembered per published value. So they die with a renewal of our leaf, with a
//! change of the bundle, and at the other end with the renewal of the peer's leaf; none outlives either leaf, and a
//! renewed peer is never refused for the old leaf that a ticket restores.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::ProducesTickets;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{DnsName, ServerName, UnixTime};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_model::{EndpointAddr, SpiffeId, TrustDomain};

use crate::bundle::TrustBundle;
use crate::credentials::Credentials;
use crate::peer::AnchorWatch;
use crate::verify::{Clients, Servers, Verifier};

/// Endpoints whose tickets a proxy keeps, up to 8 tickets of some 2 KiB each: 128 × 16 KiB bounds it at 2 MiB.
const RESUMABLE_ENDPOINTS: usize = 128;

/// rustls counts its cache in tickets of which each server gets up to 8.
const TICKETS_PER_ENDPOINT: usize = 8;

/// What the control plane's port speaks.
const ALPN_CONTROL: &[u8] = b"h2";

/// What all of our ALPN names begin with.
const ALPN_PREFIX: &[u8] = b"weft/";

/// What is carried inside a connection between proxies, by the name of `design.md` §2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alpn {
    /// `weft/h2`: HTTP/2.
    H2,
    /// `weft/http1`: HTTP/1.1.
    Http1,
    /// `weft/tcp`: bytes.
    Tcp,
}

impl Alpn {
    /// Every one, in the server's order of preference: newest first. A client offers one kind, so the order only decides
    /// between versions of it, once there are several.
    pub const ALL: [Self; 3] = [Self::H2, Self::Http1, Self::Tcp];

    /// The name in the handshake.
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::H2 => b"weft/h2",
            Self::Http1 => b"weft/http1",
            Self::Tcp => b"weft/tcp",
        }
    }

    /// The one of this name.
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_bytes() == name)
    }

    /// Whether an ALPN name of a ClientHello is ours to terminate: any that begins with `weft/`, of whatever version.
    ///
    /// A newer client offers its newest name first and the ones of this version after it; the handshake settles on the
    /// first of [`Alpn::ALL`] that it offers. One that offers none of them is refused in the handshake with the alert
    /// `no_application_protocol` (rustls chooses only names that are configured), never passed on.
    pub fn is_mesh(name: &[u8]) -> bool {
        name.starts_with(ALPN_PREFIX)
    }
}

/// Our mutual TLS: current credentials and bundle, ready for handshakes. Cloning counts a reference; all clones see what
/// any of them publishes. One per process, so that workers share ticket keys and the session cache.
#[derive(Clone)]
pub struct MeshTls {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) time: Arc<dyn TimeProvider>,
    provider: Arc<CryptoProvider>,
    /// Makes "read the old, build, publish the new" one step. Held while configurations are built, never across an await.
    publishing: Mutex<()>,
    state: watch::Sender<State>,
    /// Only the bundle, so that a renewal of our leaf wakes no connection.
    bundles: watch::Sender<Option<Arc<TrustBundle>>>,
}

/// What handshakes are made from.
#[derive(Clone, Default)]
pub(crate) struct State {
    /// For first contact with the control plane, before there are credentials, and after.
    pub(crate) control: Option<Arc<ControlClient>>,
    pub(crate) mesh: Option<Arc<Published>>,
}

/// One generation of everything that needs our own credentials.
pub(crate) struct Published {
    pub(crate) credentials: Credentials,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) client: TlsConnector,
    pub(crate) server: TlsAcceptor,
    pub(crate) control_server: TlsAcceptor,
}

/// One generation of the connection to the control plane.
pub(crate) struct ControlClient {
    pub(crate) verifier: Arc<Verifier>,
    anonymous: TlsConnector,
    /// With our certificate, and until when that is worth showing.
    own: Option<(TlsConnector, UnixTime)>,
}

impl ControlClient {
    /// With our certificate as long as it is valid: an expired one would be refused where none is needed to ask for a new
    /// one with a token.
    pub(crate) fn client(&self, now: UnixTime) -> &TlsConnector {
        match &self.own {
            Some((client, not_after)) if now <= *not_after => client,
            _ => &self.anonymous,
        }
    }
}

/// *ring*, with the suite first that costs least: AES-128 takes ten rounds where AES-256 takes fourteen (FIPS 197 §5), and
/// SHA-256 has instructions of its own on today's processors where SHA-384 has none, which is a tenth of a resumed handshake.
fn provider() -> CryptoProvider {
    use rustls::crypto::ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        ..rustls::crypto::ring::default_provider()
    }
}

impl MeshTls {
    /// A mesh TLS that has nothing yet: every handshake fails with `NotReady` until something is published.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self::with_time(trust_domain, Arc::new(DefaultTimeProvider))
    }

    /// The same with another clock, by which certificates and tickets are judged.
    pub fn with_time(trust_domain: TrustDomain, time: Arc<dyn TimeProvider>) -> Self {
        let inner = Inner {
            trust_domain,
            time,
            provider: Arc::new(provider()),
            publishing: Mutex::default(),
            state: watch::Sender::default(),
            bundles: watch::Sender::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Puts new credentials and a new bundle in force, for handshakes from now on. Tickets made before are dropped.
    /// Publishing what is already in force changes nothing and drops no tickets.
    ///
    /// # Errors
    /// Credentials of another trust domain; what rustls refuses. What was in force stays.
    pub fn publish(&self, credentials: Credentials, bundle: TrustBundle) -> Result<(), ConfigError> {
        let _one_at_a_time = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace(Some(credentials), Some(bundle))
    }

    /// Puts a new bundle in force and keeps the credentials, if there are any.
    ///
    /// # Errors
    /// As [`MeshTls::publish`].
    pub fn publish_bundle(&self, bundle: TrustBundle) -> Result<(), ConfigError> {
        let _one_at_a_time = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace(None, Some(bundle))
    }

    /// Puts new credentials in force and keeps the bundle.
    ///
    /// # Errors
    /// As [`MeshTls::publish`]; there must be a bundle.
    pub fn publish_credentials(&self, credentials: Credentials) -> Result<(), ConfigError> {
        let _one_at_a_time = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace(Some(credentials), None)
    }

    /// The trust domain that peers must be of.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.inner.trust_domain
    }

    /// The credentials in force.
    pub fn credentials(&self) -> Option<Credentials> {
        self.inner.state.borrow().mesh.as_ref().map(|mesh| mesh.credentials.clone())
    }

    /// The bundle in force.
    pub fn bundle(&self) -> Option<Arc<TrustBundle>> {
        self.inner.bundles.borrow().clone()
    }

    /// Returns when there are credentials to make connections with.
    ///
    /// **Cancel:** loses nothing.
    pub async fn ready(&self) {
        let mut state = self.inner.state.subscribe();
        // The sender is in `self`, so it cannot be gone.
        drop(state.wait_for(|state| state.mesh.is_some()).await);
    }

    /// What tells a connection that its peer's anchor was removed.
    pub fn anchor_watch(&self) -> AnchorWatch {
        AnchorWatch { bundles: self.inner.bundles.subscribe() }
    }

    /// The clock's time; `None` never happens with a system clock, and refuses whatever asks.
    pub(crate) fn now(&self) -> Option<UnixTime> {
        self.inner.time.current_time()
    }

    pub(crate) fn state(&self) -> State {
        self.inner.state.borrow().clone()
    }

    /// With the lock `publishing` held.
    fn replace(&self, credentials: Option<Credentials>, bundle: Option<TrustBundle>) -> Result<(), ConfigError> {
        let old = self.state();
        let old_bundle = self.bundle();
        let old_credentials = old.mesh.as_ref().map(|mesh| &mesh.credentials);
        let same_bundle = bundle.as_ref().is_none_or(|new| old_bundle.as_deref() == Some(new));
        let same_credentials =
            credentials.as_ref().is_none_or(|new| old_credentials.is_some_and(|old| old.chain() == new.chain()));
        if same_bundle && same_credentials {
            return Ok(());
        }
        let bundle = if same_bundle { old_bundle } else { bundle.map(Arc::new) }.ok_or(ConfigError::NoBundle)?;
        let credentials = credentials.or_else(|| old_credentials.cloned());
        if let Some(new) = &credentials
            && new.id().trust_domain() != self.inner.trust_domain.as_str()
        {
            return Err(ConfigError::TrustDomain { id: new.id().clone(), ours: self.inner.trust_domain.clone() });
        }
        let verifier = Verifier::new(Arc::clone(&bundle), self.inner.trust_domain.clone(), &self.inner.provider);
        let state = Builder { inner: &self.inner, verifier: Arc::new(verifier) }.build(credentials)?;
        // Configurations first: whoever is woken by the bundle finds them in force.
        self.inner.state.send_replace(state);
        if !same_bundle {
            self.inner.bundles.send_replace(Some(bundle));
        }
        Ok(())
    }
}

impl fmt::Debug for MeshTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshTls")
            .field("trust_domain", &self.inner.trust_domain)
            .field("credentials", &self.credentials())
            .finish_non_exhaustive()
    }
}

/// Builds one generation.
struct Builder<'a> {
    inner: &'a Inner,
    verifier: Arc<Verifier>,
}

impl Builder<'_> {
    fn build(&self, credentials: Option<Credentials>) -> Result<State, ConfigError> {
        let key = credentials.as_ref().map(|own| Arc::new(SingleCertAndKey::from(own.certified_key())));
        let control = |key: Option<&Arc<SingleCertAndKey>>| {
            self.client(key, 1, vec![ALPN_CONTROL.to_vec()]).map(|config| TlsConnector::from(Arc::new(config)))
        };
        let own = match credentials.as_ref().zip(key.as_ref()) {
            None => None,
            Some((credentials, key)) => Some((control(Some(key))?, credentials.not_after())),
        };
        let control = ControlClient { verifier: Arc::clone(&self.verifier), anonymous: control(None)?, own };
        let mesh = match credentials.zip(key) {
            None => None,
            Some((credentials, key)) => Some(Arc::new(Published {
                client: TlsConnector::from(Arc::new(self.client(Some(&key), RESUMABLE_ENDPOINTS, Vec::new())?)),
                server: {
                    let names = Alpn::ALL.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
                    TlsAcceptor::from(Arc::new(self.server(&credentials, &key, true, names)?))
                },
                control_server: {
                    let names = vec![ALPN_CONTROL.to_vec()];
                    TlsAcceptor::from(Arc::new(self.server(&credentials, &key, false, names)?))
                },
                verifier: Arc::clone(&self.verifier),
                credentials,
            })),
        };
        Ok(State { control: Some(Arc::new(control)), mesh })
    }

    fn client(
        &self,
        key: Option<&Arc<SingleCertAndKey>>,
        resumable: usize,
        alpn_names: Vec<Vec<u8>>,
    ) -> Result<ClientConfig, ConfigError> {
        let builder =
            ClientConfig::builder_with_details(Arc::clone(&self.inner.provider), Arc::clone(&self.inner.time))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(ConfigError::Tls)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Servers(Arc::clone(&self.verifier))));
        let mut config = match key {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::<SingleCertAndKey>::clone(key)),
        };
        // The name is a key of ours for the session cache and nobody else's business.
        config.enable_sni = false;
        config.enable_early_data = false;
        config.alpn_protocols = alpn_names;
        let cache = ClientSessionMemoryCache::new(resumable * TICKETS_PER_ENDPOINT);
        config.resumption = Resumption::store(Arc::new(cache));
        Ok(config)
    }

    fn server(
        &self,
        credentials: &Credentials,
        key: &Arc<SingleCertAndKey>,
        client_certificate_mandatory: bool,
        alpn_names: Vec<Vec<u8>>,
    ) -> Result<ServerConfig, ConfigError> {
        let clients = Clients { verifier: Arc::clone(&self.verifier), mandatory: client_certificate_mandatory };
        let mut config =
            ServerConfig::builder_with_details(Arc::clone(&self.inner.provider), Arc::clone(&self.inner.time))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(ConfigError::Tls)?
                .with_client_cert_verifier(Arc::new(clients))
                .with_cert_resolver(Arc::<SingleCertAndKey>::clone(key));
        config.alpn_protocols = alpn_names;
        config.max_early_data_size = 0;
        // Each ticket carries the client's chain. One is enough: every connection uses one up and brings a new one.
        config.send_tls13_tickets = 1;
        config.ticketer = Arc::new(LeafTicketer {
            inner: rustls::crypto::ring::Ticketer::new().map_err(ConfigError::Tls)?,
            not_after: credentials.not_after(),
            time: Arc::clone(&self.inner.time),
        });
        Ok(config)
    }
}

/// Tickets that are said to live no longer than our own leaf. The keys are renewed by the inner one every 6 hours, and
/// die with the configuration at the next publication.
#[derive(Debug)]
struct LeafTicketer {
    inner: Arc<dyn ProducesTickets>,
    not_after: UnixTime,
    time: Arc<dyn TimeProvider>,
}

impl ProducesTickets for LeafTicketer {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        let now = self.time.current_time().map_or(u64::MAX, |now| now.as_secs());
        let left = u32::try_from(self.not_after.as_secs().saturating_sub(now)).unwrap_or(u32::MAX);
        self.inner.lifetime().min(left)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.inner.decrypt(cipher)
    }
}

/// The key under which rustls keeps tickets: the expected identity, and the endpoint's address where it is known, since
/// another process of the same identity cannot read the ticket. It has to look like a DNS name; it is never sent.
pub(crate) fn session_name(
    expected: &SpiffeId,
    endpoint: Option<EndpointAddr>,
) -> Result<ServerName<'static>, ConfigError> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(expected.as_str().as_bytes());
    if let Some(endpoint) = endpoint {
        // A NUL is in no identity, so no identity is the beginning of another's key.
        context.update(b"\0");
        context.update(endpoint.to_string().as_bytes());
    }
    let hash = context.finish();
    let mut name = String::with_capacity(64);
    for byte in hash.as_ref().iter().take(30) {
        name.push(char::from(b'a' + (byte >> 4)));
        name.push(char::from(b'a' + (byte & 15)));
    }
    DnsName::try_from(name).map(ServerName::DnsName).map_err(|_error| ConfigError::SessionName)
}

/// Why credentials and a bundle cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Credentials came before any bundle.
    #[error("there is no trust bundle yet")]
    NoBundle,
    /// A hash is not a DNS name: impossible by construction.
    #[error("the session cache's key is not usable")]
    SessionName,
    /// rustls refuses.
    #[error("the TLS library refuses the configuration")]
    Tls(#[source] rustls::Error),
    /// The credentials are of another trust domain.
    #[error("{id} is not of the trust domain {ours}")]
    TrustDomain {
        /// Whose credentials they are.
        id: SpiffeId,
        /// Our trust domain.
        ours: TrustDomain,
    },
}
