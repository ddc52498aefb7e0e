//! The closed set of reasons for which Weft itself ends a connection or answers a request, and the one mapping from a
//! reason to status, gRPC code and blame. Metric label, log, `weft-error` header and body all say the same word.
//! `docs/errors.md` explains each one to the operator; a test holds the two lists together.

#![warn(clippy::wildcard_enum_match_arm)]

use std::fmt;

use http::StatusCode;

/// Why Weft answered or ended something itself. [`Reason::as_str`] is API: dashboards and clients depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The application beside us refused the connection or could not be reached.
    AppConnect,
    /// Authorization refused; the verdict names the policy.
    Authorization,
    /// A backend reference of the route does not resolve.
    BackendInvalid,
    /// One attempt took longer than `timeouts.backendRequest`.
    BackendTimeout,
    /// The request is not valid HTTP.
    BadRequest,
    /// The client went away first.
    ClientGone,
    /// The endpoint refused the connection.
    ConnectRefused,
    /// The endpoint did not answer the connection attempt in time.
    ConnectTimeout,
    /// Discovery had no answer within its deadline.
    DiscoveryUnavailable,
    /// We are draining.
    Draining,
    /// The egress policy does not let this leave the mesh.
    Egress,
    /// The request's head is larger than the limit.
    HeadersTooLarge,
    /// The peer proved another identity than discovery named, or one we do not accept.
    IdentityMismatch,
    /// Something that must not happen did.
    Internal,
    /// The connection came back to us, or was never captured.
    Loop,
    /// The service has no endpoint that takes traffic.
    NoEndpoints,
    /// No rule of the attached routes matches.
    NoRoute,
    /// HTTP was declared or is needed by policy, and the bytes are something else.
    NotHttp,
    /// A limit on connections or requests is reached.
    Overloaded,
    /// The path can be read in more than one way and a path policy applies.
    PathAmbiguous,
    /// Discovery names an identity for the endpoint and it does not speak mesh TLS.
    PeerNotMeshed,
    /// Plaintext came to a port that takes only mesh TLS.
    PlaintextRefused,
    /// The Service has no such port.
    PortNotFound,
    /// The request took longer than `timeouts.request`.
    RequestTimeout,
    /// The TLS handshake with a client failed.
    TlsHandshake,
    /// The upstream broke the connection or its protocol before the response was complete.
    UpstreamReset,
}

/// Whose doing it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The one who asked.
    Client,
    /// The control plane.
    Control,
    /// Policy: it works as told.
    Policy,
    /// The one who was asked.
    Upstream,
    /// This proxy.
    Us,
}

impl Reason {
    /// Every reason, in the order of their names.
    pub const ALL: [Self; 26] = [
        Self::AppConnect,
        Self::Authorization,
        Self::BackendInvalid,
        Self::BackendTimeout,
        Self::BadRequest,
        Self::ClientGone,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::DiscoveryUnavailable,
        Self::Draining,
        Self::Egress,
        Self::HeadersTooLarge,
        Self::IdentityMismatch,
        Self::Internal,
        Self::Loop,
        Self::NoEndpoints,
        Self::NoRoute,
        Self::NotHttp,
        Self::Overloaded,
        Self::PathAmbiguous,
        Self::PeerNotMeshed,
        Self::PlaintextRefused,
        Self::PortNotFound,
        Self::RequestTimeout,
        Self::TlsHandshake,
        Self::UpstreamReset,
    ];

    /// The word that metrics, logs, headers and bodies use.
    pub const fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status of an answer that Weft makes for this reason.
    pub const fn status(self) -> StatusCode {
        self.facts().1
    }

    /// The gRPC status code of such an answer (gRPC's `doc/statuscodes.md`).
    pub const fn grpc_code(self) -> u8 {
        self.facts().2
    }

    /// Whose doing it was.
    pub const fn blame(self) -> Blame {
        self.facts().3
    }

    /// The one table. gRPC: 3 invalid argument, 4 deadline exceeded, 7 permission denied, 8 resource exhausted,
    /// 12 unimplemented, 13 internal, 14 unavailable.
    const fn facts(self) -> (&'static str, StatusCode, u8, Blame) {
        match self {
            Self::AppConnect => ("app-connect", StatusCode::SERVICE_UNAVAILABLE, 14, Blame::Upstream),
            Self::Authorization => ("authorization", StatusCode::FORBIDDEN, 7, Blame::Policy),
            Self::BackendInvalid => ("backend-invalid", StatusCode::INTERNAL_SERVER_ERROR, 14, Blame::Policy),
            Self::BackendTimeout => ("backend-timeout", StatusCode::GATEWAY_TIMEOUT, 4, Blame::Upstream),
            Self::BadRequest => ("bad-request", StatusCode::BAD_REQUEST, 13, Blame::Client),
            Self::ClientGone => ("client-gone", StatusCode::BAD_REQUEST, 1, Blame::Client),
            Self::ConnectRefused => ("connect-refused", StatusCode::SERVICE_UNAVAILABLE, 14, Blame::Upstream),
            Self::ConnectTimeout => ("connect-timeout", StatusCode::GATEWAY_TIMEOUT, 14, Blame::Upstream),
            Self::DiscoveryUnavailable => {
                ("discovery-unavailable", StatusCode::SERVICE_UNAVAILABLE, 14, Blame::Control)
            }
            Self::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE, 14, Blame::Us),
            Self::Egress => ("egress", StatusCode::FORBIDDEN, 7, Blame::Policy),
            Self::HeadersTooLarge => {
                ("headers-too-large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, 8, Blame::Client)
            }
            Self::IdentityMismatch => ("identity-mismatch", StatusCode::BAD_GATEWAY, 14, Blame::Upstream),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, 13, Blame::Us),
            Self::Loop => ("loop", StatusCode::LOOP_DETECTED, 14, Blame::Client),
            Self::NoEndpoints => ("no-endpoints", StatusCode::SERVICE_UNAVAILABLE, 14, Blame::Upstream),
            Self::NoRoute => ("no-route", StatusCode::NOT_FOUND, 12, Blame::Policy),
            Self::NotHttp => ("not-http", StatusCode::BAD_REQUEST, 13, Blame::Client),
            Self::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, 14, Blame::Us),
            Self::PathAmbiguous => ("path-ambiguous", StatusCode::BAD_REQUEST, 3, Blame::Client),
            Self::PeerNotMeshed => ("peer-not-meshed", StatusCode::BAD_GATEWAY, 14, Blame::Upstream),
            Self::PlaintextRefused => ("plaintext-refused", StatusCode::FORBIDDEN, 7, Blame::Policy),
            Self::PortNotFound => ("port-not-found", StatusCode::SERVICE_UNAVAILABLE, 14, Blame::Client),
            Self::RequestTimeout => ("request-timeout", StatusCode::GATEWAY_TIMEOUT, 4, Blame::Upstream),
            Self::TlsHandshake => ("tls-handshake", StatusCode::BAD_REQUEST, 14, Blame::Client),
            Self::UpstreamReset => ("upstream-reset", StatusCode::BAD_GATEWAY, 14, Blame::Upstream),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
