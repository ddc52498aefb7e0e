//! Secrets as cert-manager writes them, and every way in which one can be wrong.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints};

use super::*;
use crate::ca::testing::{Fields, Made, NOW, anchor, key as new_key, params, read, secret, secret_of, valid};

/// An error with its cause.
fn words(error: &OfferError) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

fn pem(label: &str, der: &[u8]) -> String {
    certificate_pem(der).replace("CERTIFICATE", label)
}

/// An issuer that differs from what it should be.
fn made(anchor: &Made, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Fields {
    let mut params = params("weft issuer");
    change(&mut params);
    secret_of(&Made::signed_by(params, new_key(), anchor).unwrap(), &[], anchor)
}

#[test]
fn every_kind_of_key_that_signs_is_taken() {
    let anchor = anchor("root");
    for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(kind).unwrap();
        let issuer = Made::signed_by(params("weft issuer"), key, &anchor).unwrap();
        read(&secret_of(&issuer, &[], &anchor)).unwrap();
    }
}

/// As Go writes a key in SEC 1, which is what cert-manager does unless told otherwise: with the curve's name within.
#[test]
fn a_key_in_sec_1_is_taken_as_the_same_in_pkcs_8() {
    let anchor = anchor("root");
    let p256: &[u8] = &[0xa0, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let p384: &[u8] = &[0xa0, 7, 6, 5, 0x2b, 0x81, 4, 0, 0x22];
    for (kind, name, start, parts) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, p256, 29, [2, 39, 109]),
        (&rcgen::PKCS_ECDSA_P384_SHA384, p384, 27, [3, 56, 158]),
    ] {
        let key = KeyPair::generate_for(kind).unwrap();
        let pkcs8 = key.serialize_der();
        let [head, private, end] = parts;
        let within = &pkcs8[start..start + end];
        let sec1 = der(0x30, &[&within[head..private], name, &within[private..]].concat());
        let issuer = Made::signed_by(params("weft issuer"), key, &anchor).unwrap();
        let mut fields = secret_of(&issuer, &[], &anchor);
        fields.insert("tls.key", pem("EC PRIVATE KEY", &sec1));
        let offer = read(&fields).unwrap();
        assert!(offer.issuer_pem.contains("-----BEGIN PRIVATE KEY-----"));
    }
}

#[test]
fn those_between_issuer_and_anchor_go_along_and_no_others() {
    let (root, stranger) = (anchor("root"), anchor("stranger"));
    let upper = Made::signed_by(params("upper"), new_key(), &root).unwrap();
    let lower = Made::signed_by(params("lower"), new_key(), &upper).unwrap();
    let issuer = Made::signed_by(params("weft issuer"), new_key(), &lower).unwrap();
    // In any order, and with what does not belong there.
    let offer = read(&secret_of(&issuer, &[&upper, &stranger, &root, &lower], &root)).unwrap();
    assert_eq!(*offer.issuer_pem, issuer.pem() + &lower.pem() + &upper.pem() + &issuer.key().serialize_pem());
    // cert-manager names the highest that it knows, where that is not a root.
    let offer = read(&secret_of(&issuer, &[&lower, &upper], &upper)).unwrap();
    assert_eq!(*offer.issuer_pem, issuer.pem() + &lower.pem() + &issuer.key().serialize_pem());
    assert_eq!(offer.anchor_der, *upper.der());
}

#[test]
fn an_anchor_may_be_its_own_issuer_and_several_may_be_named() {
    let (root, other) = (anchor("root"), anchor("other"));
    assert_eq!(read(&secret_of(&root, &[], &root)).unwrap().anchor_der, *root.der());
    let mut fields = secret(&root);
    fields.insert("ca.crt", other.pem() + &root.pem());
    assert_eq!(read(&fields).unwrap().anchor_der, *root.der());
}

#[test]
fn usages_and_constraints_that_do_not_hinder_are_fine() {
    let anchor = anchor("root");
    let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    read(&made(&anchor, |it| it.extended_key_usages = both)).unwrap();
    read(&made(&anchor, |it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))).unwrap();
    let dns = NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".to_owned())],
        excluded_subtrees: Vec::new(),
    };
    read(&made(&anchor, |it| it.name_constraints = Some(dns))).unwrap();
}

