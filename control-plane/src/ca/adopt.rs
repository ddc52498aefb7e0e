//! How an issuer that somebody else made comes into force: by the same files and the same steps as one of our own.
//!
//! Under the anchor of the issuer in force it signs at once, since that anchor is what peers know. Under another one it is what
//! `begin_rotation` makes: a `next.pem`, which waits until the proxies know its anchor. The issuer that signs until then lies in
//! `issuer.pem`, key and all: whoever made it has overwritten it by now, and a restart in between must find it.

use std::path::Path;

use weft_tls::{AnchorId, TrustBundle};
use zeroize::Zeroizing;

use super::files::{Directory, Secrecy};
use super::{
    ANCHORS, Authority, CREATING, CaError, ISSUER, NEXT, NEXT_ANCHOR_KEY, Offer, Rotation, State, write_anchors,
    write_retiring,
};

/// What became of an issuer that somebody else made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It signs when the proxies know its anchor.
    Announced,
    /// It is known already, or is for the replica that writes to announce.
    Nothing,
    /// It signs from now on.
    Signs,
    /// Another rotation has to end first.
    Waits,
    /// The one that was announced before it is not wanted any more, and its anchor goes.
    Withdrawn,
}

impl Authority {
    /// Whether a directory has the files of an authority already.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn is_there(path: &Path) -> Result<bool, CaError> {
        is_made(&Directory::open(path)?)
    }

    /// Writes the files of an authority where there are none yet.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn create_from(path: &Path, offer: &Offer) -> Result<(), CaError> {
        let directory = Directory::open(path)?;
        directory.write(CREATING, b"", Secrecy::Public)?;
        write_anchors(&directory, &TrustBundle::from_der([&offer.anchor_der])?)?;
        directory.write(ISSUER, offer.issuer_pem.as_bytes(), Secrecy::Private)?;
        directory.remove(CREATING)
    }

    /// Takes an issuer that somebody else made, as far as it may be taken now. To be called every few seconds. Every replica may
    /// let it sign under the anchor in force; only the one that `leads` announces another anchor.
    ///
    /// # Errors
    /// A directory that cannot be written. Then nothing has changed, or the next call finishes it.
    pub fn adopt(&self, offer: &Offer, leads: bool, now_unix_s: u64) -> Result<Adopted, CaError> {
        let mut state = self.state();
        // What has expired signs nothing: neither is there anybody to wait for, nor anything that a replica could do but this.
        let is_over = state.signer.not_after_unix_s <= now_unix_s;
        let may_announce = leads || is_over;
        let adopted = match state.rotation {
            Rotation::Overlap { new, .. } if new == offer.anchor => {
                let next = self.directory.read(NEXT)?.map(Zeroizing::new);
                let is_known = next.is_some_and(|next| next.as_slice() == offer.next_pem().as_bytes());
                if may_announce && !is_known { self.announce(&mut state, offer, now_unix_s)? } else { Adopted::Nothing }
            }
            Rotation::Overlap { new, .. } if leads => self.withdraw(&mut state, new, now_unix_s)?,
            Rotation::Overlap { .. } => Adopted::Nothing,
            Rotation::Retiring { .. } | Rotation::Steady if state.signer.anchor == offer.anchor => {
                self.let_sign(&mut state, offer, now_unix_s)?
            }
            Rotation::Retiring { .. } => Adopted::Waits,
            Rotation::Steady if may_announce => self.announce(&mut state, offer, now_unix_s)?,
            Rotation::Steady => Adopted::Nothing,
        };
        if is_over && matches!(state.rotation, Rotation::Overlap { new, .. } if new == offer.anchor) {
            self.switch(&mut state, now_unix_s)?;
            return Ok(Adopted::Signs);
        }
        Ok(adopted)
    }

    /// The issuer is another one under the same anchor, or the anchor's certificate was issued again for the same key.
    fn let_sign(&self, state: &mut State, offer: &Offer, now_unix_s: u64) -> Result<Adopted, CaError> {
        let known = state.bundle.to_der();
        let anchors = TrustBundle::from_der(known.iter().map(Vec::as_slice).chain([offer.anchor_der.as_ref()]))?;
        let signs = self.directory.read(ISSUER)?.map(Zeroizing::new);
        // After a switch the file also has the anchor, behind the key.
        let is_known = signs.is_some_and(|pem| pem.starts_with(offer.issuer_pem.as_bytes()));
        if is_known && anchors == *state.bundle {
            return Ok(Adopted::Nothing);
        }
        write_anchors(&self.directory, &anchors)?;
        self.directory.write(ISSUER, offer.issuer_pem.as_bytes(), Secrecy::Private)?;
        self.replace(state, now_unix_s)?;
        Ok(Adopted::Signs)
    }

    fn announce(&self, state: &mut State, offer: &Offer, now_unix_s: u64) -> Result<Adopted, CaError> {
        // A key that is left over of a rotation of our own is no key of this anchor.
        self.directory.remove(NEXT_ANCHOR_KEY)?;
        self.directory.write(NEXT, offer.next_pem().as_bytes(), Secrecy::Private)?;
        self.replace(state, now_unix_s)?;
        Ok(Adopted::Announced)
    }

    /// The announced anchor goes as an old one does, after the life of a leaf: another replica may have signed with its issuer
    /// before it ended. `load` makes the second of these writes where a crash comes between them.
    fn withdraw(&self, state: &mut State, anchor: AnchorId, now_unix_s: u64) -> Result<Adopted, CaError> {
        write_retiring(&self.directory, anchor, self.leaves.gone_unix_s(now_unix_s))?;
        self.replace(state, now_unix_s)?;
        Ok(Adopted::Withdrawn)
    }
}

/// Whether an authority was made here, to the end.
pub(super) fn is_made(directory: &Directory) -> Result<bool, CaError> {
    let is_empty = directory.read(ANCHORS)?.is_none() && directory.read(ISSUER)?.is_none();
    Ok(!is_empty && directory.read(CREATING)?.is_none())
}

#[cfg(test)]
mod tests;
