use super::Reason;

#[test]
fn the_list_is_complete_sorted_and_documented() {
    let documented = include_str!("../../../docs/errors.md");
    for pair in Reason::ALL.windows(2) {
        assert!(pair[0].as_str() < pair[1].as_str(), "{} before {}", pair[0], pair[1]);
    }
    for reason in Reason::ALL {
        let row = format!("| `{reason}` | {} | {} |", reason.status().as_u16(), reason.grpc_code());
        assert!(documented.contains(&row), "docs/errors.md has no row {row}");
    }
}

const HTTP: &str = include_str!("../app/worker/tests/http.rs");
const DRAIN: &str = include_str!("../app/worker/tests/drain.rs");
const IDENTITY: &str = include_str!("../app/worker/tests/identity.rs");
const LIMITS: &str = include_str!("../app/worker/tests/limits.rs");
const OPAQUE: &str = include_str!("../app/worker/tests/opaque.rs");
const POLICY: &str = include_str!("../app/worker/tests/policy.rs");
const REFUSALS: &str = include_str!("../app/worker/tests/refusals.rs");

/// The test that makes a proxy say each reason, and asserts that it is counted.
const fn produced_by(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::AppConnect => (REFUSALS, "an_application_that_refuses_is_told_apart_from_the_network"),
        Reason::Authorization => (POLICY, "bytes_are_judged_by_who_sends_them"),
        Reason::BackendInvalid => (HTTP, "no_route_and_backend_invalid"),
        Reason::BackendTimeout => (HTTP, "request_timeout_and_backend_timeout"),
        Reason::BadRequest => (HTTP, "bad_request_and_headers_too_large"),
        Reason::ClientGone => (OPAQUE, "a_reset_passes_both_proxies_in_either_direction"),
        Reason::ConnectRefused => (REFUSALS, "an_endpoint_that_refuses_is_tried_elsewhere_and_then_told"),
        Reason::ConnectTimeout => (HTTP, "connect_timeout"),
        Reason::DiscoveryUnavailable => (REFUSALS, "a_destination_that_nobody_knows_is_refused_after_three_seconds"),
        Reason::Draining => (DRAIN, "the_cut_resets_bytes_and_workers_end"),
        Reason::Egress => (REFUSALS, "what_leaves_the_mesh_needs_leave"),
        Reason::HeadersTooLarge => (HTTP, "bad_request_and_headers_too_large"),
        Reason::IdentityMismatch => (IDENTITY, "a_peer_with_another_identity_gets_nothing"),
        Reason::Internal => (REFUSALS, "a_handshake_without_a_socket_is_an_error_of_ours"),
        Reason::Loop => (REFUSALS, "what_came_back_to_us_or_was_never_captured_is_refused"),
        Reason::NoEndpoints => (REFUSALS, "a_service_without_endpoints_is_waited_for_and_then_refused"),
        Reason::NoRoute => (HTTP, "no_route_and_backend_invalid"),
        Reason::NotHttp => (REFUSALS, "what_is_declared_http_and_is_not_is_refused_on_both_sides"),
        Reason::Overloaded => (LIMITS, "requests_at_once"),
        Reason::PathAmbiguous => (HTTP, "path_ambiguous"),
        Reason::PeerNotMeshed => (IDENTITY, "plaintext_is_never_tried_where_an_identity_is_named"),
        Reason::PlaintextRefused => (POLICY, "a_permissive_port_takes_plaintext_and_a_strict_one_does_not"),
        Reason::PortNotFound => (REFUSALS, "a_port_that_the_service_does_not_have_is_refused"),
        Reason::RequestTimeout => (HTTP, "request_timeout_and_backend_timeout"),
        Reason::TlsHandshake => (REFUSALS, "a_handshake_that_fails_is_counted"),
        Reason::UpstreamReset => (OPAQUE, "a_server_that_breaks_off_before_anybody_spoke_is_a_reset"),
    }
}

#[test]
fn every_reason_has_a_test_that_produces_it() {
    for reason in Reason::ALL {
        let (file, test) = produced_by(reason);
        let (_, rest) =
            file.split_once(&format!("async fn {test}()")).unwrap_or_else(|| panic!("{reason}: there is no {test}"));
        let body = rest.split("\n}\n").next().unwrap_or(rest);
        assert!(body.contains(&format!("\"{reason}\"")), "{reason}: {test} does not look for it");
    }
}
