//! Ways in for the fuzz targets of `fuzz/`: parsers that stand behind a signature, a MAC or a directory, and that random
//! bytes would otherwise never reach. Nothing else calls them, and none of them decides anything.

use weft_index::ObjectKey;
use weft_model::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::ca::{self, CsrError};
use crate::source::yaml;
use crate::token::TokenKey;

/// A document of a file: the line it begins in, and its resource or the line of its fault.
pub type Document = (u64, Result<ObjectKey, u64>);

/// Reads every document of a file.
pub fn yaml(text: &str) -> Vec<Document> {
    let read = |document: yaml::Document| {
        (document.line, document.read.map(|object| object.key()).map_err(|error| error.line))
    };
    yaml::documents(text).into_iter().map(read).collect()
}

/// What [`ca::CheckedRequest::check`] says of a request's wishes, whoever signed it; `None` for what is no request.
pub fn csr_wishes(der: &[u8], identity: &SpiffeId) -> Option<Result<(), CsrError>> {
    let (_, csr) = X509CertificationRequest::from_der(der).ok()?;
    Some(ca::check_attributes(&csr.certification_request_info, identity))
}

/// Id, expiry, uses and identity of a join token.
pub type Join = (String, u64, u32, SpiffeId);

/// A join token with these claims, signed with a key that everybody knows.
pub fn join_token(claims: &str) -> String {
    TokenKey::known().sign(claims)
}

/// Reads a join token by that key.
pub fn read_join_token(token: &str) -> Option<Join> {
    let claims = TokenKey::known().read(token).ok()?;
    Some((claims.id, claims.expiry_unix_s, claims.uses, claims.identity))
}
