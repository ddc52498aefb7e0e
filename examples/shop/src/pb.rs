//! What the shop says over gRPC: generated from `proto` by `cargo xtask gen`, checked in and never edited.

#![allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::doc_markdown,
    clippy::missing_errors_doc,
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    clippy::trivially_copy_pass_by_ref,
    clippy::use_self,
    clippy::wildcard_imports,
    dead_code,
    missing_docs,
    unnameable_types,
    rustdoc::all,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]

/// `grpc.health.v1`.
pub(crate) mod health {
    include!("gen/grpc.health.v1.rs");
}

/// `shop.payment.v1`.
pub(crate) mod payment {
    include!("gen/shop.payment.v1.rs");
}
