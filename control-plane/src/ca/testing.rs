//! What cert-manager writes into a Secret, made here: an issuer in `tls.crt` with those above it, its key in `tls.key`, its anchor
//! in `ca.crt`.

use std::collections::BTreeMap;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use weft_model::SpiffeId;

use super::{Offer, OfferError};

pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) type Made = CertifiedIssuer<'static, KeyPair>;

/// The fields of a Secret.
pub(crate) type Fields = BTreeMap<&'static str, String>;

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

/// What a `Certificate` with `isCA: true` gives: no path length, and the usages that cert-manager has where none are named.
pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, NOW - 3600, NOW + 90 * 86_400);
    params
}

pub(crate) fn valid(params: &mut CertificateParams, from_unix_s: u64, to_unix_s: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from_unix_s);
    params.not_after = epoch + Duration::from_secs(to_unix_s);
}

pub(crate) fn anchor(name: &str) -> Made {
    Made::self_signed(params(name), key()).unwrap()
}

/// A Secret with another issuer under this anchor.
pub(crate) fn secret(anchor: &Made) -> Fields {
    secret_of(&Made::signed_by(params("weft issuer"), key(), anchor).unwrap(), &[], anchor)
}

/// A Secret with this issuer, those above it, and the anchor.
pub(crate) fn secret_of(issuer: &Made, above: &[&Made], anchor: &Made) -> Fields {
    let chain: String = above.iter().map(|it| it.pem()).collect();
    Fields::from([
        ("tls.crt", issuer.pem() + &chain),
        ("tls.key", issuer.key().serialize_pem()),
        ("ca.crt", anchor.pem()),
    ])
}

pub(crate) fn read(fields: &Fields) -> Result<Offer, OfferError> {
    Offer::read(|name| fields.get(name).map(String::as_bytes), &identity(), NOW)
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane".parse().unwrap()
}
