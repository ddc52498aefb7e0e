//! Certificates of a cluster, read for what they say about each other and about time.

use x509_parser::pem::Pem;
use x509_parser::x509::X509Version;

/// The certificates of a PEM text, as DER.
pub(in crate::check) struct Certificates(Vec<Vec<u8>>);

impl Certificates {
    /// Reads them. `None`: there is none, or one makes no sense.
    pub(in crate::check) fn read(pem: &[u8]) -> Option<Self> {
        let blocks: Result<Vec<Pem>, _> = Pem::iter_from_buffer(pem).collect();
        let certificates: Vec<Vec<u8>> = blocks.ok()?.into_iter().map(|block| block.contents).collect();
        let are = certificates
            .iter()
            .all(|der| x509_parser::parse_x509_certificate(der).is_ok_and(|(_, it)| it.version() == X509Version::V3));
        (are && !certificates.is_empty()).then_some(Self(certificates))
    }

    pub(in crate::check) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one of the others signed the first one.
    pub(in crate::check) fn first_is_signed_by(&self, authorities: &Self) -> bool {
        let Some((_, leaf)) = self.0.first().and_then(|der| x509_parser::parse_x509_certificate(der).ok()) else {
            return false;
        };
        authorities.0.iter().any(|der| {
            x509_parser::parse_x509_certificate(der).is_ok_and(|(_, authority)| {
                leaf.issuer() == authority.subject() && leaf.verify_signature(Some(authority.public_key())).is_ok()
            })
        })
    }

    /// Days until the first of them expires; negative where one has.
    pub(in crate::check) fn days_left(&self, now_unix_s: u64) -> i64 {
        let now = i64::try_from(now_unix_s).unwrap_or(i64::MAX);
        let ends = self.0.iter().filter_map(|der| x509_parser::parse_x509_certificate(der).ok());
        let seconds = ends.map(|(_, it)| it.validity().not_after.timestamp() - now).min().unwrap_or(-1);
        seconds.div_euclid(24 * 3600)
    }
}

/// The bytes of a text in base64, as Secrets have them.
pub(in crate::check) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let quoted = serde_json::Value::from(text);
    serde_json::from_value::<k8s_openapi::ByteString>(quoted)
        .ok()
        .map(|bytes| bytes.0)
        .filter(|bytes| !bytes.is_empty())
}
