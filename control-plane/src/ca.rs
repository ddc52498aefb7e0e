//! The certificate authority: an issuer that signs workloads' certificates, the anchors that vouch for it, and their
//! replacement while everything runs. It proves nobody's identity: who may have which certificate is decided by
//! `crate::serve::identity`.
//!
//! Its directory:
//!
//! | file | what | |
//! |---|---|---|
//! | `anchors.pem` | the trust bundle | |
//! | `issuer.pem` | the issuer's certificate, those between it and its anchor, and its key, in one file so that one rename replaces all | 0600 |
//! | `anchor.key` | the key of the issuer's anchor; may lie elsewhere | 0600, optional |
//! | `next.pem` | during an overlap: the same of the next issuer, then the next anchor's certificate | 0600 |
//! | `next-anchor.key` | the next anchor's key; may lie elsewhere | 0600, optional |
//! | `retiring.json` | after a switch: which anchor goes, and when its last leaf has expired | |
//! | `leaves.json` | how long leaves live, remembered for the next start | |
//!
//! Invariant: each step of a rotation is a sequence of whole-file replacements, and `Authority::open` finishes a
//! sequence that a crash cut, so that at every moment the anchor of every unexpired leaf is in the bundle.
//!
//! The issuer may be somebody else's, such as cert-manager's: then none is made or replaced here, and each that is offered comes in
//! by the same files ([`Authority::adopt`]).

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rcgen::KeyPair;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use weft_model::{SpiffeId, TrustDomain};
use weft_tls::bundle::Anchor;
use weft_tls::{AnchorId, Credentials, TrustBundle};
use zeroize::Zeroizing;

mod adopt;
mod csr;
mod error;
pub(crate) mod files;
mod offer;
mod rotation;
mod signer;

pub use self::adopt::Adopted;
pub(crate) use self::csr::check_attributes;
pub use self::csr::{CheckedRequest, CsrError};
pub use self::error::{CaError, SignError};
pub use self::offer::{Offer, OfferError};
pub use self::rotation::{Acknowledgements, Rotation, Step};
pub use self::signer::Leaf;

use self::files::{Directory, Secrecy};
use self::signer::Signer;

const ANCHORS: &str = "anchors.pem";
const ISSUER: &str = "issuer.pem";
const ANCHOR_KEY: &str = "anchor.key";
const NEXT: &str = "next.pem";
const NEXT_ANCHOR_KEY: &str = "next-anchor.key";
const RETIRING: &str = "retiring.json";
/// There only while a new authority is written; the next start begins again instead of taking half of one.
const CREATING: &str = "creating";
const LEAVES: &str = "leaves.json";

/// How long certificates live.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose identities are signed.
    pub trust_domain: TrustDomain,
    /// A workload's certificate; 24 hours by default.
    pub leaf_life: Duration,
    /// An issuer that we make; a year by default.
    pub issuer_life: Duration,
    /// An anchor that we make; ten years by default.
    pub anchor_life: Duration,
    /// The Secret of the issuer, where somebody else makes it: then we make none.
    pub issuer_secret: Option<String>,
}

impl Settings {
    /// The defaults for a trust domain.
    pub fn new(trust_domain: TrustDomain) -> Self {
        let days = |n: u64| Duration::from_secs(n * 86_400);
        Self { trust_domain, leaf_life: days(1), issuer_life: days(365), anchor_life: days(3650), issuer_secret: None }
    }
}

/// The certificate authority. All of its work is short and synchronous; a few writes with a sync at each step of a
/// rotation, none to sign.
pub struct Authority {
    settings: Settings,
    directory: Directory,
    leaves: Leaves,
    /// Held for a signature or for a step's writes, never across an await.
    state: Mutex<State>,
    bundle: watch::Sender<Arc<TrustBundle>>,
}

/// What the directory says, read and checked.
struct State {
    signer: Signer,
    bundle: Arc<TrustBundle>,
    rotation: Rotation,
}

#[derive(Serialize, Deserialize)]
struct Retiring {
    anchor: String,
    leaves_gone_unix_s: u64,
}

/// What leaves may be about that this process did not sign.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Leaves {
    /// How long those live that are signed now.
    life_s: u64,
    /// When the last one has expired that was signed before, with whatever life was set then.
    earlier_gone_unix_s: u64,
}

