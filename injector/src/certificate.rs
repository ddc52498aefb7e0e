//! The webhook's own certificate: an authority and a leaf, kept in a Secret that all replicas share, made and renewed by whichever of
//! them finds that it is time, and the authority told to the API server (`caBundle`).
//!
//! It is not one of the mesh's: the API server knows no SPIFFE ids, and asks for a DNS name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use weft_runtime::clock::WallClock;
use weft_runtime::drain::Drain;

/// The Secret, in the injector's own namespace.
const NAME: &str = weft_model::kubernetes::INJECTOR_SECRET;
/// The `MutatingWebhookConfiguration`.
pub(crate) const CONFIGURATION: &str = "weft-injector";

/// How long a leaf lives, and how much of that is left when it is renewed: the kubelet's certificates live as long.
const LEAF_DAYS: u64 = 90;
const RENEW_DAYS: u64 = 30;
/// How long the authority lives. It is renewed with the leaf that would outlive it.
const AUTHORITY_DAYS: u64 = 3650;
const DAY_S: u64 = 24 * 3600;
/// Clocks of nodes differ.
const BACKDATE_S: u64 = 3600;
/// How often it is looked whether everything is as it should be.
const EVERY: Duration = Duration::from_secs(30);
/// How soon again where it was not possible.
const RETRY: Duration = Duration::from_secs(2);

/// The parts of the Secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Material {
    /// The authorities that the API server is to believe, PEM, the newest first.
    authorities: String,
    authority_key: String,
    chain: String,
    key: String,
}

/// Keeps the certificate.
pub(crate) struct Keeper {
    client: Client,
    namespace: String,
    /// The name that the API server asks for.
    dns_name: String,
    clock: WallClock,
    published: watch::Sender<Option<Arc<ServerConfig>>>,
    current: Option<Material>,
}

impl Keeper {
    /// A keeper, and what to serve with as soon as there is something.
    pub(crate) fn new(
        client: Client,
        namespace: String,
        service: &str,
        clock: WallClock,
    ) -> (Self, watch::Receiver<Option<Arc<ServerConfig>>>) {
        let (published, receiver) = watch::channel(None);
        let dns_name = format!("{service}.{namespace}.svc");
        (Self { client, namespace, dns_name, clock, published, current: None }, receiver)
    }

    /// Keeps it until the drain is over.
    pub(crate) async fn run(mut self, drain: Drain) {
        loop {
            let pause = match self.keep().await {
                Ok(()) => EVERY,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the webhook's certificate cannot be kept"
                    );
                    RETRY
                }
            };
            // Nothing is lost in either.
            tokio::select! {
                () = drain.cut() => return,
                () = sleep(pause) => {}
            }
        }
    }

    async fn keep(&mut self) -> Result<(), CertificateError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let now = self.clock.unix_seconds();
        let secret = api.get_opt(NAME).await?;
        // What is not what it should be is not believed any further.
        let found = secret.as_ref().and_then(Material::read).filter(|found| {
            let usable = found.verify(&self.dns_name, now);
            if let Err(error) = &usable {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "Secret {NAME} holds nothing to serve with");
            }
            usable.is_ok()
        });
        let material = match found {
            Some(material) if material.verify(&self.dns_name, now + RENEW_DAYS * DAY_S).is_ok() => material,
            old => {
                let material = Material::make(old.as_ref(), &self.dns_name, now)?;
                let version = secret.and_then(|secret| secret.metadata.resource_version);
                let written = material.secret(version.clone());
                // Where another replica was faster, its material is read the next time.
                match version {
                    Some(_) => api.replace(NAME, &PostParams::default(), &written).await?,
                    None => api.create(&PostParams::default(), &written).await?,
                };
                tracing::info!("a new certificate for the webhook was made");
                material
            }
        };
        // The API server first: it must believe what it is shown.
        self.tell(&material).await?;
        if self.current.as_ref() != Some(&material) {
            self.published.send_replace(Some(Arc::new(material.server_config()?)));
            self.current = Some(material);
        }
        Ok(())
    }

    /// Puts the authorities into the webhook's configuration, where they are not there yet.
    async fn tell(&self, material: &Material) -> Result<(), CertificateError> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let configuration = api.get(CONFIGURATION).await?;
        let bundle = ByteString(material.authorities.clone().into_bytes());
        let webhooks = configuration.webhooks.unwrap_or_default();
        let stale =
            webhooks.iter().enumerate().filter(|(_, hook)| hook.client_config.ca_bundle.as_ref() != Some(&bundle));
        let mut operations = Vec::new();
        for (i, hook) in stale {
            // Whoever changed the list meanwhile is not overwritten.
            operations.push(json!({"op": "test", "path": format!("/webhooks/{i}/name"), "value": hook.name}));
            operations
                .push(json!({"op": "add", "path": format!("/webhooks/{i}/clientConfig/caBundle"), "value": bundle}));
        }
        if operations.is_empty() {
            return Ok(());
        }
        let patch: json_patch::Patch = serde_json::from_value(json!(operations)).map_err(CertificateError::Patch)?;
        api.patch(CONFIGURATION, &PatchParams::default(), &Patch::Json::<()>(patch)).await?;
        tracing::info!("the API server was told the webhook's authority");
        Ok(())
    }
}

impl Material {
    fn read(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |name: &str| String::from_utf8(data.get(name)?.0.clone()).ok();
        Some(Self {
            authorities: text("ca.crt")?,
            authority_key: text("ca.key")?,
            chain: text("tls.crt")?,
            key: text("tls.key")?,
        })
    }