#[test]
fn what_is_wrong_with_the_certificate_is_said() {
    let root = anchor("root");
    let check = |part: &str, change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let said = words(&read(&made(&root, change)).err().unwrap());
        assert!(said.contains("tls.crt") && said.contains(part), "wanted {part:?}: {said}");
    };
    check("set isCA to true", &|it| it.is_ca = IsCa::NoCa);
    check("set isCA to true", &|it| it.is_ca = IsCa::ExplicitNoCa);
    check("usage cert sign", &|it| it.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    check("a certificate of tls.crt expired at", &|it| valid(it, NOW - 60, NOW - 1));
    check("valid only from", &|it| valid(it, NOW + 1, NOW + 60));
    check("client and server both", &|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let named = GeneralSubtree::DirectoryName(params("example").distinguished_name);
    let names = NameConstraints { permitted_subtrees: vec![named], excluded_subtrees: Vec::new() };
    check("no proxy would accept", &|it| it.name_constraints = Some(names.clone()));
}

#[test]
fn what_is_wrong_with_a_field_is_said() {
    let root = anchor("root");
    let other = secret(&anchor("other"));
    let junk = pem("PRIVATE KEY", b"junk");
    let check = |field: &'static str, value: &str, part: &str| {
        let mut fields = secret(&root);
        fields.insert(field, value.to_owned());
        let said = words(&read(&fields).err().unwrap());
        assert!(said.contains(part), "wanted {part:?}: {said}");
    };
    for field in ["tls.crt", "tls.key", "ca.crt"] {
        let mut fields = secret(&root);
        fields.remove(field);
        assert!(words(&read(&fields).err().unwrap()).starts_with(&format!("{field} is missing or empty")));
        check(field, "", &format!("{field} is missing or empty"));
    }
    check("tls.crt", "no PEM", "tls.crt is not the certificate of an authority");
    check("tls.crt", "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n", "tls.crt is not PEM");
    check("tls.crt", &pem("CERTIFICATE", b"junk"), "tls.crt is not the certificate of an authority");
    check("tls.crt", &other["tls.crt"], "tls.key is another key than tls.crt names");
    check("tls.key", &other["tls.key"], "tls.key is another key than tls.crt names");
    check("tls.key", "no PEM", "tls.key holds no private key in PEM: set privateKey.encoding to PKCS8");
    check("tls.key", &junk, "tls.key is not a key of P-256, P-384 or Ed25519");
    check("tls.key", &junk.replace("PRIVATE", "EC PRIVATE"), "tls.key is not a key of P-256");
    check("tls.key", &junk.replace("PRIVATE", "RSA PRIVATE"), "set privateKey.algorithm to ECDSA");
    check("ca.crt", "no PEM", "ca.crt holds no trust anchor");
    check("ca.crt", &other["ca.crt"], "no certificate of ca.crt signed the issuer in tls.crt");
    let leaf = made(&root, |it| it.is_ca = IsCa::NoCa);
    check("ca.crt", &leaf["tls.crt"], "ca.crt holds no trust anchor");
}

#[test]
fn what_is_wrong_above_the_issuer_is_said() {
    let mut past = params("root");
    valid(&mut past, NOW - 60, NOW - 1);
    let past = Made::self_signed(past, new_key()).unwrap();
    assert!(words(&read(&secret(&past)).err().unwrap()).starts_with("a certificate of ca.crt expired at"));

    let root = anchor("root");
    let mut narrow = params("upper");
    narrow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let upper = Made::signed_by(narrow, new_key(), &root).unwrap();
    let issuer = Made::signed_by(params("weft issuer"), new_key(), &upper).unwrap();
    let said = words(&read(&secret_of(&issuer, &[&upper], &root)).err().unwrap());
    assert!(said.contains("path length") && said.contains("no proxy would accept"), "{said}");

    let mut chain = vec![Made::signed_by(params("1"), new_key(), &root).unwrap()];
    for name in ["2", "3", "4"] {
        let next = Made::signed_by(params(name), new_key(), chain.last().unwrap()).unwrap();
        chain.push(next);
    }
    let (issuer, above) = chain.split_last().unwrap();
    let said = words(&read(&secret_of(issuer, &above.iter().collect::<Vec<_>>(), &root)).err().unwrap());
    assert!(said.contains("more than 4 certificates"), "{said}");
}

/// Made by OpenSSL, as rcgen has no word for it: what Go makes of two organizations. The key is in SEC 1.
#[test]
fn a_name_that_rcgen_cannot_write_is_refused() {
    let text = include_str!("two-organizations.pem");
    let (certificate, key) = text.split_at(text.find("-----BEGIN EC PRIVATE KEY-----").unwrap());
    let fields = [("tls.crt", certificate), ("tls.key", key), ("ca.crt", certificate)]
        .map(|(name, text)| (name, text.to_owned()));
    let said = words(&read(&Fields::from(fields)).err().unwrap());
    assert!(said.starts_with("a part of the subject of tls.crt has several values"), "{said}");
}
