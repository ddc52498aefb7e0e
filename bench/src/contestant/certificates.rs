//! Certificates for those who have no control plane: one authority, and one leaf that both sides use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

/// The name that the bare forwarder asks for.
const NAME: &str = "weft-bench";
/// What Envoy asks for.
pub(super) const IDENTITY: &str = "spiffe://cluster.local/ns/bench/sa/server";

/// PEM files.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) anchors: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Makes them. They are worth nothing outside of the world: anybody on the machine may read the key.
pub(super) fn write(directory: &Path) -> anyhow::Result<Files> {
    let mut authority = CertificateParams::default();
    // Two names: a leaf whose issuer has its own name is taken for self-signed.
    authority.distinguished_name.push(DnType::CommonName, "weft-bench authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority_key = KeyPair::generate()?;
    let anchor = authority.self_signed(&authority_key)?;
    let mut leaf = CertificateParams::new(vec![NAME.to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, NAME);
    leaf.subject_alt_names.push(SanType::URI(IDENTITY.try_into()?));
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, &Issuer::new(authority, authority_key))?;
    let write = |name: &str, pem: &str| {
        let path = directory.join(name);
        fs::write(&path, pem).with_context(|| format!("writing {}", path.display()))?;
        Ok::<_, anyhow::Error>(path)
    };
    Ok(Files {
        anchors: write("bench-anchors.pem", &anchor.pem())?,
        certificate: write("bench-certificate.pem", &certificate.pem())?,
        key: write("bench-key.pem", &key.serialize_pem())?,
    })
}