impl Authority {
    /// Opens the directory, or makes an anchor and an issuer where it has neither and nobody else makes them.
    ///
    /// # Errors
    /// A directory that cannot be read or written, or whose files do not fit together; it is never overwritten then.
    pub fn open(path: &Path, settings: Settings, now_unix_s: u64) -> Result<Self, CaError> {
        let directory = Directory::open(path)?;
        if settings.issuer_secret.is_none() && !adopt::is_made(&directory)? {
            create(&directory, &settings, now_unix_s)?;
        }
        let state = load(&directory, now_unix_s)?;
        let leaves = remember_leaves(&directory, settings.leaf_life.as_secs(), now_unix_s)?;
        let bundle = watch::Sender::new(Arc::clone(&state.bundle));
        Ok(Self { settings, directory, leaves, state: Mutex::new(state), bundle })
    }

    /// Makes a certificate for `identity` from a request that was checked for it.
    ///
    /// # Errors
    /// An identity of another trust domain; an issuer that has expired.
    pub fn issue(&self, request: &CheckedRequest, identity: &SpiffeId, now_unix_s: u64) -> Result<Leaf, SignError> {
        self.leaf(&request.public_key, identity, now_unix_s)
    }

    /// Checks a request and makes a certificate for `identity`. Only the request's public key is taken (semantics 28).
    ///
    /// # Errors
    /// A request that is refused, and those of [`Authority::issue`].
    pub fn sign(&self, csr_der: &[u8], identity: &SpiffeId, now_unix_s: u64) -> Result<Leaf, SignError> {
        let request = CheckedRequest::check(csr_der, identity).map_err(SignError::Request)?;
        self.issue(&request, identity, now_unix_s)
    }

