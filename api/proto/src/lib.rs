//! The wires of Weft and what is believed of them.
//!
//! [`proxy`], [`identity`] and [`replica`] are generated from `api/proto/proto` by `cargo xtask gen`, checked in and never edited.
//! [`convert`] turns their messages into the words of `weft-model` and back: the one place that validates what came
//! over the wire. It is its own crate so that generated code is compiled once and linted nowhere else.

/// Discovery: what a proxy is told.
pub mod proxy {
    /// `weft.proxy.v1`, generated.
    #[allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::doc_markdown,
        clippy::missing_errors_doc,
        clippy::needless_pass_by_value,
        clippy::too_many_lines,
        clippy::trivially_copy_pass_by_ref,
        clippy::use_self,
        clippy::wildcard_imports,
        missing_docs,
        rustdoc::all,
        unreachable_pub,
        unused_qualifications,
        reason = "generated"
    )]
    pub mod v1 {
        include!("gen/weft.proxy.v1.rs");
    }
}

/// Identity: how a workload gets its certificate.
pub mod identity {
    /// `weft.identity.v1`, generated.
    #[allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::doc_markdown,
        clippy::missing_errors_doc,
        clippy::needless_pass_by_value,
        clippy::too_many_lines,
        clippy::trivially_copy_pass_by_ref,
        clippy::use_self,
        clippy::wildcard_imports,
        missing_docs,
        rustdoc::all,
        unreachable_pub,
        unused_qualifications,
        reason = "generated"
    )]
    pub mod v1 {
        include!("gen/weft.identity.v1.rs");
    }
}

/// What replicas of the control plane tell each other.
pub mod replica {
    /// `weft.replica.v1`, generated.
    #[allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::doc_markdown,
        clippy::missing_errors_doc,
        clippy::needless_pass_by_value,
        clippy::too_many_lines,
        clippy::trivially_copy_pass_by_ref,
        clippy::use_self,
        clippy::wildcard_imports,
        missing_docs,
        rustdoc::all,
        unreachable_pub,
        unused_qualifications,
        reason = "generated"
    )]
    pub mod v1 {
        include!("gen/weft.replica.v1.rs");
    }
}

// Messages to model and back, validated.
pub mod convert;

/// The largest message that either side of a Watch reads, in bytes: [`convert::bounds::ENDPOINTS_MAX`] endpoints with
/// the longest names that real clusters have (about 400 bytes each) fit into it.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Shows who asks and never the proof: a token in a log is a token lost.
mod redacted {
    use std::fmt;

    use crate::identity::v1::{CertifyRequest, certify_request::Proof};

    impl fmt::Debug for CertifyRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("CertifyRequest").field("identity", &self.identity).finish_non_exhaustive()
        }
    }

    impl fmt::Debug for Proof {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Self::ServiceAccountToken(_) => "ServiceAccountToken",
                Self::JoinToken(_) => "JoinToken",
                Self::CurrentCertificate(_) => "CurrentCertificate",
            })
        }
    }
}