    fn secret(&self, version: Option<String>) -> Secret {
        let data = [
            ("ca.crt", self.authorities.clone()),
            ("ca.key", self.authority_key.clone()),
            ("tls.crt", self.chain.clone()),
            ("tls.key", self.key.clone()),
        ];
        let data: BTreeMap<String, ByteString> =
            data.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).collect();
        Secret {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), resource_version: version, ..ObjectMeta::default() },
            data: Some(data),
            type_: Some("kubernetes.io/tls".to_owned()),
            ..Secret::default()
        }
    }

    /// Whether the API server, which is told of these authorities alone, would take this leaf for the name at that time; and whether its
    /// key is there.
    fn verify(&self, dns_name: &str, at_unix_s: u64) -> Result<(), CertificateError> {
        let certificates = |pem: &str| {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            all.map_err(|_error| CertificateError::Pem)
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.authorities)? {
            roots.add(authority)?;
        }
        let chain = certificates(&self.chain)?;
        let (leaf, rest) = chain.split_first().ok_or(CertificateError::Pem)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        let name = ServerName::try_from(dns_name.to_owned()).map_err(|_error| CertificateError::Name)?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at_unix_s));
        verifier.verify_server_cert(leaf, rest, &name, &[], at)?;
        self.server_config().map(drop)
    }

    /// A new authority and a new leaf. The old authority stays believed, for replicas that still show its leaf.
    fn make(old: Option<&Self>, dns_name: &str, now_unix_s: u64) -> Result<Self, CertificateError> {
        let authority_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Weft injector");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        date(&mut params, now_unix_s, AUTHORITY_DAYS);
        let authority = params.self_signed(&authority_key)?;
        let issuer = Issuer::from_params(&params, &authority_key);

        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut leaf = CertificateParams::new(vec![dns_name.to_owned()])?;
        leaf.distinguished_name = name(dns_name);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        date(&mut leaf, now_unix_s, LEAF_DAYS);
        let leaf = leaf.signed_by(&key, &issuer)?;
        let previous = old.map(|old| first_certificate(&old.authorities)).unwrap_or_default();
        Ok(Self {
            authorities: format!("{}{previous}", authority.pem()),
            authority_key: authority_key.serialize_pem(),
            chain: leaf.pem(),
            key: key.serialize_pem(),
        })
    }

    fn server_config(&self) -> Result<ServerConfig, CertificateError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect();
        let chain = chain.map_err(|_error| CertificateError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_error| CertificateError::Pem)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))?;
        Ok(config)
    }
}

fn name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// Sets from when and until when.
fn date(params: &mut CertificateParams, now_unix_s: u64, days: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now_unix_s.saturating_sub(BACKDATE_S));
    params.not_after = epoch + Duration::from_secs(now_unix_s + days * DAY_S);
}

fn first_certificate(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    pem.find(END).and_then(|at| pem.get(..at + END.len())).unwrap_or_default()
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// The API server.
    #[error("the API server refuses")]
    Api(#[from] Box<kube::Error>),
    /// It cannot be made.
    #[error("it cannot be made")]
    Make(#[from] rcgen::Error),
    /// It cannot be put into words.
    #[error("the patch of the webhook's configuration cannot be made")]
    Patch(#[source] serde_json::Error),
    /// The name that the API server asks for is none.
    #[error("the name of the webhook's Service is no DNS name")]
    Name,
    /// What the Secret holds is none.
    #[error("the Secret {NAME} holds no certificate and key in PEM; delete it, and it is made anew")]
    Pem,
    /// It cannot be served with.
    #[error("it cannot be served with")]
    Tls(#[from] rustls::Error),
    /// There is nobody to believe.
    #[error("its authorities cannot be believed")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

impl From<kube::Error> for CertificateError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    const DNS: &str = "weft-injector.weft-system.svc";

    fn make(old: Option<&Material>) -> Material {
        Material::make(old, DNS, NOW).unwrap()
    }

    #[test]
    fn a_renewal_keeps_the_old_authority_believed_and_no_older_one() {
        let first = make(None);
        let second = make(Some(&first));
        let third = make(Some(&second));
        assert_eq!(second.authorities.matches("BEGIN CERTIFICATE").count(), 2);
        assert!(second.authorities.ends_with(&first.authorities));
        assert_eq!(third.authorities.matches("BEGIN CERTIFICATE").count(), 2);
        for material in [&first, &second, &third] {
            material.verify(DNS, NOW).unwrap();
        }
    }

    #[test]
    fn a_secret_holds_all_of_it() {
        let made = make(None);
        assert!(Material::read(&made.secret(None)) == Some(made.clone()));
        let mut broken = made.secret(None);
        broken.data.as_mut().unwrap().remove("tls.key");
        assert!(Material::read(&broken).is_none());
    }

    #[test]
    fn what_the_api_server_would_not_take_is_told_from_what_it_would() {
        let [one, other] = [(); 2].map(|()| make(None));
        let end = NOW + LEAF_DAYS * DAY_S;
        assert!(one.verify(DNS, NOW).is_ok() && one.verify(DNS, end - 1).is_ok());
        assert!(one.verify(DNS, end + 1).is_err(), "it has ended");
        assert!(one.verify("other.weft-system.svc", NOW).is_err(), "another name");
        let spoiled = || "spoiled".to_owned();
        for (what, material) in [
            ("no leaf", Material { chain: spoiled(), ..one.clone() }),
            ("no key", Material { key: spoiled(), ..one.clone() }),
            ("another's key", Material { key: other.key, ..one.clone() }),
            ("no authority", Material { authorities: spoiled(), ..one.clone() }),
            ("another authority", Material { authorities: other.authorities, ..one.clone() }),
        ] {
            assert!(material.verify(DNS, NOW).is_err(), "{what}");
        }
    }
}