    /// Makes a key and a certificate for our own port; neither touches the disk.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn credentials(&self, identity: &SpiffeId, now_unix_s: u64) -> Result<Credentials, SignError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(SignError::Make)?;
        let leaf = self.leaf(&key, identity, now_unix_s)?;
        let chain = leaf.chain_der.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Credentials::from_der(chain, key).map_err(SignError::Credentials)
    }

    fn leaf(
        &self,
        public_key: &impl rcgen::PublicKeyData,
        identity: &SpiffeId,
        now_unix_s: u64,
    ) -> Result<Leaf, SignError> {
        if identity.trust_domain() != self.settings.trust_domain.as_str() {
            return Err(SignError::TrustDomain {
                identity: identity.clone(),
                ours: self.settings.trust_domain.clone(),
            });
        }
        self.state().signer.leaf(public_key, identity, now_unix_s, self.settings.leaf_life.as_secs())
    }

    /// The trust bundle in force.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.bundle.borrow())
    }

    /// Tells of each change of the bundle.
    pub fn subscribe(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    /// How far a rotation of the anchor is.
    pub fn rotation(&self) -> Rotation {
        self.state().rotation
    }

    /// The last second in which the issuer is valid: days to it are a metric, an alert and a failing check.
    pub fn issuer_not_after_unix_s(&self) -> u64 {
        self.state().signer.not_after_unix_s
    }

    /// From when on the issuer should have been replaced, whoever makes it: a sixth of its life is left.
    pub fn issuer_overdue_unix_s(&self) -> u64 {
        self.state().signer.overdue_unix_s()
    }

    /// Begins to replace the anchor and the issuer by new ones: from now on both anchors are in the bundle.
    ///
    /// # Errors
    /// A rotation that is not finished; an issuer that is somebody else's; a directory that cannot be written.
    pub fn begin_rotation(&self, now_unix_s: u64) -> Result<(), CaError> {
        self.check_ours()?;
        let mut state = self.state();
        if state.rotation != Rotation::Steady {
            return Err(CaError::RotationUnderWay);
        }
        let anchor = signer::new_anchor(now_unix_s, self.settings.anchor_life.as_secs())?;
        let issuer =
            signer::new_issuer(&anchor.certificate, &anchor.key_pem, now_unix_s, self.settings.issuer_life.as_secs())?;
        let next = Zeroizing::new(format!("{}{}", *issuer.pem(), anchor.certificate_pem));
        // The key first: without `next.pem` it means nothing, and `next.pem` without it would be an offline anchor.
        self.directory.write(NEXT_ANCHOR_KEY, anchor.key_pem.as_bytes(), Secrecy::Private)?;
        self.directory.write(NEXT, next.as_bytes(), Secrecy::Private)?;
        self.replace(&mut state, now_unix_s)
    }

    /// Replaces the issuer under the same anchor: at once, since the anchor is what peers know.
    ///
    /// # Errors
    /// A rotation that is not finished; an issuer that is somebody else's, or an anchor whose key is; a directory that cannot be
    /// written.
    pub fn renew_issuer(&self, now_unix_s: u64) -> Result<(), CaError> {
        self.check_ours()?;
        let mut state = self.state();
        self.renew_issuer_in(&mut state, now_unix_s)
    }

    fn check_ours(&self) -> Result<(), CaError> {
        match self.settings.issuer_secret.clone() {
            Some(secret) => Err(CaError::IssuerElsewhere { secret }),
            None => Ok(()),
        }
    }

    fn renew_issuer_in(&self, state: &mut State, now_unix_s: u64) -> Result<(), CaError> {
        if matches!(state.rotation, Rotation::Overlap { .. }) {
            return Err(CaError::RotationUnderWay);
        }
        let key = self.directory.read(ANCHOR_KEY)?.map(Zeroizing::new).ok_or(CaError::AnchorOffline)?;
        let key = std::str::from_utf8(&key).map_err(|_error| CaError::Pem(pem::Error::NoItemsFound))?;
        let anchor = state.bundle.anchors().iter().find(|anchor| anchor.id() == state.signer.anchor);
        let anchor = anchor.ok_or(CaError::NotAnchored)?.der();
        let issuer = signer::new_issuer(anchor, key, now_unix_s, self.settings.issuer_life.as_secs())?;
        self.directory.write(ISSUER, issuer.pem().as_bytes(), Secrecy::Private)?;
        self.replace(state, now_unix_s)
    }

    /// Makes the next step of a rotation if it may be made; renews an issuer of ours that nears its end where the anchor's key
    /// is here. To be called every few seconds and at each acknowledgement. Says what was done.
    ///
    /// # Errors
    /// A directory that cannot be written. Then nothing has changed, or the next call finishes it.
    pub fn advance(&self, acknowledgements: Acknowledgements, now_unix_s: u64) -> Result<Step, CaError> {
        let mut state = self.state();
        let step = state.rotation.step(acknowledgements, now_unix_s);
        match step {
            Step::Switch => self.switch(&mut state, now_unix_s)?,
            Step::Retire => self.retire(&mut state, now_unix_s)?,
            Step::Wait => {
                let due = state.rotation == Rotation::Steady && now_unix_s >= state.signer.due_unix_s();
                if due && self.check_ours().is_ok() && self.directory.read(ANCHOR_KEY)?.is_some() {
                    self.renew_issuer_in(&mut state, now_unix_s)?;
                }
            }
        }
        Ok(step)
    }

    /// Reads the directory again after somebody else changed it: a new issuer, more anchors, a `next.pem` that begins a
    /// rotation with an anchor whose key is elsewhere. What does not fit together is refused as a whole and what was in
    /// force stays.
    ///
    /// # Errors
    /// As [`Authority::open`]; also an anchor that is gone while leaves under it are still valid (to take it out at once
    /// all the same, remove `retiring.json` with it), and an issuer whose anchor was not in the bundle before.
    pub fn reload(&self, now_unix_s: u64) -> Result<(), CaError> {
        let mut state = self.state();
        let mut fresh = load(&self.directory, now_unix_s)?;
        let old = state.signer.anchor;
        if fresh.signer.anchor != old {
            match fresh.rotation {
                // A switch of ours, of which a write failed and now succeeded.
                Rotation::Retiring { old: retiring, .. } if retiring == old => {}
                Rotation::Overlap { .. } | Rotation::Retiring { .. } => return Err(CaError::RotationUnderWay),
                Rotation::Steady => {
                    if !state.bundle.contains(fresh.signer.anchor) {
                        return Err(CaError::NoOverlap);
                    }
                    if !fresh.bundle.contains(old) {
                        return Err(CaError::AnchorNeeded { until_unix_s: self.leaves.gone_unix_s(now_unix_s) });
                    }
                    // Somebody switched by hand: from here on it goes as after a switch of ours.
                    let leaves_gone_unix_s = self.leaves.gone_unix_s(now_unix_s);
                    write_retiring(&self.directory, old, leaves_gone_unix_s)?;
                    fresh.rotation = Rotation::Retiring { old, leaves_gone_unix_s };
                }
            }
        }
        self.take(&mut state, fresh);
        Ok(())
    }

    /// The new issuer signs from here on. The date of the old leaves' end is written first: whatever happens after it,
    /// the old anchor stays for long enough.
    fn switch(&self, state: &mut State, now_unix_s: u64) -> Result<(), CaError> {
        let Rotation::Overlap { old, .. } = state.rotation else { return Ok(()) };
        write_retiring(&self.directory, old, self.leaves.gone_unix_s(now_unix_s))?;
        self.replace(state, now_unix_s)
    }

    fn retire(&self, state: &mut State, now_unix_s: u64) -> Result<(), CaError> {
        let Rotation::Retiring { old, .. } = state.rotation else { return Ok(()) };
        let staying = state.bundle.anchors().iter().filter(|anchor| anchor.id() != old).map(Anchor::der);
        write_anchors(&self.directory, &TrustBundle::from_der(staying)?)?;
        self.replace(state, now_unix_s)
    }

    /// Reads what was just written, which also finishes the step.
    fn replace(&self, state: &mut State, now_unix_s: u64) -> Result<(), CaError> {
        let fresh = load(&self.directory, now_unix_s)?;
        self.take(state, fresh);
        Ok(())
    }

    fn take(&self, state: &mut State, fresh: State) {
        *state = fresh;
        self.bundle.send_if_modified(|bundle| {
            let changed = **bundle != *state.bundle;
            *bundle = Arc::clone(&state.bundle);
            changed
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leaves {
    /// When all leaves have expired that were signed until `now`.
    fn gone_unix_s(self, now_unix_s: u64) -> u64 {
        now_unix_s.saturating_add(self.life_s).max(self.earlier_gone_unix_s)
    }
}

fn create(directory: &Directory, settings: &Settings, now_unix_s: u64) -> Result<(), CaError> {
    let anchor = signer::new_anchor(now_unix_s, settings.anchor_life.as_secs())?;
    let issuer_life_s = settings.issuer_life.as_secs();
    let issuer = signer::new_issuer(&anchor.certificate, &anchor.key_pem, now_unix_s, issuer_life_s)?;
    directory.write(CREATING, b"", Secrecy::Public)?;
    directory.write(ANCHOR_KEY, anchor.key_pem.as_bytes(), Secrecy::Private)?;
    directory.write(ANCHORS, anchor.certificate_pem.as_bytes(), Secrecy::Public)?;
    directory.write(ISSUER, issuer.pem().as_bytes(), Secrecy::Private)?;
    directory.remove(CREATING)
}

/// Reads the directory, finishing what a crash left half done. Nothing is written before all that is there was checked.
fn load(directory: &Directory, now_unix_s: u64) -> Result<State, CaError> {
    let anchors = directory.read(ANCHORS)?.ok_or_else(|| CaError::Missing { path: directory.path(ANCHORS) })?;
    let bundle = TrustBundle::from_pem(&anchors)?;
    let issuer = directory.read(ISSUER)?.map(Zeroizing::new);
    let issuer = issuer.ok_or_else(|| CaError::Missing { path: directory.path(ISSUER) })?;
    let signer = Signer::from_pem(&issuer, &bundle)?;
    let retiring = read_retiring(directory)?;
    let Some(next_pem) = directory.read(NEXT)?.map(Zeroizing::new) else {
        let rotation = match retiring {
            None => Rotation::Steady,
            Some(retiring) => still_retiring(directory, &retiring, &bundle, now_unix_s)?,
        };
        return Ok(State { signer, bundle: Arc::new(bundle), rotation });
    };
    let next_anchor = next_anchor(&next_pem)?;
    let both = TrustBundle::from_der(bundle.to_der().iter().map(Vec::as_slice).chain([next_anchor.as_ref()]))?;
    let next = Signer::from_pem(&next_pem, &both)?;
    if both != bundle {
        write_anchors(directory, &both)?;
    }
    if let Some(retiring) = retiring {
        if retiring.anchor == next.anchor.to_string() {
            finish_withdrawal(directory)?;
        } else {
            finish_switch(directory, &next_pem, &next_anchor)?;
        }
        return load(directory, now_unix_s);
    }
    let rotation = Rotation::Overlap { old: signer.anchor, new: next.anchor };
    Ok(State { signer, bundle: Arc::new(both), rotation })
}

/// The second half of a switch: every write can be done again.
fn finish_switch(directory: &Directory, next_pem: &[u8], anchor: &CertificateDer<'_>) -> Result<(), CaError> {
    directory.write(ISSUER, next_pem, Secrecy::Private)?;
    let key = directory.read(NEXT_ANCHOR_KEY)?.map(Zeroizing::new);
    match key.filter(|key| signer::is_key_of(key, anchor)) {
        Some(key) => directory.write(ANCHOR_KEY, &key, Secrecy::Private)?,
        // The new anchor's key is elsewhere, and the old one's has nothing left to sign.
        None => directory.remove(ANCHOR_KEY)?,
    }
    directory.remove(NEXT)?;
    directory.remove(NEXT_ANCHOR_KEY)
}

/// The second half of a withdrawal: what was to come is what goes.
fn finish_withdrawal(directory: &Directory) -> Result<(), CaError> {
    directory.remove(NEXT)?;
    directory.remove(NEXT_ANCHOR_KEY)
}

fn still_retiring(
    directory: &Directory,
    retiring: &Retiring,
    bundle: &TrustBundle,
    now_unix_s: u64,
) -> Result<Rotation, CaError> {
    let leaves_gone_unix_s = retiring.leaves_gone_unix_s;
    let old = bundle.anchors().iter().map(Anchor::id).find(|id| id.to_string() == retiring.anchor);
    match old {
        Some(old) => Ok(Rotation::Retiring { old, leaves_gone_unix_s }),
        None if now_unix_s <= leaves_gone_unix_s => Err(CaError::AnchorNeeded { until_unix_s: leaves_gone_unix_s }),
        None => {
            directory.remove(RETIRING)?;
            Ok(Rotation::Steady)
        }
    }
}

/// `next.pem`: the issuer's certificate first, the anchor's last.
fn next_anchor(next_pem: &[u8]) -> Result<CertificateDer<'static>, CaError> {
    let certificates = CertificateDer::pem_slice_iter(next_pem).skip(1);
    certificates.last().ok_or(CaError::Pem(pem::Error::NoItemsFound))?.map_err(CaError::Pem)
}

fn write_anchors(directory: &Directory, bundle: &TrustBundle) -> Result<(), CaError> {
    directory.write(ANCHORS, bundle.to_pem().as_bytes(), Secrecy::Public)
}

fn write_retiring(directory: &Directory, old: AnchorId, leaves_gone_unix_s: u64) -> Result<(), CaError> {
    let retiring = Retiring { anchor: old.to_string(), leaves_gone_unix_s };
    let text =
        serde_json::to_vec(&retiring).map_err(|source| CaError::Json { path: directory.path(RETIRING), source })?;
    directory.write(RETIRING, &text, Secrecy::Public)
}

fn read_retiring(directory: &Directory) -> Result<Option<Retiring>, CaError> {
    let Some(text) = directory.read(RETIRING)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|source| CaError::Json { path: directory.path(RETIRING), source })
}

/// Notes how long our leaves will live, and keeps what the notes of earlier processes say.
fn remember_leaves(directory: &Directory, life_s: u64, now_unix_s: u64) -> Result<Leaves, CaError> {
    let json = |source| CaError::Json { path: directory.path(LEAVES), source };
    let earlier: Leaves = match directory.read(LEAVES)? {
        None => Leaves::default(),
        Some(text) => serde_json::from_slice(&text).map_err(json)?,
    };
    let leaves = Leaves { life_s, earlier_gone_unix_s: earlier.gone_unix_s(now_unix_s) };
    directory.write(LEAVES, &serde_json::to_vec(&leaves).map_err(json)?, Secrecy::Public)?;
    Ok(leaves)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
