//! Why a message is refused, one variant per cause, with the status that a client gets for it.

use http::StatusCode;
use thiserror::Error;

/// Why a head is refused. The connection cannot be used again: where the next message begins is unknown.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HeadError {
    /// A CR that no LF follows (RFC 9112 §2.2).
    #[error("a carriage return stands alone")]
    BareCr,
    /// An LF that no CR precedes, where it would decide the end of a message: in a trailer section.
    #[error("a line feed stands alone")]
    BareLf,
    /// CONNECT with content (RFC 9110 §9.3.6): its bytes would be read as the tunnel's by some.
    #[error("a CONNECT request declares content")]
    ConnectWithContent,
    /// Several `Content-Length` fields that differ (RFC 9112 §6.3).
    #[error("content-length fields differ")]
    ContentLengthConflict,
    /// A `Content-Length` that is not digits only, or too large for 64 bits (RFC 9110 §8.6).
    #[error("content-length is not one decimal number")]
    ContentLengthInvalid,
    /// A request with both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.1).
    #[error("both content-length and transfer-encoding")]
    ContentLengthWithTransferEncoding,
    /// A control character in a field value (RFC 9110 §5.5).
    #[error("a control character in a field value")]
    ControlInValue,
    /// More than one empty line before the request line (RFC 9112 §2.2).
    #[error("empty lines before the request line")]
    EmptyLines,
    /// The head is larger than [`super::HEAD_BYTES_MAX`].
    #[error("the head is larger than {} bytes", super::HEAD_BYTES_MAX)]
    HeadTooLarge,
    /// A field name that is not a token, or a line without a colon (RFC 9112 §5.1).
    #[error("a field name is not a token")]
    HeaderNameInvalid,
    /// Two `Host` fields or more (RFC 9112 §3.2).
    #[error("more than one host field")]
    HostDuplicate,
    /// A `Host` that is no host with an optional port (RFC 9112 §3.2).
    #[error("host is not a host and port")]
    HostInvalid,
    /// The target names another authority than `Host` (RFC 9112 §3.2).
    #[error("host differs from the authority of the target")]
    HostMismatch,
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    #[error("no host field")]
    HostMissing,
    /// A method that is not a token, or too long (RFC 9110 §9.1).
    #[error("the method is not a token")]
    MethodInvalid,
    /// NUL anywhere in the fields (RFC 9110 §5.5).
    #[error("a NUL in the head")]
    Nul,
    /// A line that continues the line before it (RFC 9112 §5.2).
    #[error("a folded field line")]
    ObsFold,
    /// The request line is not method, target and version with one space between (RFC 9112 §3).
    #[error("the request line is malformed")]
    RequestLineInvalid,
    /// White space between field name and colon (RFC 9112 §5.1).
    #[error("white space before the colon of a field")]
    SpaceBeforeColon,
    /// The status line is malformed (RFC 9112 §4).
    #[error("the status line is malformed")]
    StatusLineInvalid,
    /// 101 to a request that did not ask for that protocol (RFC 9110 §7.8).
    #[error("protocols were switched without being asked")]
    SwitchUnasked,
    /// A form of target that this method does not take (RFC 9112 §3.2).
    #[error("this method does not take this form of target")]
    TargetForm,
    /// The target has characters that no URI has, a fragment, or user information (RFC 9112 §3.2).
    #[error("the request target is malformed")]
    TargetInvalid,
    /// The target is longer than [`super::TARGET_BYTES_MAX`].
    #[error("the request target is longer than {} bytes", super::TARGET_BYTES_MAX)]
    TargetTooLong,
    /// More fields than [`super::HEADERS_MAX`].
    #[error("more than {} fields", super::HEADERS_MAX)]
    TooManyHeaders,
    /// `Transfer-Encoding` in an HTTP/1.0 message (RFC 9112 §6.1).
    #[error("transfer-encoding in an HTTP/1.0 message")]
    TransferEncodingInHttp10,
    /// The last transfer coding is not `chunked`, so the length is unknown (RFC 9112 §6.3).
    #[error("transfer-encoding does not end in chunked")]
    TransferEncodingNotChunked,
    /// A transfer coding besides one `chunked`; we offer none to anybody (RFC 9112 §7).
    #[error("a transfer coding that is not supported")]
    TransferEncodingUnknown,
    /// Neither HTTP/1.0 nor HTTP/1.1; HTTP/0.9 too.
    #[error("the version of HTTP is not supported")]
    VersionUnsupported,
}

impl HeadError {
    /// The status a client gets for a request like this.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TransferEncodingUnknown => StatusCode::NOT_IMPLEMENTED,
            Self::VersionUnsupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Why a body cannot be read or written to its end.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BodyError {
    /// The bytes of a chunk are not followed by CRLF (RFC 9112 §7.1).
    #[error("a chunk does not end where its size says")]
    ChunkEndInvalid,
    /// A control character in a chunk extension; a lone CR or LF is read as a line end by some.
    #[error("a control character in a chunk extension")]
    ChunkExtensionInvalid,
    /// More extensions than [`super::CHUNK_EXTENSION_BYTES_MAX`] and the payload allow.
    #[error("chunk extensions are larger than the payload allows")]
    ChunkExtensionsTooLarge,
    /// A chunk size that is not hexadecimal digits (RFC 9112 §7.1).
    #[error("a chunk size is not hexadecimal")]
    ChunkSizeInvalid,
    /// A chunk size of more than 16 digits.
    #[error("a chunk size overflows")]
    ChunkSizeOverflow,
    /// The writer was given more bytes than the head declared, or bytes after the end.
    #[error("more bytes than the head declared")]
    Overrun,
    /// A trailer field is malformed.
    #[error("the trailer section is malformed")]
    TrailerInvalid(#[source] HeadError),
    /// The trailer section is larger than [`super::TRAILER_BYTES_MAX`] or has too many fields.
    #[error("the trailer section is too large")]
    TrailersTooLarge,
    /// The sender stopped before the end that it declared.
    #[error("the message ends before its declared end")]
    Truncated,
}

/// Why a message cannot cross between HTTP/1 and HTTP/2.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ConvertError {
    /// `:authority` is missing, has user information, or differs from `Host` (RFC 9113 §8.3.1).
    #[error("the authority is missing, malformed or named twice")]
    Authority,
    /// `content-length` is malformed, or says more than a message that has ended (RFC 9113 §8.1.1).
    #[error("content-length does not fit the message")]
    ContentLength,
    /// The message changes the connection (Upgrade, CONNECT, 101): HTTP/2 frames cannot say that here.
    #[error("an upgrade or tunnel does not cross versions")]
    Tunnel,
    /// The target has a form or a character that the other version cannot carry.
    #[error("the target cannot be carried")]
    Target,
}
