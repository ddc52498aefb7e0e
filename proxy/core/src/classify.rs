//! Whether a response means success or failure: the `class` label of metrics and what the breaker counts.
//!
//! `PERMISSION_DENIED` is not among the failures: it tells about the caller, not about the endpoint.

use http::StatusCode;

/// What a response says of the one who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The server failed.
    Failure,
    /// The server did its work, be it with a refusal.
    Success,
}

impl Class {
    /// The value of the `class` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Success => "success",
        }
    }

    /// Classifies a response by both statuses, the gRPC one where it has one.
    pub fn of(status: StatusCode, grpc_status: Option<u16>) -> Self {
        match grpc_status {
            Some(code) if !status.is_server_error() => Self::of_grpc(code),
            _ => Self::of_http(status),
        }
    }

    /// Classifies an HTTP status: 5xx is failure.
    pub fn of_http(status: StatusCode) -> Self {
        if status.is_server_error() { Self::Failure } else { Self::Success }
    }

    /// Classifies a gRPC status code: `DEADLINE_EXCEEDED`, `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS` are failures.
    pub const fn of_grpc(code: u16) -> Self {
        match code {
            4 | 13 | 14 | 15 => Self::Failure,
            _ => Self::Success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Class;
    use http::StatusCode;

    #[test]
    fn servers_fail_and_callers_err() {
        for (status, failure) in
            [(200, false), (302, false), (404, false), (429, false), (500, true), (503, true), (599, true)]
        {
            let class = Class::of(StatusCode::from_u16(status).unwrap(), None);
            assert_eq!(class == Class::Failure, failure, "{status}");
        }
        let failures: Vec<u16> =
            (0..=16).filter(|&code| Class::of(StatusCode::OK, Some(code)) == Class::Failure).collect();
        assert_eq!(failures, [4, 13, 14, 15]);
        assert_eq!(Class::of(StatusCode::BAD_GATEWAY, Some(0)), Class::Failure);
    }
}
